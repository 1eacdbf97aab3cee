"""A softmax of queries over keys: value and the queries' gradient in one pass.

The keys lie on the ring of devices, in parts; the queries go round it with
their sums. In one pass over the tiles a query gets the log-sum-exp of its
logits and, for its gradient, the mean of the keys under their softmax, both
with a running maximum (as in arXiv:1805.02867 and 2112.05682). Keys that have
gradients get them in a second pass, where they need not travel either.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.losses import _lse, _pairwise, _ring
from big_contrastive.losses._ring import Axis


def cross_entropy(
  q: jax.Array,
  positive: jax.Array,
  keys: jax.Array,
  *,
  scale: jax.Array,
  ids: jax.Array | None = None,
  key_ids: jax.Array | None = None,
  axis: Axis,
  tile: int | None,
) -> jax.Array:
  """Returns the mean over queries of CE([positive, scale q keys^T], 0).

  It is that of the global batch, on each device. Memory is O((b + k) d), time
  4 b K d flops a device for value and gradients (2 for the value), K the keys
  of all devices; 8 where the keys, too, have gradients. It can be
  differentiated once.

  Args:
    q: [b, d], this device's queries, float32.
    positive: [b], the logit of each query's own key, float32.
    keys: [k, d], this device's part of all keys, float32. A stop_gradient on
      them is seen, and saves their gradient.
    scale: of the logits, a scalar.
    ids, key_ids: int32 [b] and [k]: a query does not see keys of its own id,
      and none sees keys of negative ids; None where all are seen.
    axis, tile: see _ring.sweep.
  """
  (b, d), k = q.shape, keys.shape[0]
  tile = _ring.side(max(b, k), d, _LIVE) if tile is None else tile
  if ids is None:
    ids, key_ids = jnp.zeros(b, jnp.int32), jnp.ones(k, jnp.int32)
  scale = jnp.asarray(scale, jnp.float32)
  operands = _ring.varying((q, positive, keys, scale, ids, key_ids), axis)
  return _ring.mean(_local((axis, tile), *operands), axis)


def check_pairs(
  names: tuple[str, str], a: jax.Array, b: jax.Array, scale: jax.Array
) -> None:
  """Raises UserError unless a and b are [b, d], of one shape, scale a scalar.

  Shapes that merely broadcast would give a wrong loss.
  """
  expected = "[b, d], b and d at least 1"
  if a.ndim != 2 or 0 in a.shape:
    remedy = "Give one embedding a row."
    raise errors.UserError(
      f"the shape of {names[0]}", a.shape, expected, remedy
    )
  if a.shape != b.shape:
    remedy = "Row i of both is the same image."
    raise errors.UserError(
      f"the shape of {names[1]}",
      b.shape,
      f"{a.shape}, as {names[0]} has",
      remedy,
    )
  if jnp.shape(scale) != ():
    remedy = "It is one number, 1 / temperature."
    raise errors.UserError(
      "the shape of scale", jnp.shape(scale), "(), a scalar", remedy
    )


def check_ids(name: str, ids: jax.Array | None, size: int) -> None:
  """Raises UserError unless ids are None or [size]."""
  if ids is not None and ids.shape != (size,):
    raise errors.UserError(
      f"the shape of {name}", ids.shape, f"({size},)", "Give one for each row."
    )


def check_keys(q: jax.Array, queue: jax.Array) -> None:
  """Raises UserError unless the queue is [k, d], d that of the queries."""
  width = q.shape[1]
  if queue.ndim != 2 or queue.shape[1] != width or not queue.shape[0]:
    raise errors.UserError(
      "the shape of queue",
      queue.shape,
      f"[k, {width}], k at least 1, for queries {q.shape}",
      "Give this device's keys, one a row.",
    )


_LIVE = 2  # Logits and their exponentials.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local(plan, q, positive, keys, scale, ids, key_ids):
  """Returns the mean cross entropy of this device's queries."""
  lse, _ = _pass(plan, q, keys, scale, ids, key_ids, with_mean=False)
  return jax.nn.softplus(_lse.minus(lse, positive)).mean()


def _forward(plan, *operands):
  q, positive, keys, scale, ids, key_ids = (x.value for x in operands)
  lse, mean = _pass(plan, q, keys, scale, ids, key_ids, with_mean=True)
  rest = _lse.minus(lse, positive)
  # 1 - p of the query's own key, without cancellation, a share of the mean.
  pull = jax.nn.sigmoid(rest) / len(q)
  dq = (scale * pull)[:, None] * mean
  dscale = jnp.vdot(_pairwise.inner(q, mean), pull)
  dkeys = None
  if operands[2].perturbed:
    dkeys = scale * _of_keys(plan, q, keys, scale, ids, key_ids, lse, pull)
  residuals = _pairwise.only_once((dq, -pull, dkeys, dscale))
  return jax.nn.softplus(rest).mean(), residuals


def _backward(plan, residuals, cotangent):
  # `_ring.mean` follows, so the cotangent is the same on all devices: it may
  # scale what other devices' queries have given to this device's keys.
  grads = (g if g is None else g * cotangent for g in residuals)
  return *grads, None, None


# Symbolic zeros mark keys that are constants: a teacher's, a queue's.
_local.defvjp(_forward, _backward, symbolic_zeros=True)


def _of_keys(
  plan: tuple, q: jax.Array, keys: jax.Array, scale: jax.Array,
  ids: jax.Array, key_ids: jax.Array, lse: _lse.Lse, pull: jax.Array,
) -> jax.Array:  # fmt: skip
  """Returns sum_i pull_i p_ij q_i, [k, d], over the queries of all devices."""
  axis, tile = plan
  maximum, total = lse

  def one(visible, key, column, dkeys, nothing):
    keys, key_ids = key
    q, maximum, weight = column
    logits = scale * _pairwise.cosines(keys, q)
    visible &= (key_ids >= 0)[:, None]
    logits = jnp.where(visible, logits - maximum[None], _lse.LEFT_OUT)
    weights = jnp.exp(logits) * weight[None]
    dkeys += jnp.einsum("ji,id->jd", weights, q, precision="highest")
    return dkeys, nothing

  dkeys, _ = _ring.sweep(
    one, key_ids, (keys, key_ids), (q, maximum, pull / total),
    jnp.zeros_like(keys), (),
    merge=lambda a, b: (), axis=axis, side=tile, column_ids=ids,
  )  # fmt: skip
  return dkeys


def _pass(
  plan: tuple, q: jax.Array, keys: jax.Array, scale: jax.Array,
  ids: jax.Array, key_ids: jax.Array, with_mean: bool,
) -> tuple[_lse.Lse, Any]:  # fmt: skip
  """Returns each query's log-sum-exp, and its mean key [b, d] if asked for."""
  axis, tile = plan

  def one(visible, key, q, nothing, sums):
    keys, key_ids = key
    logits = scale * _pairwise.cosines(keys, q)
    visible &= (key_ids >= 0)[:, None]
    logits = jnp.where(visible, logits, _lse.LEFT_OUT)
    maximum, total = _lse.of(logits, 0)
    weighted = None
    if with_mean:
      weights = jnp.exp(logits - maximum[None])
      # Transposed first, it is a plain product; without that, CPUs are slow.
      transposed = jax.lax.optimization_barrier(keys.T)
      weighted = jnp.einsum(
        "dj,ji->di", transposed, weights, precision="highest"
      )
    return nothing, merge(sums, ((maximum, total), weighted))

  zeros = jnp.zeros(q.shape[:1], jnp.float32)
  start = _lse.nothing(zeros), None
  if with_mean:
    start = start[0], jnp.zeros(q.shape[::-1], jnp.float32)
  _, (lse, weighted) = _ring.sweep(
    one, key_ids, (keys, key_ids), q, (), start,
    merge=merge, axis=axis, side=tile, column_ids=ids,
  )  # fmt: skip
  if with_mean:
    weighted = (weighted / lse[1][None]).T
  return lse, weighted


def merge(a: Any, b: Any) -> Any:
  """Returns (log-sum-exp, sums [..., c] under its weights) of both together."""
  (lse_a, sums_a), (lse_b, sums_b) = a, b
  lse = _lse.merge(lse_a, lse_b)
  factor_a, factor_b = (jnp.exp(x[0] - lse[0])[None] for x in (lse_a, lse_b))
  return lse, jax.tree.map(
    lambda x, y: x * factor_a + y * factor_b, sums_a, sums_b
  )
