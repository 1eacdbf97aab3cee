"""MAE: its objective, its decoder and its pictures."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

_PAPER = "MAE, arXiv:2111.06377"
_MASK = (
  "The part of an image's patches that the tower does not see; it sees "
  "int(patches * (1 - mask))."
)


@dataclasses.dataclass(kw_only=True)
class MAE:
  """MAE: the pixels of the patches that are left out.

  The model has the head "decoder", a patch_decoder, and there is one view.
  """

  mask: float = field(0.75, doc=_MASK, paper=_PAPER)


@dataclasses.dataclass(kw_only=True)
class PatchDecoder:
  """Blocks over the tokens of a ViT and mask tokens, to pixels (MAE)."""

  width: int = field(512, doc="Of its tokens.", paper=_PAPER)
  depth: int = field(8, doc="Blocks.", unit="blocks", paper=_PAPER)
  heads: int = field(16, doc="Of attention.", paper=_PAPER)
  mlp: int | None = field(
    None, doc="Width of the blocks' hidden layer. None: 4 * width.",
  )  # fmt: skip
  normalize: bool = field(
    True,
    doc="Whether the target of a patch is its pixels less their mean over "
    "their standard deviation.",
    why="norm_pix of the official code: better features, paler pictures.",
    paper=_PAPER,
  )
  eps: float = field(1e-6, doc="Of the layer norms.")
  activation: Literal["gelu_tanh", "gelu", "quick_gelu"] = field(
    "gelu", doc="Of the blocks."
  )


@dataclasses.dataclass(kw_only=True)
class Reconstruction:
  """A picture of what is told of masked patches, and its error."""

  mask: float = field(0.75, doc=_MASK, paper=_PAPER)
  rows: int = field(8, doc="Rows of the picture.")
  columns: int = field(2, doc="Images in a row.")
  seed: int = field(0, doc="Of the choice of images, and of their patches.")
