"""Models: named parts, built from config.model by build.py.

The contracts of the files in image/, text/ and heads/.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax


class Features(NamedTuple):
  """A tower's features of its input, before the last linear layer.

  Attributes:
    tokens: [b, l, w], after the last norm; a class token is the first.
    pooled: [b, w], one vector per input; not normalized.
    mask: bool [b, l], True where a token is not padding; None for no padding.
  """

  tokens: jax.Array
  pooled: jax.Array
  mask: jax.Array | None = None


@runtime_checkable
class Tower(Protocol):
  """A tower: a file in models/image/ or models/text/ whose `tower` makes one.

  `tower(**fields, dtype=, remat=, pin=, rngs=)` is an nnx.Module; the fields
  are those of config.model.image or .text, checked by its signature. A text
  tower also takes `vocab_size` and `length`, the tokenizer's, and one that sees
  images `memory`, the width of their tokens. config.model.image.tower = NAME
  chooses it; "vit" and "transformer" are the defaults.

  Attributes:
    out_dim: width d of its vectors; None for a text tower that only decodes.
    takes: of an image tower, the shape of one input without channels: (h, w),
      or (patches, side, side) for NaFlex; (d,) if it takes vectors.
      Such a tower also has `unit`: whether its vectors have length 1 already.
  """

  out_dim: int | None
  takes: tuple[int, ...]

  def features(self, x: jax.Array, keys: Any = None) -> Features:
    """Returns tokens and pooled vectors of a batch.

    Args:
      x: uint8 images [b, *takes, 3], vectors [b, d] or token ids [b, l].
      keys: one per example, for randomness in training; None evaluates.
    """

  def __call__(self, x: jax.Array, keys: Any = None) -> jax.Array:
    """Returns vectors [b, out_dim], float32, not normalized."""

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one input, pooling left out."""


@runtime_checkable
class Head(Protocol):
  """A head: a file in models/heads/ whose `head` makes one.

  `head(width, **fields, dtype=, rngs=)` is an nnx.Module over vectors of that
  width. It is a part of the model: config.model.heads = {"predictor": {"name":
  "mlp", "on": "image", ...}} adds the part "predictor". A head with an argument
  `tower` in place of width gets the image tower, remat= and pin=: it is over
  tokens, and has a call of its own (patch_decoder.py).

  Attributes:
    out_dim: width of its vectors.
  """

  out_dim: int

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps vectors [..., width] to [..., out_dim]."""
