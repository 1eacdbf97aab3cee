"""A projection or prediction head: linear layers with an activation between.

SimCLR's (arXiv:2002.05709, section 4.2) has two layers and a ReLU.
"""

from typing import Literal

import flax.nnx as nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.config import errors
from big_contrastive.models import layers


class Mlp(nnx.Module):
  """Vectors [b, width] to [b, out_dim], float32.

  Args:
    width: of the input vectors.
    out_dim: width of the output vectors.
    hidden: width between layers; None for `width`.
    depth: number of linear layers, one or more.
    activation: between them.
    bias: whether the last layer has one.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    width: int,
    *,
    out_dim: int,
    hidden: int | None = None,
    depth: int = 2,
    activation: Literal["relu", "gelu_tanh", "gelu", "quick_gelu"] = "relu",
    bias: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rngs: nnx.Rngs,
  ):
    if depth < 1:
      allowed = "a whole number from 1 up"
      raise errors.UserError("depth", depth, allowed, "SimCLR has 2.")
    self.out_dim = out_dim
    self.depth = depth
    widths = [width, *[hidden or width] * (depth - 1), out_dim]
    for i, (inner, outer) in enumerate(zip(widths, widths[1:])):
      last = i == depth - 1
      linear = nnx.Linear(
        inner, outer, use_bias=bias or not last, dtype=dtype, rngs=rngs
      )
      setattr(self, f"fc{i + 1}", linear)
    self.activation = layers.ACTIVATIONS[activation]

  def __call__(self, x: Float[Array, "b w"]) -> Float[Array, "b d"]:
    for i in range(1, self.depth):
      x = self.activation(getattr(self, f"fc{i}")(x))
    return getattr(self, f"fc{self.depth}")(x).astype(jnp.float32)


head = Mlp
