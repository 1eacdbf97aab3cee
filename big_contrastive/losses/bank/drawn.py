"""Products of queries and rows of a bank that lies on the ring, in parts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.losses import _ring
from big_contrastive.losses._ring import Axis

# Rows of the bank that are alive at a time, in numbers.
_ALIVE = 2**22


def products(
  q: Float[Array, "b d"],
  bank: Float[Array, "n d"],
  draws: Int[Array, "b k"],
  *,
  axis: Axis = None,
) -> Float[Array, "b k"]:
  """Returns the products of query i and rows draws[i] of the bank, float32.

  The bank is a constant: the queries alone have a gradient. They go round the
  ring with their draws, and each device adds what it has; so the bank stays.
  Memory is O(b (d + k)), time that of B k d products a device.

  Args:
    q: [b, d], this device's queries.
    bank: [N / n, d], this device's rows of the N.
    draws: [b, k], numbers of rows, 0 .. N - 1.
    axis: mesh axis name(s) inside shard_map, None for one device.
  """
  operands = q.astype(jnp.float32), bank.astype(jnp.float32), draws
  return _local(axis, *_ring.varying(operands, axis))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local(axis, q, bank, draws):
  def one(query):
    q, draws, found = query
    rows, here = _rows(bank, draws, axis)
    new = jnp.einsum("kd,d->k", rows, q, precision="highest")
    return q, draws, jnp.where(here, new, found)

  zeros = jnp.zeros(draws.shape, jnp.float32)
  return _visit(one, (q, draws, zeros), draws, q, axis)[2]


def _forward(axis, q, bank, draws):
  return _local(axis, q, bank, draws), (bank, draws)


def _backward(axis, kept, gradient):
  bank, draws = kept

  def one(query):
    draws, gradient, dq = query
    rows, here = _rows(bank, draws, axis)
    gradient_here = jnp.where(here, gradient, 0.0)
    dq += jnp.einsum("k,kd->d", gradient_here, rows, precision="highest")
    return draws, gradient, dq

  zeros = jnp.zeros((len(draws), bank.shape[1]), jnp.float32)
  dq = _visit(one, (draws, gradient, zeros), draws, zeros, axis)[2]
  return dq, None, None


_local.defvjp(_forward, _backward)


def _rows(
  bank: jax.Array, draws: jax.Array, axis: Axis
) -> tuple[jax.Array, jax.Array]:
  """Returns rows [k, d], and which of them are this device's."""
  places = draws - _ring.index(axis) * len(bank)
  here = (places >= 0) & (places < len(bank))
  return bank[jnp.where(here, places, 0)], here


def _visit(
  one: Any, queries: Any, draws: jax.Array, q: jax.Array, axis: Axis
) -> Any:
  """Returns the queries after `one` has seen each of them on each device."""
  at_once = max(1, _ALIVE // (draws.shape[1] * q.shape[1]))

  def look(queries: Any) -> Any:
    return jax.lax.map(one, queries, batch_size=at_once)

  return _ring.visit(look, _ring.varying(queries, axis), axis)
