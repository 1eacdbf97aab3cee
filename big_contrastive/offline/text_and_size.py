"""Rules for captions and image sizes, which need no model and no language."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ["captions", "width", "height"]


@dataclasses.dataclass(frozen=True)
class Rules:
  """What a record must have; 0 for any.

  Args:
    min_side: pixels of the shorter side.
    max_aspect: ratio of the longer to the shorter side, at most.
    min_words: of a caption, between white space. One caption is enough.
    min_characters: of a caption, without white space at its ends.
  """

  min_side: int = 0
  max_aspect: float = 0.0
  min_words: int = 0
  min_characters: int = 0

  def broken(self, table: pa.Table) -> dict[str, np.ndarray]:
    """Returns, by rule, which records break it, and none before it; bool [n].

    Args:
      table: with COLUMNS; null sizes break no rule.
    """
    sides = np.stack([_numbers(table[k]) for k in ("width", "height")])
    short, long = sides.min(0), sides.max(0)
    found = {}
    if self.min_side:
      found["short side"] = short < self.min_side
    if self.max_aspect:
      found["aspect"] = long > self.max_aspect * short
    if self.min_words or self.min_characters:
      found["caption"] = ~self._fits(table["captions"].combine_chunks())
    free = ~table["width"].is_null().to_numpy()
    for name in found:
      found[name] &= free
      free = free & ~found[name]
    return found

  def _fits(self, lists: pa.ListArray) -> np.ndarray:
    """Whether one caption of each list is long enough."""
    texts = pc.utf8_trim_whitespace(lists.values)
    long = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    words = pc.list_value_length(pc.utf8_split_whitespace(texts))
    many = words.to_numpy(zero_copy_only=False)
    good = (long >= self.min_characters) & (many >= self.min_words)
    offsets = np.asarray(lists.offsets)
    sums = np.concatenate([[0], np.cumsum(good)])
    return sums[offsets[1:]] > sums[offsets[:-1]]


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
  return pc.fill_null(column, -1).to_numpy()
