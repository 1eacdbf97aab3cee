"""MetaCLIP's choice of captions (arXiv:2309.16671): many topics, none too much.

A caption matches an entry of the metadata (a word, a title) that stands in it
between spaces, once punctuation has spaces around it. An entry that c records
match is worth p = min(1, t / c), and a record stays with probability
1 - prod(1 - p) over its entries: those of rare entries always, those without
an entry never.
"""

import array
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.offline import bits

_APART = ",.;:?!`"
_SPACES = str.maketrans("\t\n\r", "   ")
_END = ""  # In the tree of entries: the number of the one that ends here.


def spaced(text: str) -> str:
  """Returns a text with spaces around it and around punctuation."""
  text = f" {text} "
  for mark in _APART:
    text = text.replace(mark, f" {mark} ")
  return text.translate(_SPACES)


class Entries:
  """Finds entries in texts.

  Args:
    names: the entries, as they stand in a text; each once.
    where: the file or flag that has them, for errors.

  Raises:
    UserError: for an empty entry, and for one that is there twice.
  """

  def __init__(self, names: Sequence[str], where: str):
    self.names = list(names)
    self._tree: dict[str, Any] = {}
    for number, name in enumerate(self.names):
      if not name.strip():
        allowed = "an entry on each line"
        raise errors.UserError(
          f"{where}:{number + 1}", name, allowed, "Drop it."
        )
      at = self._tree
      for word in name.split(" "):
        at = at.setdefault("\0" + word, {})
      if _END in at:
        allowed = "each entry once"
        remedy = f"It is on line {at[_END] + 1}, too."
        raise errors.UserError(f"{where}:{number + 1}", name, allowed, remedy)
      at[_END] = number

  def __len__(self) -> int:
    return len(self.names)

  def found(self, texts: Iterable[str]) -> list[int]:
    """Returns the numbers of the entries that any of the texts has."""
    numbers = set()
    for text in texts:
      words = spaced(text)[1:-1].split(" ")
      for start in range(len(words)):
        at = self._tree
        for word in words[start:]:
          following = at.get("\0" + word)
          if following is None:
            break
          at = following
          if _END in at:
            numbers.add(at[_END])
    return sorted(numbers)


class Matches:
  """The entries of each record, in a file.

  Args:
    entries: what is looked for.
    folder: for the file: some 4 bytes a match, and 4 a record.
  """

  def __init__(self, entries: Entries, folder: pathlib.Path):
    self._entries = entries
    self.counts = np.zeros(len(entries), np.int64)
    self.records = 0
    self._file = folder / "matches"
    self._sizes = folder / "sizes"

  def add(self, captions: Iterable[list[str]]) -> None:
    """Adds the next records, each by its captions; [] of a bad one."""
    numbers, sizes = array.array("i"), array.array("i")
    for texts in captions:
      found = self._entries.found(texts)
      numbers.extend(found)
      sizes.append(len(found))
    for path, values in ((self._file, numbers), (self._sizes, sizes)):
      with path.open("ab") as file:
        values.tofile(file)
    self.counts += np.bincount(
      np.frombuffer(numbers, np.int32), minlength=len(self._entries)
    )
    self.records += len(sizes)

  def probabilities(self, limit: float) -> np.ndarray:
    """Returns the probability with which each record stays, float64 [n].

    Args:
      limit: t, how many records of an entry stay, as a rule.
    """
    share = np.minimum(1.0, limit / np.maximum(self.counts, 1))
    # A sum of logarithms; of 1 it is minus infinity, and the product 0.
    with np.errstate(divide="ignore"):
      logs = np.log1p(-share)
    sizes = np.fromfile(self._sizes, np.int32)
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    numbers = np.memmap(self._file, np.int32, "r") if ends[-1] else None
    out = np.zeros(len(sizes))
    block = 2**20
    for start in range(0, len(sizes), block):
      stop = min(start + block, len(sizes))
      low, high = ends[start], ends[stop]
      if low < high:
        some = np.flatnonzero(sizes[start:stop])
        sums = np.add.reduceat(
          logs[numbers[low:high]], ends[start + some] - low
        )
        out[start + some] = -np.expm1(sums)
    return out


def limit_of_tail(counts: np.ndarray, tail: float) -> int:
  """Returns the t that leaves a share of all matches to rare entries.

  MetaCLIP 2 takes for each language the t with English's share.

  Args:
    counts: int64 [entries], how many records match each.
    tail: the share of all matches that entries below t have, in (0, 1).
  """
  rising = np.sort(counts[counts > 0])
  shares = np.cumsum(rising) / rising.sum()
  return int(rising[np.abs(shares - tail).argmin()])


def drawn(count: int, seed: int) -> np.ndarray:
  """Returns a number in [0, 1) of each record, of it and the seed alone."""
  x = np.arange(count, dtype=np.uint64) + np.uint64(1)
  for key in (seed, 0):
    x = bits.spread(x * bits.GOLDEN ^ np.uint64(key))
  return (x >> np.uint64(11)) * 2.0**-53
