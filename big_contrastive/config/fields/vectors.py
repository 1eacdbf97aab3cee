"""The image tower vectors."""

import dataclasses

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class Vectors:
  """Images that are embedded already: the source is `cached`.

  Preprocessing is [("vectors", {"size": width})], in training and evaluation.
  """

  width: int = field(
    doc="Width of the vectors that the source has.", unit="features",
  )  # fmt: skip
  linear: bool = field(
    False,
    doc="Whether a linear layer follows, which is trained.",
    why="Without it the vectors stay as the locked tower made them (LiT).",
    paper="arXiv:2111.07991",
  )
  out_dim: int | None = field(
    None, doc="Width of the layer's result. None: that of the vectors.",
    unit="features",
  )  # fmt: skip
