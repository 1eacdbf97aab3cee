"""The model: named parts. Towers, a temperature and a bias, heads."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

Activation = Literal["gelu_tanh", "gelu", "quick_gelu"]

SIZES = "Ti, S, M, B, L, So400m, H, g, g-opt, G or G-opt; mu is for tests"
VARIANTS = "ViT, arXiv:2010.11929; Scaling ViT, arXiv:2106.04560"


@dataclasses.dataclass(kw_only=True)
class Model:
  """Named parts, of which only the image tower is always there.

  With a text tower both embed into one space, and the logit of a pair is
  scale * (image . text) + bias, of unit embeddings.
  """

  image: dict = field(doc="The image tower.")
  text: dict | None = field(
    None,
    doc="The text tower. None: images alone; then the config has no tokenizer.",
  )
  decoder: dict | None = field(
    None,
    doc="The decoder of captions. None: none.",
    why="For the objectives captions and coca.",
  )
  heads: dict | None = field(
    None,
    doc="Heads by a name of your choice, each a part of its own. None: none.",
  )
  scale: float | None = field(
    None,
    doc="Initial scale of the logits, exp(t), where t is learned. None: no "
    "temperature, for an objective that needs none.",
    why="10 in SigLIP, 1 / 0.07 in CLIP.",
    paper="CLIP, arXiv:2103.00020, section 2.5; SigLIP, section 3.2",
  )
  bias: float | Literal["auto"] | None = field(
    None,
    doc='Initial bias of the logits, b, which is learned; "auto" is '
    "-log(batch_size - 1): where cosines are 0, one text of the batch is "
    "expected for each image. None: no bias, as the softmax loss needs it.",
    why="SigLIP starts at -10, the auto of 22,027 pairs, so that the many "
    "negatives do not dominate the first steps; auto does so at any batch.",
    paper="SigLIP, arXiv:2303.15343, section 3.2",
  )
  dtype: Literal["float32", "bfloat16"] = field(
    "float32",
    doc="Compute dtype of both towers. Parameters, norm statistics, softmax "
    "and losses stay float32.",
    why="float32 is exact and fast enough for small runs; every large recipe "
    "sets bfloat16.",
  )
  remat: str | None = field(
    "dots_with_no_batch_dims_saveable",
    doc="What a block keeps for the backward pass: the name of a policy in "
    'jax.checkpoint_policies; "nothing_saveable" needs the least memory and '
    "one more forward pass. None: keep everything.",
    why="Keeps the outputs of linear layers and convolutions: a ViT-S/16 step "
    "needs a third of the memory for 3 % more FLOPs.",
  )
  attention: Literal["auto", "einsum", "cudnn"] = field(
    "auto",
    doc='How blocks compute attention: by "einsum", on any device; or by '
    '"cudnn", a kernel that keeps logits out of memory, on NVIDIA GPUs, in '
    "bfloat16, with heads of a multiple of 8 features up to 128. auto: by "
    "cudnn where it works.",
    why="Logits in memory are most of the bytes that attention moves. Models "
    "that are loaded have auto, whatever they were trained with.",
  )


@dataclasses.dataclass(kw_only=True)
class Text:
  """The text tower, a transformer over token ids.

  The defaults are SigLIP's. BERT is norm = "post", segments = 2, pad_id = 0,
  eps = 1e-12 and pool = "first".
  """

  variant: str = field(doc=f'Size, such as "B": {SIZES}.', paper=VARIANTS)
  out_dim: int | None = field(
    None,
    doc="Width of a last linear layer; the image tower's embedding must have "
    "the same. None: no such layer.",
  )
  out_bias: bool = field(
    True, doc="Whether that layer has a bias.", why="SigLIP has one, CLIP not.",
  )  # fmt: skip
  pool: Literal["last", "eos", "argmax", "first", "mean", "map", "cls"] = field(
    "last",
    doc='Which token is the embedding: the "last" (SigLIP), the first "eos" '
    '(CLIP), the "first" (BERT), "argmax" the first of the largest ids '
    '(OpenAI\'s CLIP, where that is EOS), or all: "mean", "map" attention '
    'with a learned query, or "cls", a learned token behind the text (CoCa).',
  )
  causal: bool = field(
    False,
    doc="Whether a token sees only those before it.",
    why="True in CLIP, False in SigLIP, LiT and FLIP.",
  )
  norm: Literal["pre", "post"] = field(
    "pre",
    doc='Layer norms of what enters attention and MLP ("pre"), or of the sums '
    'after them ("post", as in BERT).',
  )
  segments: int = field(
    0,
    doc="Rows of BERT's segment embedding, of which the first is added to "
    "every token. 0: none.",
    unit="rows",
    paper="BERT, arXiv:1810.04805",
  )
  pad_id: int | None = field(
    None,
    doc="The tokenizer's padding, which no token may then attend to. None: "
    "padding is attended to like any token.",
    why="SigLIP attends to padding, BERT does not.",
  )
  shifted_mask: bool = field(
    False,
    doc="Whether, with pool = cls, the mask of padding is one place late.",
    why="For the weights of CoCa that OpenCLIP published.",
  )
  eos_id: int | None = field(
    None,
    doc='The id of EOS for pool = "eos". None: the tokenizer\'s.',
  )
  vocab_size: int | None = field(
    None,
    doc="Rows of the token embedding. None: the tokenizer's ids.",
    unit="rows",
    why="Set it to load published weights that have more rows.",
  )
  positions: int | None = field(
    None,
    doc="Rows of the table of positions. None: the tokenizer's length.",
    unit="rows",
    why="BERT has 512, of which LiT's texts use 16.",
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
    1e-6, doc="Added to the variance in layer norms.",
    why="As in Flax and big_vision; CLIP has 1e-5, BERT 1e-12.",
  )  # fmt: skip
  activation: Activation = field(
    "gelu_tanh", doc="Activation of the MLPs; see model.image.",
  )  # fmt: skip
  dropout: float = field(
    0.0, doc="Dropout rate on the output of attention and of MLPs.",
    unit="fraction",
  )  # fmt: skip
