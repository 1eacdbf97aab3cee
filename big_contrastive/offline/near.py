"""Images that are nearly the same: SemDeDup (arXiv:2303.09540).

Spherical k-means puts the vectors into clusters; in a cluster, a record goes if
its cosine with one that comes before it is above a threshold. Those come
first that are farthest from the cluster's center, as published. The memory is
that of a cluster and of k centers; all vectors are sorted on disk.
"""

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_contrastive.config import errors
from big_contrastive.offline import scoring
from big_contrastive.parallel import sharding

_ROWS, _TILE = 256, 1024  # Vectors of a device at a time, and of the others.


def near(
  parts: scoring.Parts,
  good: np.ndarray,
  mesh: Mesh,
  threshold: float,
  clusters: int,
  rounds: int,
  seed: int,
) -> np.ndarray:
  """Returns which records are nearly the same as another that stays.

  Args:
    parts: what `embed` has written, with images' vectors.
    good: bool [n], the records that are not bad.
    mesh: its devices share the work.
    threshold: the cosine above which two are the same.
    clusters: k, at most the number of records that are not bad.
    rounds: of k-means.
    seed: of its first centers, k of the records.

  Returns:
    bool [n]; False for bad records.
  """
  compare = Compare(mesh)
  centers = _centers(parts, good, compare, clusters, rounds, seed)
  found = np.zeros(parts.records, bool)
  with tempfile.TemporaryDirectory() as folder:
    for numbers, z, cosines in _by_cluster(
      parts, compare, centers, pathlib.Path(folder)
    ):
      order = np.lexsort((numbers, cosines))  # The farthest first.
      found[numbers[order]] = repeats(compare, z[order], threshold)
  return found


def repeats(compare: "Compare", z: np.ndarray, threshold: float) -> np.ndarray:
  """Returns which of z, float32 [n, d], are close to one before; bool [n]."""
  found = np.zeros(len(z), bool)
  for start in range(0, len(z), compare.rows):
    block = z[start : start + compare.rows]
    best = np.full(len(block), -np.inf, np.float32)
    for at in range(0, start + len(block), _TILE):
      tile = z[at : at + _TILE]
      best = np.maximum(best, compare.before(block, tile, start, at))
    found[start : start + len(block)] = best > threshold
  return found


class Compare:
  """Cosines of a block of vectors with a tile of others, on all devices.

  Each device has the same number of rows, whatever their number, so that the
  figures are the same.
  """

  def __init__(self, mesh: Mesh):
    self.rows = _ROWS * sharding.ring_size(mesh)
    split, everywhere = PartitionSpec(sharding.BATCH), PartitionSpec()

    def mapped(local: Callable[..., Any], split_args: int, others: int) -> Any:
      specs = (split,) * split_args + (everywhere,) * others
      return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=split),
        out_shardings=NamedSharding(mesh, everywhere),
      )

    def before(
      z: jax.Array, number: jax.Array, tile: jax.Array, at: jax.Array
    ) -> jax.Array:
      cosines = jnp.matmul(z, tile.T, precision="highest")
      theirs = at + jnp.arange(len(tile))
      return jnp.where(theirs[None] < number[:, None], cosines, -jnp.inf).max(1)

    def nearest(z: jax.Array, centers: jax.Array) -> tuple:
      cosines = jnp.matmul(z, centers.T, precision="highest")
      return jnp.argmax(cosines, 1), jnp.max(cosines, 1)

    self._before = mapped(before, 2, 2)
    self._nearest = mapped(nearest, 1, 1)

  def before(
    self, z: np.ndarray, tile: np.ndarray, start: int, at: int
  ) -> np.ndarray:
    """Returns the largest cosine of each row with what is before it; -inf.

    Args:
      z: float32 [n, d], n <= rows, which begin at `start` of all.
      tile: float32 [m, d], m <= 1024, which begin at `at`.
      start, at: their places.
    """
    n = len(z)
    number = np.pad(start + np.arange(n), (0, self.rows - n))
    best = self._before(
      scoring.padded(z, self.rows), number.astype(np.int32),
      scoring.padded(tile, _TILE), np.int32(at),
    )  # fmt: skip
    return np.asarray(best)[:n]

  def nearest(
    self, z: np.ndarray, centers: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the center with the largest cosine of each row, and that.

    Args:
      z: float32 [n, d].
      centers: float32 [k, d].
    """
    which, cosines = [], []
    for at in range(0, len(z), self.rows):
      block = z[at : at + self.rows]
      found = self._nearest(scoring.padded(block, self.rows), centers)
      which.append(np.asarray(found[0])[: len(block)])
      cosines.append(np.asarray(found[1])[: len(block)])
    none = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return np.concatenate([none[0], *which]), np.concatenate(
      [none[1], *cosines]
    )


def _vectors(parts: scoring.Parts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The numbers of a part's good records, and their vectors."""
  for first, table in parts.tables(["image"]):
    good = np.asarray(table["image"].combine_chunks().is_valid())
    yield first + np.flatnonzero(good), parts.vectors(table["image"])


def _centers(
  parts: scoring.Parts,
  good: np.ndarray,
  compare: Compare,
  k: int,
  rounds: int,
  seed: int,
) -> np.ndarray:
  """The centers of spherical k-means, float32 [k, d]."""
  numbers = np.flatnonzero(good)
  errors.at_least("records that are not bad", len(numbers), k)
  rng = np.random.default_rng(seed)
  drawn = np.sort(rng.choice(numbers, k, replace=False, shuffle=False))
  centers = np.concatenate(
    [z[np.isin(numbers, drawn)] for numbers, z in _vectors(parts)]
  )
  for _ in range(rounds):
    # In float64, and in the order of the records: the same on any devices.
    sums = np.zeros(centers.shape)
    for _, z in _vectors(parts):
      which, _ = compare.nearest(z, centers)
      np.add.at(sums, which, z)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    new = (sums / np.where(norms > 0, norms, 1)).astype(np.float32)
    centers = np.where(norms > 0, new, centers)  # An empty one stays.
  return centers


def _by_cluster(
  parts: scoring.Parts,
  compare: Compare,
  centers: np.ndarray,
  folder: pathlib.Path,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields each cluster's numbers, vectors, and cosines with its center."""
  assigned = [
    (numbers, *compare.nearest(z, centers)) for numbers, z in _vectors(parts)
  ]
  numbers, which, cosines = map(np.concatenate, zip(*assigned, strict=True))
  order = np.argsort(which, kind="stable")
  place = np.empty_like(order)
  place[order] = np.arange(len(order))
  shape = (len(order), centers.shape[1])
  placed = np.memmap(folder / "vectors", np.float32, "w+", shape=shape)
  at = 0
  for _, z in _vectors(parts):
    placed[place[at : at + len(z)]] = z
    at += len(z)
  ends = np.searchsorted(which[order], np.arange(len(centers) + 1))
  for low, high in zip(ends, ends[1:], strict=False):
    if low < high:
      inside = order[low:high]
      yield numbers[inside], np.array(placed[low:high]), cosines[inside]


def default_clusters(records: int) -> int:
  """Returns how many clusters have some 5,000 records each."""
  return max(1, round(records / 5000))
