"""Prototypes: the directions of clusters, as in SwAV (arXiv:2006.09882)."""

from typing import Any, Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.config import errors
from big_contrastive.models.model import unit


class Prototypes(nnx.Module):
  """Unit vectors [..., width] to their cosines [..., count], float32.

  The columns of the kernel [width, count] are unit vectors, by `normalized`:
  at first, and after each update, where an objective sees to it. No gradient
  flows through that.

  Args:
    width: of the vectors.
    count: number of prototypes.
    dtype: has no effect: cosines of less than float32 would move SwAV's codes
      by some percent.
  """

  def __init__(
    self,
    width: int,
    *,
    count: int,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rngs: nnx.Rngs,
  ):
    if count < 2:
      allowed = "a whole number from 2 up"
      raise errors.UserError("count", count, allowed, "SwAV has 3000.")
    self.out_dim = count
    kernel = jax.random.normal(rngs.params(), (width, count))
    self.kernel = nnx.Param(_columns(kernel))

  def __call__(self, x: Float[Array, "*b w"]) -> Float[Array, "*b k"]:
    return jnp.matmul(
      x.astype(jnp.float32), self.kernel[...], precision="highest"
    )


def normalized(params: dict[str, Any]) -> dict[str, Any]:
  """Returns the head's parameters with prototypes of length 1."""
  return params | {"kernel": _columns(params["kernel"])}


def _columns(kernel: jax.Array) -> jax.Array:
  return unit(kernel.T).T


head = Prototypes
