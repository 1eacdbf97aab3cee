"""Kinds of bad records, and their counts."""

import collections
from collections.abc import Callable, Iterator

import numpy as np

from big_contrastive.config import errors

# Checkpoints store counts by these names; a new kind goes to the end.
KINDS = (
  "other",  # Includes counts of checkpoints from before there were kinds.
  "missing",  # A file, a member or a value that should exist does not.
  "read",  # The disk or the network failed.
  "image",  # Not an image, or a broken one.
  "truncated",  # An image that ends too early.
  "bomb",  # More pixels than decode.MAX_PIXELS.
  "caption",  # No caption, or nothing but spaces.
  "encoding",  # A caption that is not UTF-8.
  "type",  # A caption that is not a text, an image that is not bytes.
  "escape",  # A path that leads out of its folder or tar.
  "label",
)

# How many bad records of a kind the log names.
_NAMED = 5


class BadRecord(ValueError):
  """A record that can't be used, and the kind of its fault.

  Args:
    kind: one of KINDS.
    reason: for the log.
  """

  def __init__(self, kind: str, reason: str):
    super().__init__(reason)
    self.kind = kind

  def __reduce__(self) -> tuple:  # Exceptions travel between processes.
    return BadRecord, (self.kind, str(self))


def kind(error: Exception) -> str:
  """Returns the kind of bad record that an exception from a source stands for.

  Raises:
    UserError: the exception itself, if it is one: the user has to fix it.
  """
  if isinstance(error, errors.UserError):
    raise error
  if isinstance(error, BadRecord):
    return error.kind
  if isinstance(error, UnicodeError):
    return "encoding"
  if isinstance(error, FileNotFoundError):
    return "missing"
  return "read" if isinstance(error, OSError) else "other"


class Tally:
  """Counts bad records by kind, up to any recent step.

  Batches are prepared ahead of the step that trains on them; metrics and
  checkpoints report the counts up to their own step, whenever that is.
  """

  def __init__(self):
    self._restored = np.zeros(len(KINDS), np.int64)
    self._released = self._restored.copy()
    self._newer: collections.deque[tuple[int, np.ndarray]] = collections.deque()

  def restore(self, counts: dict[str, int] | int) -> None:
    """Adds the counts of a checkpoint: by kind, or only their sum."""
    counts = {"other": counts} if isinstance(counts, int) else counts
    for kind, n in counts.items():
      known = kind if kind in KINDS else "other"
      self._restored[KINDS.index(known)] += n

  def add(
    self,
    step: int,
    kinds: np.ndarray,
    index: np.ndarray,
    after: Callable[[int], int],
  ) -> Iterator[tuple[str, int]]:
    """Counts a batch; returns the (kind, record) pairs that the log names.

    Args:
      step: the step that trains on the batch.
      kinds: int [b, tries], 1 + the kind of each bad record, else 0.
      index: int [b], the record that the first of `kinds` is about.
      after: record -> the record that replaces it.
    """
    totals = self._released + sum(counts for _, counts in self._newer)
    batch_counts = np.bincount(kinds[kinds > 0] - 1, minlength=len(KINDS))
    self._newer.append((step, batch_counts))
    named = []
    for row in np.flatnonzero(kinds.any(-1)):
      at = int(index[row])
      for kind in kinds[row][kinds[row] > 0] - 1:
        totals[kind] += 1
        if totals[kind] <= _NAMED:
          named.append((KINDS[kind], at))
        at = after(at)
    return iter(named)

  def all(self) -> dict[str, int]:
    """Returns the counts of this process plus those that were restored."""
    newer = sum(counts for _, counts in self._newer)
    return _by_kind(self._restored + self._released + newer)

  def upto(
    self, done: int, gather: Callable[[np.ndarray], np.ndarray]
  ) -> dict[str, int]:
    """Returns the counts of the steps before `done`, see Training.counts."""
    while self._newer and self._newer[0][0] < done:
      self._released += self._newer.popleft()[1]
    return _by_kind(self._restored + gather(self._released))


def _by_kind(counts: np.ndarray) -> dict[str, int]:
  return {k: n for k, n in zip(KINDS, counts.tolist(), strict=True) if n}
