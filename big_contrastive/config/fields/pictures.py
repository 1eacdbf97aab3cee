"""The evaluations that are pictures."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.evals import ON
from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class Gallery:
  """A picture of the texts that are nearest to images."""

  texts: Literal["captions", "classes"] = field(
    "captions",
    doc="The candidates: all captions of the source, or its class names.",
  )
  rows: int = field(8, doc="Rows of the grid.")
  columns: int = field(3, doc="Columns of the grid.")
  seed: int = field(0, doc="Of the choice of images.")


@dataclasses.dataclass(kw_only=True)
class Neighbors:
  """A picture of images and those that are nearest to them."""

  train: dict | str | None = field(
    None,
    doc="Where they are looked for, as in source. None, or the same data as "
    "source: among the source's own, but for the record itself.",
  )
  on: Literal["features", "embeddings"] = field("features", doc=ON)
  rows: int = field(8, doc="How many images.")
  k: int = field(6, doc="Neighbors of each.")
  seed: int = field(0, doc="Of the choice of images.")


@dataclasses.dataclass(kw_only=True)
class Attention:
  """A picture of what the class token attends to, by head of the last block."""

  rows: int = field(4, doc="How many images.")
  res: int | None = field(
    None,
    doc="Side of the squares that they are resized to, a multiple of the patch "
    "side. None: as the model's preprocessing makes them.",
    unit="pixels",
    why="480 in DINO: more patches than training saw, for finer maps.",
  )
  mass: float = field(
    0.6,
    doc="Share of the attention that has its place in the lower pictures.",
    unit="fraction",
    paper="DINO, arXiv:2104.14294, figure 3",
  )
  seed: int = field(0, doc="Of the choice of images.")
