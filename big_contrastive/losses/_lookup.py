"""Queries against constant keys: what a softmax over keys needs, in one pass.

The keys lie on the ring of devices, in parts; the queries go round it with
their sums. In one pass over the tiles a query gets the log-sum-exp of its
logits and, for its gradient, the mean of the keys under their softmax, both
with a running maximum (as in arXiv:1805.02867 and 2112.05682).
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

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
  of all devices. It can be differentiated once.

  Args:
    q: [b, d], this device's queries, float32.
    positive: [b], the logit of each query's own key, float32.
    keys: [k, d], this device's part of all keys. They are constants.
    scale: of the logits, a scalar.
    ids, key_ids: int32 [b] and [k]: a query does not see keys of its own id;
      None where it sees all.
    axis, tile: see _ring.sweep.
  """
  chex.assert_rank((q, keys), 2)
  (b, d), (k, _) = q.shape, keys.shape
  chex.assert_equal(keys.shape[1], d)
  chex.assert_shape(positive, (b,))
  tile = _ring.side(max(b, k), d, _LIVE) if tile is None else tile
  if ids is None:
    ids, key_ids = jnp.zeros(b, jnp.int32), jnp.ones(k, jnp.int32)
  scale = jnp.asarray(scale, jnp.float32)
  keys = jax.lax.stop_gradient(keys)
  operands = _ring.varying((q, positive, keys, scale, ids, key_ids), axis)
  rest = _rest((axis, tile), *operands)
  return _ring.mean(jax.nn.softplus(rest).mean(), axis)


_LIVE = 2  # Logits and their exponentials.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rest(plan, q, positive, keys, scale, ids, key_ids):
  """Returns log sum_j exp(scale q_i keys_j) - positive_i, [b]."""
  lse, _ = _pass(plan, q, keys, scale, ids, key_ids, with_mean=False)
  return _lse.minus(lse, positive)


def _forward(plan, q, positive, keys, scale, ids, key_ids):
  lse, mean = _pass(plan, q, keys, scale, ids, key_ids, with_mean=True)
  dq = scale * mean
  dscale = _pairwise.inner(q, mean)
  residuals = _pairwise.only_once((dq, dscale))
  return _lse.minus(lse, positive), residuals


def _backward(plan, residuals, cotangent):
  dq, dscale = residuals
  dq *= cotangent[:, None]
  return dq, -cotangent, None, jnp.vdot(dscale, cotangent), None, None


_rest.defvjp(_forward, _backward)


def _pass(
  plan: tuple, q: jax.Array, keys: jax.Array, scale: jax.Array,
  ids: jax.Array, key_ids: jax.Array, with_mean: bool,
) -> tuple[_lse.Lse, Any]:  # fmt: skip
  """Returns each query's log-sum-exp, and its mean key [b, d] if asked for."""
  axis, tile = plan

  def one(visible, keys, q, nothing, sums):
    logits = scale * _pairwise.cosines(keys, q)
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
    return nothing, _merge(sums, ((maximum, total), weighted))

  zeros = jnp.zeros(q.shape[:1], jnp.float32)
  start = _lse.nothing(zeros), jnp.zeros(q.shape[::-1]) if with_mean else None
  keys = keys.astype(jnp.float32)
  _, (lse, weighted) = _ring.sweep(
    one, key_ids, keys, q, (), start,
    merge=_merge, axis=axis, side=tile, column_ids=ids,
  )  # fmt: skip
  if with_mean:
    weighted = (weighted / lse[1][None]).T
  return lse, weighted


def _merge(a: Any, b: Any) -> Any:
  (lse_a, mean_a), (lse_b, mean_b) = a, b
  lse = _lse.merge(lse_a, lse_b)
  if mean_a is None:
    return lse, None
  factor_a, factor_b = (jnp.exp(x[0] - lse[0])[None] for x in (lse_a, lse_b))
  return lse, mean_a * factor_a + mean_b * factor_b
