"""What sources of all formats make of stored values: ids, captions, names."""

import bisect
import json
import posixpath
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_contrastive.data.bad import BadRecord


def number(value: Any) -> int:
  """Returns an id that fits int32: itself, or a hash of what is larger."""
  if isinstance(value, int | np.integer) and -(2**31) <= value < 2**31:
    return int(value)
  text = value if isinstance(value, bytes) else str(value).encode()
  return zlib.crc32(text) >> 1


def place(index: int, ends: Sequence[int]) -> tuple[int, int]:
  """Returns the part that has a record, and the record's number in it.

  Args:
    index: of the record among those of all parts, one after the other.
    ends: records up to the end of each part; a list is the fastest.

  Raises:
    IndexError: if there is no such record.
  """
  if not 0 <= index < ends[-1]:
    raise IndexError(index)
  part = bisect.bisect_right(ends, index)
  return part, index - (ends[part - 1] if part else 0)


def caption(value: Any) -> list[str]:
  """Returns the captions in a text, bytes, None or a list of those.

  Raises:
    BadRecord: for bytes that are no UTF-8, and for what is no text.
  """
  if value is None:
    return []
  if isinstance(value, list | tuple):
    return [text for item in value for text in caption(item)]
  if isinstance(value, bytes):
    try:
      value = value.decode("utf-8-sig")
    except UnicodeDecodeError as e:
      raise BadRecord("encoding", f"a caption is not UTF-8: {e}") from e
  if not isinstance(value, str):
    raise BadRecord("type", f"a caption of type {type(value).__name__}")
  value = value.strip()
  if not value.isascii():
    # JSON can hold half a surrogate pair, which no file takes.
    value = value.encode("utf-8", "replace").decode("utf-8")
  return [value] if value else []


def one_or_several(texts: list[str]) -> str | list[str]:
  """Returns "text" of a record.

  Raises:
    BadRecord: if there is none.
  """
  if not texts:
    raise BadRecord("caption", "no caption, or an empty one")
  return texts[0] if len(texts) == 1 else texts


def label(value: Any, classes: list[str] | None) -> int:
  """Returns the label of a number, its digits, or the name of a class.

  Raises:
    BadRecord: if it is none of them, or too large for the classes.
  """
  text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
  text = str(text).strip()
  if classes and text in classes:
    return classes.index(text)
  digits = text.isascii() and text.isdigit() and len(text) < 10
  if not digits or (classes and int(text) >= len(classes)):
    raise BadRecord("label", f"no label: {text[:60]!r}")
  return int(text)


def parse_json(data: bytes) -> dict[str, Any]:
  """Returns the object in a JSON text.

  Raises:
    BadRecord: for what is none.
  """
  try:
    found = json.loads(data)
  except (ValueError, RecursionError) as e:
    raise BadRecord("type", f"no JSON: {type(e).__name__}: {e}") from e
  if not isinstance(found, dict):
    raise BadRecord("type", f"a JSON {type(found).__name__}, no object")
  return found


def inside(name: str) -> str:
  """Returns a relative path in its shortest form.

  Raises:
    BadRecord: for one that leads out of its folder.
  """
  short = posixpath.normpath(name)
  if short.startswith(("/", "..")) or "\0" in name:
    raise BadRecord("escape", f"a path that leads out: {name!r}")
  return short
