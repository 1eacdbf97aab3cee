"""The walk of text chunks round the ring of devices: the only ppermute."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Axis = str | tuple[str, ...] | None


def size(axis: Axis) -> int:
  """Returns the number of devices on the ring, 1 when axis is None."""
  return 1 if axis is None else jax.lax.axis_size(axis)


def fold(
  block: Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]],
  carry: Any,
  visitor: Any,
  luggage: Any,
  axis: Axis,
) -> tuple[Any, Any]:
  """Folds `block` over the chunks of all devices, one hop at a time.

  Each device's chunk visits every device and comes home. The block is
  recomputed in the backward pass, so that no hop's logits are kept.

  Args:
    block: (carry, visitor, luggage, hop) -> (carry, luggage). At hop 0 the
      visitor is the device's own.
    carry: what stays on this device from hop to hop.
    visitor: the travelling chunk, which no block changes: it is sent on
      before the block is computed, so that a device can do both at once.
    luggage: what travels with the chunk and is added to on the way.
    axis: mesh axis name or names inside shard_map; None for one device.

  Returns:
    carry, and this device's own luggage back from the round trip.
  """
  block = jax.checkpoint(block, prevent_cse=False)
  if axis is None:
    return block(carry, visitor, luggage, jnp.zeros((), jnp.int32))
  n = size(axis)

  def send(tree: Any) -> Any:
    to_next = [(i, (i + 1) % n) for i in range(n)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), tree)

  def hop(state: Any, index: jax.Array) -> tuple[Any, None]:
    carry, visitor, luggage = state
    following = send(visitor)
    carry, luggage = block(carry, visitor, luggage, index)
    return (carry, following, send(luggage)), None

  hops = jnp.arange(n, dtype=jnp.int32)
  (carry, _, luggage), _ = jax.lax.scan(hop, (carry, visitor, luggage), hops)
  return carry, luggage


def mean(values: jax.Array, axis: Axis) -> jax.Array:
  """Returns the mean of [b] values over the global batch, a scalar."""
  average = values.mean()
  return average if axis is None else jax.lax.pmean(average, axis)
