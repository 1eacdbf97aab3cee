"""Which records of an embedded data set are duplicates of others.

Of equal records the first stays, whatever the order in which they are found.
"""

import pathlib
import re
import tempfile
import unicodedata
import zlib

import numpy as np

from big_contrastive.offline import bits, scoring
from big_contrastive.offline.spill import Spill

# A signature has bands of numbers. Two captions meet where all numbers of a
# band are equal: at a similarity of 0.8 with probability 0.9998, of 0.3 0.12.
_BANDS, _ROWS = 16, 4
_WORDS = 3  # In a row, that count as one thing which two captions share.


def content(parts: scoring.Parts) -> np.ndarray:
  """Returns which records have the same image, byte for byte, as one before.

  Args:
    parts: what `embed` has written; their column is "digest".

  Returns:
    bool [n]; False for bad records.
  """
  found = np.zeros(parts.records, bool)
  with tempfile.TemporaryDirectory() as folder:
    spill = Spill(pathlib.Path(folder))
    for first, table in parts.tables(["digest"]):
      column = table["digest"].combine_chunks()
      good = np.asarray(column.is_valid())
      whole = column.drop_null().to_pylist()
      keys = np.frombuffer(b"".join(whole), "<u8").reshape(-1, 2)
      spill.add(keys, first + np.flatnonzero(good))
    for _, others in spill.repeated():
      found[others] = True
  return found


def captions(parts: scoring.Parts, threshold: float) -> np.ndarray:
  """Returns which records have nearly the same captions as one before.

  MinHash (Broder 1997): the share of equal numbers in two signatures estimates
  the Jaccard similarity of the sets of three words in a row, without case and
  punctuation. Records that are linked by others are one group.

  Args:
    parts: what `embed` has written.
    threshold: the least estimate that makes a duplicate, in (0, 1].

  Returns:
    bool [n]; False for bad records and those without words.
  """
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    shape = (parts.records, _BANDS * _ROWS)
    signatures = np.memmap(folder / "signatures", np.uint32, "w+", shape=shape)
    (folder / "bands").mkdir()
    spill = Spill(folder / "bands")
    for first, table in parts.tables(["captions"]):
      texts = [" \n ".join(c or ()) for c in table["captions"].to_pylist()]
      some, found = minhashes(texts)
      signatures[first + some] = found
      for band in range(_BANDS):
        keys = _band(found, band)
        spill.add(keys, first + some)
    groups = _Groups()
    for firsts, others in spill.repeated():
      alike = (signatures[firsts] == signatures[others]).mean(1) >= threshold
      groups.join(firsts[alike], others[alike])
  return groups.not_first(parts.records)


def minhashes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the numbers of texts with words, and signatures uint32 [m, 64]."""
  some, ends, hashes = [], [0], []
  for i, text in enumerate(texts):
    if parts := shingles(text):
      some.append(i)
      hashes += [zlib.crc32(part.encode("utf-8", "replace")) for part in parts]
      ends.append(len(hashes))
  if not some:
    return np.zeros(0, np.int64), np.zeros((0, _BANDS * _ROWS), np.uint32)
  rng = np.random.default_rng(0)  # The same for all data.
  odd = rng.integers(0, 2**63, _BANDS * _ROWS, np.uint64) * 2 + 1
  more = rng.integers(0, 2**63, _BANDS * _ROWS, np.uint64)
  mixed = bits.spread(np.array(hashes, np.uint64) + bits.GOLDEN)
  signatures = np.empty((len(some), len(odd)), np.uint32)
  for k in range(len(odd)):  # One at a time: little memory.
    high = ((mixed * odd[k] + more[k]) >> np.uint64(32)).astype(np.uint32)
    signatures[:, k] = np.minimum.reduceat(high, ends[:-1])
  return np.array(some, np.int64), signatures


def shingles(text: str) -> set[str]:
  """Returns all three words in a row; of a shorter text its words."""
  words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
  return {
    " ".join(words[i : i + _WORDS])
    for i in range(max(min(len(words), 1), len(words) - _WORDS + 1))
  }


def _band(signatures: np.ndarray, band: int) -> np.ndarray:
  """A key, uint64 [n, 2], of the numbers of one band."""
  rows = signatures[:, band * _ROWS : (band + 1) * _ROWS].astype(np.uint64)
  keys = np.zeros((len(rows), 2), np.uint64)
  for side in range(2):
    key = np.full(len(rows), 2 * band + side, np.uint64)
    for column in rows.T:
      key = bits.spread((key ^ column) + bits.GOLDEN)
    keys[:, side] = key
  return keys


class _Groups:
  """Records that are linked, directly or by others; as large as the links."""

  def __init__(self) -> None:
    self._before: dict[int, int] = {}

  def join(self, firsts: np.ndarray, others: np.ndarray) -> None:
    for a, b in zip(firsts.tolist(), others.tolist(), strict=True):
      low, high = sorted((self._least(a), self._least(b)))
      if low != high:
        self._before[high] = low

  def _least(self, number: int) -> int:
    path = []
    while number in self._before:
      path.append(number)
      number = self._before[number]
    self._before.update(dict.fromkeys(path, number))
    return number

  def not_first(self, count: int) -> np.ndarray:
    """Which of `count` records have one before them in their group."""
    found = np.zeros(count, bool)
    found[list(self._before)] = True
    return found


def bad(parts: scoring.Parts) -> np.ndarray:
  """Returns which records are bad, bool [n]."""
  columns = [table["bad"] for _, table in parts.tables(["bad"])]
  return np.concatenate([~column.is_null().to_numpy() for column in columns])
