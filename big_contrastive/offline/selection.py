"""Which records have the best scores, exactly, in little memory."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import filters
from big_contrastive.data.source import Source
from big_contrastive.storage import atomic
from big_contrastive.storage.paths import Path

_BLOCK = 2**22  # Scores at a time.
_HALF = 2**16


@dataclasses.dataclass(frozen=True)
class Chosen:
  """What is kept: scores above the least, and the first of those at it.

  Args:
    least: the least score that is kept.
    above: how many are above it.
    ties: how many at it are kept, the first ones.
  """

  least: float
  above: int
  ties: int


def best(scores: np.ndarray, count: int) -> Chosen:
  """Returns which `count` scores are the largest.

  Of equal scores those of the first records are kept. Reads them twice, with
  memory for 2^16 counts.

  Args:
    scores: float32 [n], or a memory map of it; NaN is never kept.
    count: at most the number of scores that are not NaN, at least 1.
  """
  high = np.zeros(_HALF, np.int64)
  for _, keys in _keys(scores):
    high += np.bincount(keys >> 16, minlength=_HALF)
  bucket, above = _reaches(high, count)
  low = np.zeros(_HALF, np.int64)
  for _, keys in _keys(scores):
    inside = keys[keys >> 16 == bucket]
    low += np.bincount(inside & (_HALF - 1), minlength=_HALF)
  place, more = _reaches(low, count - above)
  least = _value(np.uint32(bucket << 16 | place))
  return Chosen(least, above + more, count - above - more)


def _reaches(counts: np.ndarray, count: int) -> tuple[int, int]:
  """The bin of the count-th from above, and how many are in bins above it."""
  from_above = np.cumsum(counts[::-1])
  at = int(np.searchsorted(from_above, count))
  above = int(from_above[at - 1]) if at else 0
  return len(counts) - 1 - at, above


def at_least(scores: np.ndarray, threshold: float) -> Chosen:
  """Returns that all scores from a threshold up are kept."""
  least = np.float32(threshold)
  if float(least) < threshold:  # Rounding must not let in what is below it.
    least = np.nextafter(least, np.float32(np.inf))
  above = ties = 0
  for _, block in _blocks(scores):
    above += int(np.count_nonzero(block > least))
    ties += int(np.count_nonzero(block == least))
  return Chosen(float(least), above, ties)


def numbers(scores: np.ndarray, chosen: Chosen) -> Iterator[np.ndarray]:
  """Yields the numbers of the kept records, int64, ascending, in blocks."""
  ties = chosen.ties
  for first, block in _blocks(scores):
    at = np.flatnonzero(block == np.float32(chosen.least))[:ties]
    ties -= len(at)
    above = np.flatnonzero(block > np.float32(chosen.least))
    yield first + np.sort(np.concatenate([above, at]))


def first(
  scores: np.ndarray, key: Callable[[np.ndarray], np.ndarray], count: int
) -> np.ndarray:
  """Returns the numbers of the records with the smallest finite keys, int64.

  Args:
    scores: float32 [n], or a memory map.
    key: of a block of scores; where it is infinite or NaN, a record is not
      among them. Of equal keys those of the first records are.
    count: how many at most; memory is that of these and a block.
  """
  keys, places = np.zeros(0, np.float32), np.zeros(0, np.int64)
  for start, block in _blocks(scores):
    keys = np.concatenate([keys, key(block)])
    places = np.concatenate([places, np.arange(start, start + len(block))])
    order = np.argsort(keys, kind="stable")  # NaN comes last.
    order = order[np.isfinite(keys[order])][:count]
    keys, places = keys[order], places[order]
  return places


def among(
  scores: np.ndarray,
  lists: Sequence[str],
  flag: str,
  source: Source | None = None,
) -> np.ndarray:
  """Returns the scores, NaN where a record is not in all lists.

  Args:
    scores: float32 [n].
    lists: files of record numbers, int64, ascending; or of uids.
    flag: their name in errors.
    source: the records, for lists of uids.

  Raises:
    UserError: for another file, and for numbers of other data.
  """
  every = np.ones(len(scores), bool)
  for name in lists:
    one = np.zeros(len(scores), bool)
    one[filters.numbers_in(name, len(scores), flag, source)] = True
    every &= one
  return np.where(every, scores, np.float32(np.nan))


def list_path(out: str) -> Path:
  """Returns the path --out of a new list of record numbers.

  Raises:
    UserError: for another ending, or if something is there.
  """
  path = atomic.free(out, "--out")
  if path.suffix != ".npy":
    raise errors.UserError("--out", out, "NAME.npy", "Add the extension.")
  return path


def known(scores: np.ndarray) -> int:
  """Returns how many scores are not NaN."""
  return sum(int((~np.isnan(b)).sum()) for _, b in _blocks(scores))


def _blocks(scores: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  for first in range(0, len(scores), _BLOCK):
    yield first, np.asarray(scores[first : first + _BLOCK])


def _keys(scores: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Unsigned integers in the order of the scores, without NaN."""
  for first, block in _blocks(scores):
    # Minus and plus zero are equal scores.
    bits = (block[~np.isnan(block)] + np.float32(0)).view(np.uint32)
    negative = bits >> 31 == 1
    yield first, np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _value(key: np.uint32) -> float:
  positive = key >> 31 == 1
  bits = key & np.uint32(2**31 - 1) if positive else ~key
  return float(np.uint32(bits).view(np.float32))


def histogram(scores: np.ndarray, bins: int = 40) -> tuple[list, list]:
  """Returns the counts of equal bins from the least to the largest score."""
  low, high = math.inf, -math.inf
  for _, block in _blocks(scores):
    if len(fine := block[np.isfinite(block)]):
      low, high = min(low, float(fine.min())), max(high, float(fine.max()))
  if low > high:
    return [], []
  edges = np.linspace(low, max(high, np.nextafter(low, np.inf)), bins + 1)
  counts = np.zeros(bins, np.int64)
  for _, block in _blocks(scores):
    counts += np.histogram(block[np.isfinite(block)], edges)[0]
  return counts.tolist(), edges.tolist()
