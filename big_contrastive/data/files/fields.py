"""How sources of all formats read stored values: one set of rules for all.

docs/data.md has them as a table, value and kind of column -> result, which
tests/data/test_stored_values.py checks against this code.
"""

import bisect
import decimal
import json
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_contrastive.data.bad_records import BadRecord

# Texts that other programs write for a missing value. "NA" is not among them:
# it is also a country and an element.
MISSING = frozenset(
  ("nan", "NaN", "NAN", "NaT", "<NA>", "None", "null", "NULL", "Null")
)
# In place of a caption column, for sources that have only images.
NO_CAPTION = "none"
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
# "007" and "7" are different ids: both may be names of files.
_WHOLE_ID = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.0+)?")


def plain(value: Any) -> Any:
  """Returns a stored value as a Python object; None if it is missing.

  Missing are null, NaN, NaT, an absent key, a text of nothing but spaces, and
  the texts of MISSING. NumPy arrays become lists, and bytes in UTF-8 texts. A
  text is stripped of spaces, and half a surrogate pair in it, which can't be
  written to a file, becomes "?".
  """
  if isinstance(value, np.generic | np.ndarray):
    unit = value.dtype.kind in "mM"  # tolist() may give integers for these.
    value = value.astype(str).tolist() if unit else value.tolist()
  string = text(value)
  if string is not None:
    return None if not string or string in MISSING else string
  if isinstance(value, bytes | bytearray | memoryview):
    return bytes(value)
  if value is None or isinstance(value, list | tuple | dict):
    return value
  try:
    return None if value != value else value  # NaN, NaT, Decimal's NaN.
  except (TypeError, ValueError, decimal.InvalidOperation):
    return None  # pandas.NA has no truth value; a signaling NaN raises.


def text(value: Any) -> str | None:
  """Returns a text or bytes in UTF-8 as `plain` does; None for other values."""
  if isinstance(value, bytes | bytearray | memoryview):
    try:
      value = bytes(value).decode("utf-8")
    except UnicodeDecodeError:
      return None
  if not isinstance(value, str):
    return None
  return clean(value).strip("\ufeff").strip()


def clean(text: str) -> str:
  """Returns a text that UTF-8 can encode: half a surrogate pair becomes "?"."""
  if text.isascii():
    return text
  return text.encode("utf-8", "replace").decode("utf-8")


def caption(value: Any) -> list[str]:
  """Returns the captions in a text, a number, or a list of those.

  Raises:
    BadRecord: for bytes that are not UTF-8, and for what is not a text.
  """
  value = plain(value)
  several = value if isinstance(value, list | tuple) else [value]
  items = [item for item in map(plain, several) if item is not None]
  return [_text(item, "caption") for item in items]


def field(value: Any) -> str:
  """Returns a value as text for a file name, a template or a condition.

  The texts of a list are joined with commas; a missing value is "".

  Raises:
    BadRecord: see caption.
  """
  value = plain(value)
  several = value if isinstance(value, list | tuple) else [value]
  items = [item for item in map(plain, several) if item is not None]
  return ", ".join(_text(item, "value") for item in items)


def _text(value: Any, what: str) -> str:
  if isinstance(value, str):
    return value
  if isinstance(value, bytes):
    raise BadRecord("encoding", f"a {what} is not UTF-8: {value[:60]!r}")
  number = _number(value)
  if number is None:
    raise BadRecord("type", f"a {what} of type {type(value).__name__}")
  return str(number)


def _number(value: Any) -> int | float | None:
  """A finite number, as an int if it is whole; None for anything else."""
  if isinstance(value, bool):
    return None
  if isinstance(value, int):
    return value
  if isinstance(value, float | decimal.Decimal) and math.isfinite(value):
    return int(value) if value == int(value) else float(value)
  return None


def one_or_several(texts: list[str]) -> str | list[str]:
  """Returns the "text" of a record: one caption, or a list of several.

  Raises:
    BadRecord: if there is no caption.
  """
  if not texts:
    raise BadRecord(
      "caption", "a record without a caption, or with an empty one"
    )
  return texts[0] if len(texts) == 1 else texts


def key(value: Any) -> int | str | bytes | None:
  """Returns the value by which ids are compared; None if it is missing.

  A whole number is the same id whether it is stored as 7, 7.0, "7" or "7.0".

  Raises:
    BadRecord: for true and false, infinity, lists and objects.
  """
  value = plain(value)
  if value is None or isinstance(value, bytes):
    return value
  if isinstance(value, str):
    is_whole = _WHOLE_ID.fullmatch(value)
    return int(value.partition(".")[0]) if is_whole else value
  number = _number(value)
  if isinstance(number, int):
    return number
  if isinstance(value, bool | list | tuple | dict) or value in _INFINITE:
    raise BadRecord("type", f"an id of type {type(value).__name__}")
  return str(value)


_INFINITE = (math.inf, -math.inf)


def number(value: Any) -> int:
  """Returns an id that fits int32: the number itself, or a hash.

  Raises:
    BadRecord: if it is missing; see also key.
  """
  if type(value) is not int:  # Nearly all are.
    value = key(value)
    if value is None:
      raise BadRecord("missing", "no id")
  return _fitting(value)


def named(name: str) -> int:
  """Returns the id of a sample's name, which may also be "nan" or "None"."""
  value = key(name)
  return _fitting(name if value is None else value)


def _fitting(value: int | str | bytes) -> int:
  if isinstance(value, int) and -(2**31) <= value < 2**31:
    return value
  text = value if isinstance(value, bytes) else str(value).encode()
  return zlib.crc32(text) >> 1


# Logged where a source turns to ids by image on its own.
REPEATED = (
  "there is a record for each caption of an image: records with the same image "
  "have the same id, and are not each other's negatives"
)


def repeat(images: Sequence[bytes]) -> bool:
  """Returns whether some neighbors are the same image, but not all are."""
  near = any(a and a == b for a, b in zip(images, images[1:]))
  return near and len(set(images)) > 1


def picture(image: bytes) -> int:
  """Returns an id from an image's bytes: equal for equal images."""
  return zlib.crc32(image) >> 1


def whole(value: Any) -> int | None:
  """Returns the whole number that a value is or spells; None for others."""
  value = plain(value)
  if isinstance(value, str) and _WHOLE.fullmatch(value):
    return int(value.partition(".")[0])
  number = _number(value)
  return number if isinstance(number, int) else None


def place(index: int, ends: Sequence[int]) -> tuple[int, int]:
  """Returns the part that contains a record, and the record's index in it.

  Args:
    index: of the record in the concatenation of all parts.
    ends: number of records up to the end of each part; a list is fastest.

  Raises:
    IndexError: if there is no such record.
  """
  if not 0 <= index < ends[-1]:
    raise IndexError(index)
  part = bisect.bisect_right(ends, index)
  return part, index - (ends[part - 1] if part else 0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  merged = dict(pairs)
  if len(merged) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f"the key {twice!r} is there twice")
  return merged


# json.loads would create a decoder for each text.
_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def from_json(data: str | bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError, RecursionError: for a text that is not JSON, and for a key that
      an object has twice: Python's json would silently take the last value.
  """
  if isinstance(data, bytes):
    data = data.decode(json.detect_encoding(data), "surrogatepass")
  return _DECODER.decode(data)


def parse_json(data: bytes) -> dict[str, Any]:
  """Returns the object in a JSON text.

  Raises:
    BadRecord: for anything else.
  """
  try:
    content = from_json(data)
  except (ValueError, RecursionError) as e:
    raise BadRecord("type", f"no JSON: {type(e).__name__}: {e}") from e
  if not isinstance(content, dict):
    raise BadRecord("type", f"a JSON {type(content).__name__}, no object")
  return content
