"""InfoNCE of queries against a teacher's keys, as in MoCo v3 (2104.02057)."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.losses import _lookup, _pairwise, _ring
from big_contrastive.losses._ring import Axis


def loss(
  q: Float[Array, "b d"],
  k: Float[Array, "b d"],
  *,
  scale: Float[Array, ""],
  axis: Axis = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the mean over queries of CE(scale q_i K^T, i), K all B keys.

  The keys are constants: only the queries have a gradient. Memory is O(b d),
  time 4 B b d flops a device for value and gradient.

  Args:
    q, k: [b, d] unit vectors of this device's images, float32 or bfloat16; the
      key of query i is k[i].
    scale: 1 / temperature.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.
  """
  chex.assert_equal_shape((q, k))
  q = q.astype(jnp.float32)  # Both parts of its gradient are summed in that.
  k = jax.lax.stop_gradient(k)
  b = q.shape[0]
  ids = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b
  positive = scale * _pairwise.inner(q, k)
  return _lookup.cross_entropy(
    q, positive, k,
    scale=scale, ids=ids, key_ids=ids, axis=axis, tile=tile,
  )  # fmt: skip
