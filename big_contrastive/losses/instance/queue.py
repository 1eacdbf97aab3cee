"""InfoNCE against a queue of keys, as in MoCo (1911.05722, 2003.04297).

And against a bank, as in InstDisc (1805.01978): there a key is in the queue.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.losses import _lookup, _pairwise
from big_contrastive.losses._ring import Axis


def loss(
  q: Float[Array, "b d"],
  k: Float[Array, "b d"],
  queue: Float[Array, "n d"],
  *,
  scale: Float[Array, ""],
  ids: Int[Array, "b"] | None = None,
  queue_ids: Int[Array, "n"] | None = None,
  axis: Axis = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the mean over queries of CE(scale [q_i k_i, q_i queue^T], 0).

  Keys and queue are constants: only the queries have a gradient. The queue may
  lie on the devices in parts: the queries go round, with what they have summed,
  about 2 B d numbers a device for any K. Memory is O((b + K / n) d), time
  4 b K d flops a device for value and gradient.

  Args:
    q, k: [b, d] unit vectors of this device's images, float32 or bfloat16; the
      key of query i is k[i].
    queue: [K / n, d] unit vectors, this device's part of the K keys.
    scale: 1 / temperature.
    ids, queue_ids: [b] and [K / n]: a query does not see keys of the queue of
      its own id, and none sees those of negative ids; None where all are seen.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.

  Raises:
    UserError: for wrong shapes.
  """
  _lookup.check_pairs(("q", "k"), q, k, scale)
  _lookup.check_keys(q, queue)
  _lookup.check_ids("ids", ids, len(q))
  _lookup.check_ids("queue_ids", queue_ids, len(queue))
  q = q.astype(jnp.float32)  # Both parts of its gradient are summed in that.
  positive = scale * _pairwise.inner(q, jax.lax.stop_gradient(k))
  queue = jax.lax.stop_gradient(queue.astype(jnp.float32))
  return _lookup.cross_entropy(
    q, positive, queue,
    scale=scale, ids=ids, key_ids=queue_ids, axis=axis, tile=tile,
  )  # fmt: skip
