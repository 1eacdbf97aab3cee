"""What follows below in an image, told from above: CPC (arXiv:1807.03748)."""

from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.config import errors


class Block(nnx.Module):
  """x + a branch: each place sees its row and the one above, three wide.

  Args:
    width: of the vectors.
    hidden: of those inside.
    kwargs: dtype and rngs.
  """

  def __init__(self, width: int, hidden: int, **kwargs):
    self.narrow = nnx.Linear(width, hidden, **kwargs)
    self.across = nnx.Linear(3 * hidden, hidden, **kwargs)
    self.down = nnx.Linear(2 * hidden, hidden, **kwargs)
    self.widen = nnx.Linear(hidden, width, **kwargs)

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    y = jax.nn.relu(self.narrow(x))
    # Convolutions of 1 x 3 and 2 x 1, as products of what is seen: no mask is
    # needed, as nothing below is among it.
    row = jnp.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0)))
    beside = [row[:, :, i : i + y.shape[2]] for i in range(3)]
    y = self.across(jnp.concatenate(beside, axis=-1))
    above = jnp.pad(y, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    y = self.down(jnp.concatenate([above, y], axis=-1))
    return x + self.widen(jax.nn.relu(y))


class Context(nnx.Module):
  """Grids of vectors [b, h, w, width] to contexts of the same shape, float32.

  The context of a place depends on its row and those above it alone. Its
  blocks are those of CPC v2 (arXiv:1905.09272): 1 x 1, 1 x 3 and 2 x 1
  convolutions and 1 x 1 again, with a ReLU at the end of all.

  Args:
    width: of the vectors.
    steps: how many rows further on `ahead` predicts, each with a matrix of its
      own.
    directions: 1, down; or 4, for the grid and its turns, each with matrices of
      its own. The blocks are the same.
    depth, hidden: number of blocks, width inside them.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    width: int,
    *,
    steps: int = 5,
    directions: Literal[1, 4] = 1,
    depth: int = 5,
    hidden: int = 256,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rngs: nnx.Rngs,
  ):
    for name, value in (("steps", steps), ("hidden", hidden)):
      if value < 1:
        allowed = "a whole number from 1 up"
        raise errors.UserError(name, value, allowed, "Leave it out.")
    if depth < 0:
      allowed = "a whole number from 0 up"
      raise errors.UserError("depth", depth, allowed, "CPC v2 has 5.")
    self.out_dim, self.dtype = width, jnp.dtype(dtype)
    self.steps, self.directions, self.depth = steps, directions, depth
    for i in range(depth):
      block = Block(width, hidden, dtype=dtype, rngs=rngs)
      setattr(self, f"block{i}", block)
    # Products of a prediction and a vector, both of unit variance, then begin
    # with about that.
    init = nnx.initializers.normal(1 / width)
    shape = (directions, steps, width, width)
    self.kernel = nnx.Param(init(rngs.params(), shape))

  def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    x = z.astype(self.dtype)
    for i in range(self.depth):
      x = getattr(self, f"block{i}")(x)
    return jax.nn.relu(x).astype(jnp.float32)

  def ahead(
    self, context: Float[Array, "*b c"], step: int, direction: int = 0
  ) -> Float[Array, "*b c"]:
    """Returns what contexts predict of a step from 0 on, float32."""
    kernel = self.kernel[...][direction, step].astype(self.dtype)
    x = context.astype(self.dtype)
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


head = Context
