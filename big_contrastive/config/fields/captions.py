"""Decoders of captions, and the objectives that teach them."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

_TILE = "Rows of logits that are alive at a time on a device. None: as many "
_TILE += "as 4 million logits are."
_SMOOTHING = "Of labels: that much of a target is spread over the vocabulary."
_WEIGH = 'Whether each "token" of the batch weighs the same, or each "caption".'
_CAPPA = "CapPa, arXiv:2306.07915"
_COCA = "CoCa, arXiv:2205.01917"
_BLIP = "BLIP, arXiv:2201.12086"


@dataclasses.dataclass(kw_only=True)
class Decoder:
  """The decoder: a caption's tokens so far, and an image's, to the next token.

  The defaults are those of Cap.
  """

  variant: str = field(doc='Size, such as "B"; see model.text.')
  inputs: Literal["ids", "text"] = field(
    "ids",
    doc='What it takes: the "ids" of tokens, or what the "text" tower makes of '
    "them; that is causal then, with pool = cls.",
    why="text is CoCa's.",
  )
  cross: Literal["attention", "block", "prefix"] = field(
    "attention",
    doc='How it sees the image: by an "attention" between self-attention and '
    'MLP, by a whole "block" after each block, or as a "prefix" of a caption.',
    why="CapPa has attention, OpenCLIP's CoCa block, OpenVision 2 prefix.",
  )
  positions: bool = field(
    True, doc="Whether tokens have learned positions, where inputs = ids.",
    why="OpenVision 2 has none.",
  )  # fmt: skip
  parallel: bool = field(
    False, doc="Whether there is a mask token, for objective.parallel.",
    paper=_CAPPA,
  )  # fmt: skip
  bias: bool = field(
    True, doc="Whether norms and linear layers of blocks have one.",
    why="CapPa's have none.",
  )  # fmt: skip
  logit_bias: bool = field(True, doc="Whether the logits have one.")
  embed_std: float = field(
    1.0, doc="Standard deviation of the initial token embeddings.",
    why="1 in CapPa, 0.02 in OpenVision 2.",
  )  # fmt: skip
  vocab_size: int | None = field(
    None,
    doc="Rows of the logits. None: the tokenizer's ids.", unit="rows",
    why="Set it to load published weights that have more rows.",
  )  # fmt: skip
  width: int | None = field(
    None, doc="Width of the tokens. None: the variant's, or the text tower's.",
    unit="features",
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
  eps: float = field(1e-6, doc="Added to the variance in layer norms.")
  activation: Literal["gelu_tanh", "gelu", "quick_gelu"] = field(
    "gelu_tanh", doc="Activation of the MLPs; see model.image.",
  )  # fmt: skip
  dropout: float = field(
    0.0, doc="Dropout rate on the output of attention and of MLPs.",
    unit="fraction",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Captions:
  """Cap, CapPa and OpenVision 2: the tokens of captions, given the image.

  The model has a decoder that takes ids.
  """

  parallel: float = field(
    0.0,
    doc="Share of captions whose tokens are all told at once, from the image "
    "alone. Above 0 the decoder has a mask token.",
    unit="fraction", why="0.75 in CapPa; 0 is Cap.", paper=_CAPPA,
  )  # fmt: skip
  keep: float = field(
    1.0,
    doc="Share of the image's tokens that the decoder sees in training, drawn "
    "anew for each example and step.",
    unit="fraction", why="0.35 in OpenVision 2.",
    paper="OpenVision 2, arXiv:2509.01644",
  )  # fmt: skip
  smoothing: float = field(0.0, doc=_SMOOTHING, unit="fraction")
  weigh: Literal["token", "caption"] = field(
    "token", doc=_WEIGH, why="caption in CapPa, token elsewhere.",
  )  # fmt: skip
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class CoCa:
  """CoCa: a pair loss, and the tokens of captions.

  The model has a text tower with pool = cls, and a decoder that takes its
  tokens.
  """

  loss: str = field("softmax", doc="The pair loss; see pairs.")
  contrastive: float = field(
    1.0, doc="Weight of the pair loss.", paper=_COCA,
  )  # fmt: skip
  caption: float = field(
    2.0, doc="Weight of the captions' loss.", paper=_COCA,
  )  # fmt: skip
  smoothing: float = field(0.0, doc=_SMOOTHING, unit="fraction")
  weigh: Literal["token", "caption"] = field("token", doc=_WEIGH)
  mask_ids: bool = field(
    True,
    doc="Whether pairs with the same id are not each other's negatives.",
  )
  scale_max: float | None = field(
    None, doc="Largest scale of the logits. None: no limit.",
    why="100 in OpenCLIP.",
  )  # fmt: skip
  tile: int | None = field(
    None, doc="Rows of logits that are alive at a time on a device, of either "
    "loss. None: the default of each.", unit="rows",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class BLIP:
  """BLIP: ITC with a teacher and a queue, ITM with hard negatives, LM.

  The text tower is "blip".
  """

  queue: int = field(
    57_600,
    doc="Vectors of images, and of texts, of batches before; a multiple of the "
    "batch. 0: none.", unit="pairs", paper=_BLIP,
  )  # fmt: skip
  momentum: float = field(
    0.995, doc="Of the teacher.", unit="fraction kept per step"
  )
  alpha: float = field(
    0.4, doc="Share of the teacher's targets, at the end of the ramp.",
    unit="fraction",
  )  # fmt: skip
  ramp: float = field(
    0.1, doc="Share of the run in which it rises from 0.", unit="fraction",
    why="2 of 20 epochs in BLIP.",
  )  # fmt: skip
  same: bool = field(
    False,
    doc="Whether pairs with the same id are each other's positives, and no "
    "negatives.",
    why="BLIP has it for fine-tuning on retrieval, with several captions of an "
    "image.",
  )
  eps: float = field(
    1e-4, doc="Added to the probability of each hard negative.",
    why="0 for fine-tuning on retrieval.",
  )  # fmt: skip
  caption: float = field(
    1.0, doc="Weight of LM, the captions' loss. 0: no decoder is needed.",
    why="0 for fine-tuning on retrieval.",
  )  # fmt: skip
  smoothing: float = field(0.1, doc=_SMOOTHING, unit="fraction")
  scale_min: float = field(2.0, doc="Smallest scale of the logits.")
  scale_max: float = field(
    1000.0, doc="Largest scale of the logits.",
    why="Temperatures of 0.5 to 0.001.",
  )  # fmt: skip
  tile: int | None = field(
    None, doc="Rows of logits that are alive at a time on a device, of any "
    "loss. None: the default of each.", unit="rows",
  )  # fmt: skip
