"""Cosines of many vectors with many: n^2 of them, O(n d) memory.

The bank's rows lie on all devices. Queries come a chunk at a time, and each
device compares a chunk with its own rows.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_contrastive.evals import Embed
from big_contrastive.parallel import sharding

_CHUNK = 256  # Queries at a time: memory is chunk x rows of a device.

_EVERYWHERE, _SPLIT = PartitionSpec(), PartitionSpec(sharding.BATCH)


def spread(x: np.ndarray, mesh: Mesh, axis: int = 0) -> jax.Array:
  """Returns an array, the same on all processes, split over the devices.

  Args:
    x: its axis is padded with zeros to a multiple of the devices.
    mesh: of the devices.
    axis: the one that is split.
  """
  n = sharding.ring_size(mesh)
  missing = -x.shape[axis] % n
  if missing:
    widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    x = np.pad(x, widths)
  spec = PartitionSpec(*[None] * axis, sharding.BATCH)
  where = NamedSharding(mesh, spec)
  return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


def nearest(
  queries: np.ndarray,
  bank: np.ndarray,
  k: int,
  embed: Embed,
  *,
  own: bool = False,
  labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns each query's k nearest rows of a bank, the nearest first.

  Of equal cosines the first row is taken; with labels, those of another class
  before those of the query's: a tie counts against the model.

  Args:
    queries, bank: unit vectors, float32 [n, d] and [m, d].
    k: at most m, or m - 1 with `own`.
    embed: its devices share the bank.
    own: query i is row i of the bank, which is left out for it.
    labels: int [n] and [m]. A cosine with the query's own class is returned
      one rounding step below what it is.

  Returns:
    cosines float32 [n, k] and rows int [n, k].
  """
  if labels is None:
    labels = np.full(len(queries), -1), np.full(len(bank), -2)
  ours, theirs = (np.asarray(x, np.int32) for x in labels)
  compute = functools.partial(
    _nearest, bank=spread(bank, embed.mesh), their=spread(theirs, embed.mesh),
    size=np.int32(len(bank)), k=k, own=own, mesh=embed.mesh,
  )  # fmt: skip
  parts = []
  for real, chunk, first, label in _chunks(queries, ours, embed.check):
    found = jax.device_get(compute(chunk, first, label))
    parts.append([x[:real] for x in found])
  cosine, row = (np.concatenate(x) for x in zip(*parts, strict=True))
  return cosine, row


def mean_potential(x: np.ndarray, embed: Embed) -> float:
  """Returns the mean of exp(-2 |xi - xj|^2) over pairs of different rows.

  Args:
    x: unit vectors, float32 [n, d]; two or more.
    embed: its devices share the work.
  """
  bank, size = spread(x, embed.mesh), np.int32(len(x))
  total = 0.0
  for real, chunk, first, _ in _chunks(x, np.zeros(len(x)), embed.check):
    sums = _potential(chunk, first, bank, size, embed.mesh)
    total += float(np.sum(jax.device_get(sums)[:, :real], dtype=np.float64))
  return total / (len(x) * (len(x) - 1))


def _chunks(
  queries: np.ndarray, labels: np.ndarray, check: Callable[[], None]
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
  """Yields how many rows are real, a chunk of one size, its first, labels."""
  size = min(_CHUNK, len(queries))
  for start in range(0, len(queries), size):
    check()
    chunk = slice(start, start + size)
    x, label = queries[chunk], labels[chunk]
    missing = size - len(x)
    x = np.pad(x, ((0, missing), (0, 0)))
    yield len(label), x, np.int32(start), np.pad(label, (0, missing))


@functools.partial(jax.jit, static_argnames=("k", "own", "mesh"))
def _nearest(
  queries: jax.Array,
  first: jax.Array,
  label: jax.Array,
  bank: jax.Array,
  their: jax.Array,
  size: jax.Array,
  k: int,
  own: bool,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  n = sharding.ring_size(mesh)

  def here(queries, first, label, bank, their, size):
    cosine, row = _cosines(queries, first, bank, size, own)
    right = label[:, None] == their[None]
    cosine = jnp.where(right, jnp.nextafter(cosine, -jnp.inf), cosine)
    cosine, place = jax.lax.top_k(cosine, min(k, len(bank)))
    return cosine[None], row[place][None]

  specs = (_EVERYWHERE,) * 3 + (_SPLIT, _SPLIT, _EVERYWHERE)
  local = jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=_SPLIT)
  cosine, row = (
    # [n, c, k] -> [c, n k]: of equal cosines the first row comes first.
    jax.lax.with_sharding_constraint(
      jnp.moveaxis(x, 0, 1).reshape(len(queries), -1),
      sharding.replicated(mesh),
    )
    for x in local(queries, first, label, bank, their, size)
  )
  assert cosine.shape[1] == n * min(k, bank.shape[0] // n)
  cosine, place = jax.lax.top_k(cosine, k)
  return cosine, jnp.take_along_axis(row, place, axis=1)


@functools.partial(jax.jit, static_argnames="mesh")
def _potential(
  queries: jax.Array,
  first: jax.Array,
  bank: jax.Array,
  size: jax.Array,
  mesh: Mesh,
) -> jax.Array:
  """Sums over each device's rows, but for the query itself: [n, c]."""

  def here(queries, first, bank, size):
    cosine, _ = _cosines(queries, first, bank, size, own=True)
    return jnp.sum(jnp.exp(4 * cosine - 4), axis=1)[None]

  specs = (_EVERYWHERE, _EVERYWHERE, _SPLIT, _EVERYWHERE)
  local = jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=_SPLIT)
  return jax.lax.with_sharding_constraint(
    local(queries, first, bank, size), sharding.replicated(mesh)
  )


def _cosines(
  queries: jax.Array,
  first: jax.Array,
  bank: jax.Array,
  size: jax.Array,
  own: bool,
) -> tuple[jax.Array, jax.Array]:
  """Cosines [c, m] with a device's rows, and the rows' numbers [m].

  They are -inf for rows from `size` on, which are padding, and with `own` for
  the row that is the query.
  """
  with jax.default_matmul_precision("highest"):  # TPUs' default is bfloat16.
    cosine = queries @ bank.T
  row = jax.lax.axis_index(sharding.BATCH) * len(bank) + jnp.arange(len(bank))
  left_out = jnp.broadcast_to(row[None] >= size, cosine.shape)
  if own:
    query = first + jnp.arange(len(queries))
    left_out |= row[None] == query[:, None]
  return jnp.where(left_out, -jnp.inf, cosine), row
