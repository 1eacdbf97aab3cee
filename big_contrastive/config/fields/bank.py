"""The objectives with a memory bank, and the tower of CMC."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

_TILE = "Rows of logits that are alive at a time on a device, without draws. "
_TILE += "None: as many as take the memory of the embeddings."
_MOMENTUM = "What an update keeps of a row of the bank."
_LOSS = "The loss against rows of the bank: the softmax's cross entropy, or "
_LOSS += '"nce", noise-contrastive estimation, whose constant Z is that of the '
_LOSS += "first step."
_NEGATIVES = "Rows that are drawn for each image, uniformly and with "
_NEGATIVES += "replacement. None: all of the bank, which is exact."
_EXACT = "Draws spare work, not memory. nce needs some."


@dataclasses.dataclass(kw_only=True)
class InstDisc:
  """InstDisc: each image against a bank with a vector of every image.

  The model has the head "projector"; there is one view. The bank has a row for
  each record of the training data, of all sources of a mixture. It lies on the
  devices in parts, and in checkpoints.
  """

  temperature: float = field(
    0.07, doc="Of the logits.", why="0.07 for ImageNet, 0.1 for CIFAR-10.",
    paper="InstDisc, arXiv:1805.01978",
  )  # fmt: skip
  momentum: float = field(0.5, doc=_MOMENTUM, unit="fraction kept")
  loss: Literal["softmax", "nce"] = field("softmax", doc=_LOSS)
  negatives: int | None = field(
    None, doc=_NEGATIVES, unit="rows", why=f"{_EXACT} The paper has 4096.",
  )  # fmt: skip
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class CMC:
  """CMC: the lightness of an image against the color of all, and the reverse.

  The image tower is two_colors; there is one view, and no head.
  """

  temperature: float = field(
    0.07, doc="Of the logits.", paper="CMC, arXiv:1906.05849",
  )  # fmt: skip
  bank: bool = field(
    False,
    doc="Whether images are compared with a bank for each side, as InstDisc "
    "has one, and not with the batch.",
    why="The paper has banks, of a time of small batches.",
  )
  momentum: float = field(0.5, doc=_MOMENTUM, unit="fraction kept")
  loss: Literal["softmax", "nce"] = field("softmax", doc=_LOSS)
  negatives: int | None = field(
    None, doc=_NEGATIVES, unit="rows", why=f"{_EXACT} The code has 16384.",
  )  # fmt: skip
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class TwoColors:
  """Two towers, of an image's lightness and of its color, as in CMC.

  An embedding is those of both, side by side.
  """

  res: int = field(doc="Side of an image.", unit="pixels")
  each: dict = field(
    doc="Both towers: the fields of config.model.image for one that takes "
    "`in_channels`, convnet or resnet. mean and std have no effect.",
  )  # fmt: skip
  space: Literal["lab", "ycbcr", "ydbdr"] = field(
    "lab",
    doc="Of the colors: L, ab; Y, CbCr; or Y, DbDr.",
    paper="CMC, arXiv:1906.05849",
  )
