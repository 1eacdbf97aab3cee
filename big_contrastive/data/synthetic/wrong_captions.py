"""A source some of whose images have another image's captions."""

from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.source import Source


class WrongCaptions(Source):
  """A source, a share of whose records have the captions of others of them.

  For data selection, which has to find them. A caption of the same meaning
  (of a record with the same id) counts as right, and is not taken.

  Args:
    source: with captions and ids.
    share: of the records; exactly floor(share n) of them.
    seed: of the draw.

  Attributes:
    wrong: bool [n], the records whose captions are not theirs.
  """

  def __init__(self, source: Source, share: float, seed: int):
    if not 0 <= share <= 1:
      allowed = "a number from 0 to 1"
      raise errors.UserError("wrong", share, allowed, "It is a share.")
    self._source, self.classes = source, source.classes
    order = np.random.default_rng([seed, 1]).permutation(len(source))
    self._chosen = order[: int(share * len(source))]
    self._place = np.full(len(source), -1, np.int64)
    self._place[self._chosen] = np.arange(len(self._chosen))
    self.wrong = self._place >= 0

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._source[index]
    place, n = int(self._place[index]), len(self._chosen)
    if place < 0:
      return record
    for step in range(1, n):
      other = self._source[int(self._chosen[(place + step) % n])]
      if other["id"] != record["id"]:
        return record | {"text": other["text"]}
    remedy = "Raise it, or take more records."
    raise errors.UserError("wrong", n, "records of several meanings", remedy)

  def true(self, index: int, caption: str) -> bool | None:
    """Whether a caption says what is so of an image, whosever it is."""
    return self._source.true(index, caption)

  def name(self, index: int) -> str:
    """Returns a name by which a person can find it."""
    return self._source.name(index)

  def uid(self, index: int) -> str | None:
    """Returns the record's uid, if the source has uids."""
    return self._source.uid(index)
