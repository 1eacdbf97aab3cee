"""The image tower of images that are embedded already: their vectors.

For a locked tower (LiT, arXiv:2111.07991) that was run once, by `embed`; see
data/sources/cached.py.
"""

import math

import flax.nnx as nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.models import Features
from big_contrastive.models.layers import ExampleKeys


class Vectors(nnx.Module):
  """Unit vectors to vectors: the same, or by a trained linear layer.

  Args:
    width: of the given vectors.
    linear: whether there is a linear layer.
    out_dim: of its result; None for the same width.
    dtype: compute dtype of the layer.
    remat, pin: as towers have them; unused.
    rngs: for the layer.
  """

  def __init__(
    self,
    width: int,
    *,
    linear: bool = False,
    out_dim: int | None = None,
    dtype="float32",
    remat="none",
    pin=lambda x: x,
    rngs: nnx.Rngs,
  ):
    if out_dim not in (None, width) and not linear:
      raise ValueError("out_dim", out_dim, f"{width}, the width", "Set linear.")
    self.takes, self.out_dim = (width,), out_dim or width
    self.unit = not linear
    if linear:
      self.project = nnx.Linear(
        width, self.out_dim, dtype=dtype, rngs=rngs,
        kernel_init=nnx.initializers.normal(1 / math.sqrt(width)),
      )  # fmt: skip

  def features(
    self, x: Float[Array, "b d"], keys: ExampleKeys = None
  ) -> Features:
    """Returns each vector as its only token, and as the pooled one."""
    del keys
    return Features(x[:, None], x)

  def __call__(
    self, x: Float[Array, "b d"], keys: ExampleKeys = None
  ) -> Float[Array, "b {self.out_dim}"]:
    """Returns the vectors, float32; of length 1 without the layer."""
    del keys
    x = x.astype(jnp.float32)
    return x if self.unit else self.project(x).astype(jnp.float32)

  def flops(self, train: bool) -> float:
    """Returns the FLOPs of the layer for one vector."""
    del train
    return 0.0 if self.unit else 2.0 * self.takes[0] * self.out_dim


tower = Vectors
