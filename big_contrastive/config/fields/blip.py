"""BLIP's text tower."""

import dataclasses

from big_contrastive.config.fields.field import field
from big_contrastive.config.fields.model import Activation

_BLIP = "BLIP, arXiv:2201.12086"


@dataclasses.dataclass(kw_only=True)
class Text:
  """BLIP's text tower: one BERT, used three ways.

  As an encoder of text; as an encoder that sees an image, and tells whether the
  two match; and as a decoder of captions. They share all but self-attention, of
  which the decoder has its own. The image tower has tokens, as ViTs do.
  """

  variant: str = field(doc='Size, such as "B"; see model.text.', paper=_BLIP)
  pad_id: int = field(
    doc="The tokenizer's padding, which no token attends to.",
    why="0 in BERT.",
  )
  encoder: bool = field(
    True, doc="Whether texts are encoded.",
    why="False in Hugging Face's captioning models.",
  )  # fmt: skip
  decoder: bool = field(
    True, doc="Whether captions are told.",
    why="False in Hugging Face's retrieval models.",
  )  # fmt: skip
  match: bool = field(
    True, doc="Whether an encoder tells if a text matches an image.",
  )  # fmt: skip
  out_dim: int | None = field(
    None,
    doc="Width of an encoder's last linear layer, with a bias; the image "
    "tower's embedding must have the same. None: no such layer.",
    why="256 in BLIP.",
  )
  enc_id: int | None = field(
    None,
    doc="The id that takes the place of a text's first token where the encoder "
    "sees an image. None: that token stays.",
    why="BLIP's is the second behind BERT's, 30523, with vocab_size = 30524.",
  )
  dec_id: int | None = field(
    None,
    doc="The id that takes the place of a caption's first token in the "
    "decoder. None: that token stays.",
    why="BLIP's is the first behind BERT's, 30522.",
  )
  eos_id: int | None = field(
    None, doc="The id of EOS, for files. None: the tokenizer's.",
  )  # fmt: skip
  vocab_size: int | None = field(
    None,
    doc="Rows of the token embedding, and logits. None: the tokenizer's ids.",
    unit="rows",
    why="BLIP has two more than BERT, for enc_id and dec_id.",
  )
  positions: int | None = field(
    None,
    doc="Rows of the table of positions. None: the tokenizer's length.",
    unit="rows",
    why="BERT has 512, of which BLIP's texts use 40.",
  )
  width: int | None = field(
    None, doc="Width of the tokens. None: the variant's.", unit="features",
  )  # fmt: skip
  depth: int | None = field(
    None, doc="Number of blocks. None: the variant's.", unit="blocks",
  )  # fmt: skip
  mlp: int | None = field(
    None, doc="Hidden width of the MLPs. None: the variant's.",
    unit="features",
  )  # fmt: skip
  heads: int | None = field(
    None, doc="Attention heads, a divisor of the width. None: the variant's.",
    unit="heads",
  )  # fmt: skip
  eps: float = field(
    1e-12, doc="Added to the variance in layer norms.", why="As in BERT.",
  )  # fmt: skip
  activation: Activation = field(
    "gelu", doc="Activation of the MLPs; see model.image.",
  )  # fmt: skip
  dropout: float = field(
    0.0, doc="Dropout rate on the output of attention and of MLPs.",
    unit="fraction", why="0.1 in BLIP.",
  )  # fmt: skip
