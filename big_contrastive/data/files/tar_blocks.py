"""Which samples of tars are read together."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_GAP = 2**16  # Bytes between members up to which one read covers all.


class Spans(NamedTuple):
  """Blocks of samples that follow each other in a tar.

  Attributes:
    first: int64 [blocks + 1], the first sample of each, and the number of all.
    start, stop: int64 [blocks], of the bytes that their members lie in.
  """

  first: np.ndarray
  start: np.ndarray
  stop: np.ndarray

  @property
  def nbytes(self) -> int:
    """Bytes of all blocks."""
    return int((self.stop - self.start).sum())


def spans(
  shard: np.ndarray, start: np.ndarray, size: np.ndarray, block: int
) -> Spans:
  """Returns blocks of about `block` bytes, in the order of the samples.

  A block is at most twice as large, but for a sample that is larger, or whose
  members lie far apart.

  Args:
    shard: int [n], the tar of each sample.
    start, size: int64 [n, m], of its members; size -1 for a missing one.
    block: bytes.
  """
  there = size >= 0
  most = np.iinfo(np.int64).max
  low = np.where(there, start, most).min(-1)
  high = np.where(there, start + size, 0).max(-1)
  # A new tar, another piece of it, or a step back in it begins a block.
  piece = low // block
  new = np.ones(len(shard), bool)
  new[1:] = (np.diff(shard) != 0) | (np.diff(piece) != 0) | (np.diff(low) < 0)
  first = np.flatnonzero(new)
  return Spans(
    np.append(first, len(shard)).astype(np.int64),
    np.minimum.reduceat(low, first),
    np.maximum.reduceat(high, first),
  )


def members(
  read: Callable[[int, int], bytes], starts: list[int], sizes: list[int]
) -> list[bytes | None]:
  """Returns the members of one sample; those near each other take one read.

  Args:
    read: the bytes from an offset to another.
    starts, sizes: of the members; the first is there, size -1 is a missing one.
  """
  first = last = starts[0]
  gaps = 0
  for start, size in zip(starts, sizes, strict=True):
    if size >= 0:
      first, last = min(first, start), max(last, start + size)
      gaps -= size
  if gaps + last - first > _GAP:
    return [
      read(start, start + size) if size >= 0 else None
      for start, size in zip(starts, sizes, strict=True)
    ]
  data = read(first, last)
  return [
    data[start - first : start - first + size] if size >= 0 else None
    for start, size in zip(starts, sizes, strict=True)
  ]
