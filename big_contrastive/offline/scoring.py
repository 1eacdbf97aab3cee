"""Scores of records, from the parts of `embed`."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_contrastive.config import errors
from big_contrastive.data.files import embedded
from big_contrastive.offline import tasks
from big_contrastive.parallel import sharding
from big_contrastive.storage import paths
from big_contrastive.storage.paths import Path

_ROWS, _TILE = 256, 1024  # Pairs of a device at a time, of the reference.


class Parts:
  """The parts of a folder, complete and in order.

  Args:
    path: the folder.
    flag: its name in errors.

  Raises:
    UserError: if there are no parts, or some are missing.
  """

  def __init__(self, path: str, flag: str):
    root = paths.at(path, flag)
    self.about, self.files = embedded.about(root, flag), embedded.parts(root)
    self.records = self.about["records"]["records"]
    counts = [
      embedded.using(file, lambda part: part.metadata.num_rows)
      for file in self.files
    ]
    self.ends = np.cumsum(counts)
    expected = tasks.tasks(self.records, root, self.about["per_shard"])
    missing = sorted({t.path for t in expected} - {*self.files})
    if missing or sum(counts) != self.records:
      named = ", ".join(p.name for p in missing[:4]) or "records"
      remedy = "Give the command of embed again: it does what is missing."
      raise errors.UserError(
        flag, f"{path}: {len(missing)} of {len(expected)} missing: {named}",
        "a folder in which embed has done all shards", remedy,
      )  # fmt: skip

  def tables(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yields the number of each part's first record, and its columns."""
    for file, end in zip(self.files, self.ends, strict=True):

      def read(part: pq.ParquetFile, file: Path = file) -> pa.Table:
        for name in columns:
          if name not in part.schema_arrow.names:
            remedy = _REMEDIES.get(name, "Run embed without --dtype none.")
            allowed = "parts with that column"
            raise errors.UserError(f"column {name}", str(file), allowed, remedy)
        return part.read(columns)

      table = embedded.using(file, read)
      yield int(end) - len(table), table

  def vectors(self, column: Any) -> np.ndarray:
    """Returns a column of lists of d numbers as float32 [n, d], without null.

    Args:
      column: of a table; or the lists of a column of such lists.
    """
    return embedded.floats(column, self.about["made"]["dtype"])


_REMEDIES = {
  "digest": "Embed anew: an earlier version has written these.",
  "cosines": "The model has no text tower, or --views was given.",
}


def cosines(parts: Parts) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the number of a first record, and the scores from there on.

  The score of a record is the cosine of its image with its best caption; NaN
  for a bad record, and for one without captions.
  """
  for first, table in parts.tables(["cosines"]):
    lists = table["cosines"].combine_chunks()
    offsets = np.asarray(lists.offsets)
    yield first, _best(np.asarray(lists.values, np.float32), offsets)


def _best(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """The largest score of each list; NaN of an empty one."""
  best = np.full(len(offsets) - 1, np.nan, np.float32)
  filled = np.flatnonzero(np.diff(offsets))
  if len(filled):
    best[filled] = np.maximum.reduceat(scores, offsets[filled])
  return best


def normalized(
  parts: Parts, mesh: Mesh, reference: int, seed: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields scores as `cosines` does, normalized by how others do (2405.19547).

  With logits s_ij = scale * image_i . text_j, a pair's score is
  s_ii - (log sum_j exp s_ij + log sum_j exp s_ji) / 2: minus its CLIP loss,
  where j is the pair itself or one of a reference. So a caption that fits many
  images has a lower score than one that fits this image alone.

  Args:
    parts: with vectors.
    mesh: its devices share the work, and each has the reference.
    reference: how many records, drawn at random, are the reference: the first
      caption of each.
    seed: of the draw.
  """
  scale = np.float32(parts.about["scale"])
  drawn = _drawn(parts, reference, seed)
  compute = functools.partial(_normalized(mesh), scale, *drawn)
  rows = _ROWS * sharding.ring_size(mesh)
  for first, table in parts.tables(["image", "texts"]):
    lists = table["texts"].combine_chunks()
    offsets = np.asarray(lists.offsets)
    good = np.asarray(table["image"].combine_chunks().is_valid())
    place = np.repeat(np.arange(len(good)), np.diff(offsets))
    zimg = parts.vectors(table["image"])[np.cumsum(good)[place] - 1]
    ztxt = parts.vectors(lists.values)
    number = (first + place).astype(np.int32)
    scores = [
      np.asarray(
        compute(*(padded(x[i : i + rows], rows) for x in (zimg, ztxt, number)))
      )
      for i in range(0, len(place), rows)
    ]
    joined = np.concatenate([*scores, np.zeros(0, np.float32)])
    yield first, _best(joined[: len(place)], offsets)


def padded(x: np.ndarray, rows: int) -> np.ndarray:
  """Returns x [n, ...] with zeros behind it, [rows, ...]."""
  return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))


def _drawn(parts: Parts, count: int, seed: int) -> tuple[np.ndarray, ...]:
  """Images and texts [m, d] of a reference, and their numbers, m of a tile."""
  count = min(count, parts.records)
  rng = np.random.default_rng(seed)
  chosen = np.sort(
    rng.choice(parts.records, count, replace=False, shuffle=False)
  )
  images, texts, numbers = [], [], []
  for first, table in parts.tables(["image", "texts"]):
    low, high = np.searchsorted(chosen, [first, first + len(table)])
    some = table.take(chosen[low:high] - first)
    lists = some["texts"].combine_chunks()
    filled = np.diff(np.asarray(lists.offsets)) > 0
    good = np.asarray(some["image"].combine_chunks().is_valid()) & filled
    some = some.filter(pa.array(good))
    lists = some["texts"].combine_chunks()
    images.append(parts.vectors(some["image"]))
    texts.append(parts.vectors(lists.values.take(lists.offsets[:-1])))
    numbers.append(chosen[low:high][good])
  number = np.concatenate(numbers).astype(np.int32)
  if not len(number):
    allowed = "records with an image and a caption"
    remedy = "Raise --reference, or look at the column bad."
    raise errors.UserError("the reference", "empty", allowed, remedy)
  missing = -len(number) % _TILE
  return (
    padded(np.concatenate(images), len(number) + missing),
    padded(np.concatenate(texts), len(number) + missing),
    np.pad(number, (0, missing), constant_values=-1),
  )


def _normalized(mesh: Mesh) -> Any:
  """Returns the jitted score of pairs [b, d], [b, d], [b] by a reference."""

  def local(
    scale: jax.Array, images: jax.Array, texts: jax.Array, theirs: jax.Array,
    zimg: jax.Array, ztxt: jax.Array, number: jax.Array,
  ) -> jax.Array:  # fmt: skip
    own = scale * jnp.einsum("bd,bd->b", zimg, ztxt)

    def tile(lse: tuple, tile: tuple) -> tuple:
      images, texts, theirs = tile
      out = (theirs < 0)[None] | (theirs[None] == number[:, None])

      def more(lse: jax.Array, z: jax.Array, others: jax.Array) -> jax.Array:
        cosines = jnp.matmul(z, others.T, precision="highest")
        logits = jnp.where(out, -jnp.inf, scale * cosines)
        return jnp.logaddexp(lse, jax.nn.logsumexp(logits, 1))

      return (more(lse[0], zimg, texts), more(lse[1], ztxt, images)), None

    tiles = jax.tree.map(
      lambda x: x.reshape(-1, _TILE, *x.shape[1:]), (images, texts, theirs)
    )
    (rows, columns), _ = jax.lax.scan(tile, (own, own), tiles)
    return own - (rows + columns) / 2

  split, everywhere = PartitionSpec(sharding.BATCH), PartitionSpec()
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=(everywhere,) * 4 + (split,) * 3, out_specs=split
  )
  return jax.jit(mapped, out_shardings=NamedSharding(mesh, everywhere))
