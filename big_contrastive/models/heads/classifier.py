"""A linear classifier: CatLIP (arXiv:2404.15653), SuperClass (2411.03313)."""

from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.config import errors


class Classifier(nnx.Module):
  """Vectors [b, width] to logits [b, classes], float32.

  The kernel begins with zeros, so that the first logits are the bias.

  Args:
    width: of the input vectors.
    classes: how many.
    norm: whether a layer norm comes first, as in SuperClass.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    width: int,
    *,
    classes: int,
    norm: bool = False,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rngs: nnx.Rngs,
  ):
    if classes < 2:
      allowed = "a whole number from 2 up"
      raise errors.UserError("classes", classes, allowed, "Count them.")
    self.out_dim = classes
    self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs) if norm else None
    zeros = nnx.initializers.zeros_init()
    self.linear = nnx.Linear(
      width, classes, dtype=dtype, rngs=rngs, kernel_init=zeros
    )
    self.dtype = jnp.dtype(dtype)

  def inputs(self, x: Float[Array, "b w"]) -> Float[Array, "b w"]:
    """Returns what the linear layer gets, in the compute dtype."""
    return (x if self.norm is None else self.norm(x)).astype(self.dtype)

  def logits(self, x: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the logits [b, c] of some classes, int32 [c]; float32."""
    kernel = self.linear.kernel[...][:, columns].astype(self.dtype)
    z = jnp.matmul(
      self.inputs(x), kernel, preferred_element_type=jnp.float32,
      precision="highest",
    )  # fmt: skip
    return z + self.linear.bias[...][columns][None]

  def __call__(self, x: Float[Array, "b w"]) -> Float[Array, "b v"]:
    return self.linear(self.inputs(x)).astype(jnp.float32)


head = Classifier
