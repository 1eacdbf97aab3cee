"""InfoNCE against the batch's keys: CPC (1807.03748), MoCo v3 (2104.02057)."""

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

  The rows' half of the softmax loss: keys do not choose among queries. Keys
  under stop_gradient, a teacher's (MoCo v3), cost no gradient. Memory is
  O(b d), time 4 B b d flops a device for value and gradient, 8 where the keys,
  too, have gradients (CPC). It can be differentiated once.

  Args:
    q, k: [b, d] vectors of this device's images, or of their patches, of any
      length, float32 or bfloat16; the key of query i is k[i].
    scale: 1 / temperature.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.

  Raises:
    UserError: for wrong shapes.
  """
  _lookup.check_pairs(("q", "k"), q, k, scale)
  # Both parts of their gradients are summed in float32.
  q, k = q.astype(jnp.float32), k.astype(jnp.float32)
  b = q.shape[0]
  ids = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b
  positive = scale * _pairwise.inner(q, k)
  return _lookup.cross_entropy(
    q, positive, k,
    scale=scale, ids=ids, key_ids=ids, axis=axis, tile=tile,
  )  # fmt: skip
