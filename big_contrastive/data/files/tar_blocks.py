"""Which samples of tars are read together."""

from typing import NamedTuple

import numpy as np


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
