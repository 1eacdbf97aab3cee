"""NT-Xent, the loss of SimCLR (arXiv:2002.05709)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.losses import _lookup, _ring, softmax
from big_contrastive.losses._ring import Axis


def loss(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  scale: Float[Array, ""],
  axis: Axis = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the mean over all 2B views of CE over the 2B - 1 others.

  The target of a view is the other view of its image; a view never sees
  itself. Both sides have gradients. The official code's loss is twice this.

  It is the softmax loss of the rows [z1; z2] and the columns [z2; z1] with
  equal ids for an image: they leave out the pair itself, which is counted
  apart, and the view itself. That matrix is symmetric, so the rows' and the
  columns' cross entropies are the same numbers, and so are their gradients:
  6 (2B)(2b) d flops a device.

  Args:
    z1, z2: [b, d] unit embeddings of this device's images, float32 or bfloat16.
    scale: 1 / temperature.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.

  Raises:
    UserError: for wrong shapes.
  """
  _lookup.check_pairs(("z1", "z2"), z1, z2, scale)
  rows = jnp.concatenate([z1, z2])
  columns = jax.lax.stop_gradient(jnp.concatenate([z2, z1]))
  # The same value, with the columns' gradient added to that of the rows.
  rows += rows - jax.lax.stop_gradient(rows)
  b = z1.shape[0]
  ids = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b
  ids = jnp.concatenate([ids, ids])
  return softmax.loss(rows, columns, scale=scale, ids=ids, axis=axis, tile=tile)
