"""CPC: its objective, its tower over patches and the context on it."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class Patches:
  """Another tower over overlapping patches, whose mean is the image's vector.

  The side of a patch is 2 res / (grid + 1), and each is half a patch from the
  next.
  """

  res: int = field(
    doc="Side of an image, a multiple of grid + 1.", unit="pixels"
  )
  grid: int = field(
    7, doc="Patches in a row, and in a column.", unit="patches",
    why="7 for ImageNet and STL-10, 5 for CIFAR-10.",
    paper="CPC, arXiv:1807.03748",
  )  # fmt: skip
  drop_colors: float = field(
    0.0, doc="In training, the probability that a patch keeps only one of its "
    "three channels.", why="1 in CPC v2: colors are a short cut.",
    paper="CPC v2, arXiv:1905.09272",
  )  # fmt: skip
  jitter: int = field(
    0, doc="In training, pixels of a patch's side that are left out: a random "
    "square of the rest comes to its middle.", unit="pixels",
    why="4 of 64 in CPC.", paper="CPC, arXiv:1807.03748",
  )  # fmt: skip
  patch: dict = field(
    doc="The tower of a patch: `tower`, a file in models/image/, and its "
    "fields but res.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Context:
  """Contexts of a grid's vectors, and what they predict some rows below.

  A context sees its row and those above it.
  """

  steps: int = field(
    5, doc="How many rows are predicted, each by a matrix of its own.",
    unit="rows", why="As many as the grid has: 5 of 7 rows, 3 of 5.",
    paper="CPC, arXiv:1807.03748",
  )  # fmt: skip
  directions: Literal[1, 4] = field(
    1, doc="1, down; or 4, for the grid and its turns.", why="4 in CPC v2.",
    paper="CPC v2, arXiv:1905.09272",
  )  # fmt: skip
  depth: int = field(5, doc="Number of residual blocks.", unit="blocks")
  hidden: int = field(256, doc="Width inside a block.")


@dataclasses.dataclass(kw_only=True)
class CPC:
  """CPC: each patch's context finds the patches some rows below it.

  Among all patches of the global batch that are as many rows below something.
  The model has the image tower "patches" and the head "context".
  """

  temperature: float = field(
    1.0, doc="Of the logits, products of vectors of any length.",
  )  # fmt: skip
  skip: int = field(
    1, doc="Rows between a context and the first patches that it predicts.",
    unit="rows", why="With 0, these overlap those that it sees.",
  )  # fmt: skip
  tile: int | None = field(
    None,
    doc="Rows of logits that are alive at a time on a device. None: as many as "
    "take the memory of the vectors.",
    unit="rows",
  )
