"""Lists of records by uid, 32 hexadecimal digits, as DataComp has them.

Such a list is a .npy of dtype "u8,u8": the first and the last 16 digits of
each (arXiv:2304.14108).
"""

import re
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.files import fields
from big_contrastive.data.source import Source

KIND = np.dtype("u8,u8")
_DIGITS = re.compile(r"[0-9a-fA-F]{32}")
_BLOCK = 2**16  # Records at a time.


def checked(value: Any) -> str:
  """Returns a stored uid.

  Raises:
    BadRecord: unless it is 32 hexadecimal digits.
  """
  text = fields.plain(value)
  if not isinstance(text, str) or not _DIGITS.fullmatch(text):
    message = f"a uid that is not 32 hexadecimal digits: {value!r:.80}"
    raise bad_records.BadRecord("uid", message)
  return text.lower()


def of(source: Source, numbers: np.ndarray, thing: str) -> np.ndarray:
  """Returns the uids of records, "u8,u8" [n], in the same order.

  Args:
    source: the records.
    numbers: int64 [n].
    thing: what the uids are for, in errors.

  Raises:
    UserError: for a source without uids, and for a record without one.
  """
  out = np.empty(len(numbers), KIND)
  for start, block in _read(source, numbers, thing):
    out[start : start + len(block)] = block
  return out


def places(source: Source, listed: np.ndarray, thing: str) -> np.ndarray:
  """Returns the numbers of the records in a list, int64, ascending.

  Args:
    source: the records; all their uids are read.
    listed: "u8,u8" [n], in any order.
    thing: the argument that holds the list, for errors.

  Raises:
    UserError: for a source without uids, and for a record without one.
  """
  listed = np.sort(listed)  # By the first half, then by the last.
  high = np.ascontiguousarray(listed["f0"])
  low = np.ascontiguousarray(listed["f1"])
  found = []
  for start, block in _read(source, np.arange(len(source)), thing):
    at = np.searchsorted(high, block["f0"])
    left = np.ones(len(block), bool)
    match = np.zeros(len(block), bool)
    # More than one step only where uids have the same first half.
    while len(rows := np.flatnonzero(left)):
      spot = np.minimum(at[rows], len(high) - 1)
      same = (at[rows] < len(high)) & (high[spot] == block["f0"][rows])
      match[rows] = same & (low[spot] == block["f1"][rows])
      left[rows] = same & (low[spot] < block["f1"][rows])
      at[rows] += 1
    found.append(start + np.flatnonzero(match))
  return np.concatenate([np.zeros(0, np.int64), *found])


def _read(
  source: Source, numbers: np.ndarray, thing: str
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (place of the first, uids) of blocks of records."""

  def read(number: int) -> tuple[int, int]:
    try:
      digits = source.uid(int(number))
    except (OSError, ValueError) as e:
      name = source.name(int(number))
      remedy = "A list by uid needs that of every record."
      value = f"{type(e).__name__}: {e}"
      raise errors.UserError(f"uid of {name}", value, "a uid", remedy) from e
    if digits is None:
      allowed = "a source that has them"
      remedy = "Say where: wds:...,uid=json:uid or parquet:...,uid=COLUMN."
      raise errors.UserError(f"uids for {thing}", None, allowed, remedy)
    return int(digits[:16], 16), int(digits[16:], 16)

  with futures.ThreadPoolExecutor(8) as pool:
    for start in range(0, len(numbers), _BLOCK):
      block = numbers[start : start + _BLOCK]
      yield start, np.array(list(pool.map(read, block, chunksize=64)), KIND)
