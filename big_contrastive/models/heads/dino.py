"""The head of DINO (arXiv:2104.14294): an MLP, then unit prototypes."""

from typing import Literal

import flax.nnx as nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.models.heads.mlp import Mlp
from big_contrastive.models.model import unit


class Dino(nnx.Module):
  """Vectors [b, width] to logits [b, out_dim], float32.

  An MLP makes unit vectors of `bottleneck` features; the logits are their
  products with the prototypes: the columns of a linear layer's kernel, each
  divided by its norm (weight normalization, arXiv:1602.07868).

  Args:
    width: of the input vectors.
    out_dim: number of prototypes.
    hidden: width between the MLP's layers.
    bottleneck: width of the vectors that meet the prototypes.
    depth: linear layers of the MLP.
    norm: whether a batch norm follows each of them but the last.
    gain: whether prototypes have trained lengths, 1 at first; else they are 1.
    dtype: compute dtype of the MLP; parameters and products are float32.
  """

  def __init__(
    self,
    width: int,
    *,
    out_dim: int = 65_536,
    hidden: int = 2048,
    bottleneck: int = 256,
    depth: int = 3,
    norm: bool = False,
    gain: bool = False,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rngs: nnx.Rngs,
  ):
    self.out_dim, self.bottleneck = out_dim, bottleneck
    self.mlp = Mlp(
      width, out_dim=bottleneck, hidden=hidden, depth=depth, activation="gelu",
      init="trunc_normal", norm=norm, dtype=dtype, rngs=rngs,
    )  # fmt: skip
    # As torch draws it.
    init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    self.last = nnx.Linear(
      bottleneck, out_dim, use_bias=False, kernel_init=init, rngs=rngs
    )
    self.gain = nnx.Param(jnp.ones(out_dim)) if gain else None

  def vectors(self, x: Float[Array, "b w"]) -> Float[Array, "b d"]:
    """Returns the unit vectors that meet the prototypes, float32."""
    return unit(self.mlp(x))

  def prototypes(self) -> Float[Array, "d k"]:
    """Returns the prototypes, one a column, float32."""
    kernel = self.last.kernel[...]
    length = 1 if self.gain is None else self.gain[...][None]
    return kernel * (length / jnp.linalg.norm(kernel, axis=0, keepdims=True))

  def __call__(self, x: Float[Array, "b w"]) -> Float[Array, "b k"]:
    return jnp.matmul(self.vectors(x), self.prototypes(), precision="highest")


head = Dino
