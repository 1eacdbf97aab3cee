"""A block of a decoder: it sees the caption so far, and an image's tokens."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx

from big_contrastive.models import layers
from big_contrastive.models.attention import (
  Attention,
  KeysValues,
  Mask,
  Sequence,
)

Cross = Literal["attention", "block", "prefix"]
# The branches of a block: each adds to x what it makes of its norm.
_BRANCHES = {
  "attention": ("attention", "cross", "mlp"),
  "block": ("attention", "mlp", "cross", "cross_mlp"),
  "prefix": ("attention", "mlp"),
}


class Block(nnx.Module):
  """Self-attention, attention to an image's tokens, MLPs; pre-norm."""

  attention: Attention
  cross: Attention

  def __init__(
    self, width, mlp, heads, *, cross: Cross, memory, bias, activation, eps,
    dtype, rngs,
  ):  # fmt: skip
    self.branches = _BRANCHES[cross]

    def norm(width: int) -> nnx.LayerNorm:
      return nnx.LayerNorm(
        width, epsilon=eps, use_bias=bias, dtype=dtype, rngs=rngs
      )

    for name in self.branches:
      setattr(self, f"{name}_norm", norm(width))
      if "mlp" in name:
        branch = layers.Mlp(width, mlp, activation, dtype, rngs, bias=bias)
      else:
        of = memory if name == "cross" else width
        branch = Attention(width, heads, dtype, rngs, memory=of, bias=bias)
      setattr(self, name, branch)
    # OpenCLIP's, whose blocks for the image are whole ones.
    self.memory_norm = norm(memory) if cross == "block" else None

  def seen(self, memory: Sequence) -> KeysValues:
    """Returns the keys and values of an image's tokens."""
    if self.memory_norm is not None:
      memory = self.memory_norm(memory)
    return self.cross.keys_values(memory)

  def __call__(
    self,
    x: Sequence,
    attention: Callable[[Sequence], Sequence],
    known: KeysValues | None,
    mask: Mask,
    drop: Callable[[Sequence, int], Sequence] = lambda y, place: y,
  ) -> Sequence:
    """Returns the block's result.

    Args:
      x: the tokens.
      attention: normed tokens -> what self-attention makes of them.
      known: what `seen` returned; None where the image's tokens come first.
      mask: which of these are real.
      drop: (result of a branch, its place) -> what is left of it.
    """
    for place, name in enumerate(self.branches):
      y = getattr(self, f"{name}_norm")(x)
      if name == "attention":
        y = attention(y)
      elif name == "cross":
        y = self.cross.to(y, known, mask)
      else:
        y = getattr(self, name)(y)
      x = x + drop(y, place)
    return x
