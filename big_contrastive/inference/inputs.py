"""Checks what users pass from Python: pictures and texts, one or several.

Takes the natural reading, or raises an error that names the item: images[3].
"""

import io
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import PIL.Image

from big_contrastive.config import errors


class Array(Protocol):
  """An array of NumPy, JAX or torch."""

  def __array__(self) -> np.ndarray: ...


Bytes = bytes | bytearray | memoryview
# A path, an open file, its bytes, an array, or a PIL image. Arrays are uint8
# [h, w, 3], or gray [h, w] or [h, w, 1], or RGBA [h, w, 4].
Picture = (
  str | os.PathLike | io.BufferedIOBase | Bytes | Array | PIL.Image.Image
)
# One, or several: a list, a generator, an array [n, h, w, 3].
Pictures = Picture | Iterable[Picture]
# Bytes are UTF-8.
Texts = str | Bytes | Iterable[str | Bytes]

_PICTURES = "pictures: paths, bytes, open files, uint8 [h, w, 3] or PIL images"
_TEXTS = "a text or a list of texts"


def pictures(value: Pictures, name: str) -> dict[str, Any]:
  """Returns pictures by name: "images" for a single one, or "images[0]", ...

  Raises:
    UserError: for what is neither a picture nor several.
  """
  if _is_picture(value):
    return {name: value}
  several = _several(value, name, _PICTURES)
  return {f"{name}[{i}]": x for i, x in enumerate(several)}


def _is_picture(value: Any) -> bool:
  one = str | os.PathLike | Bytes | PIL.Image.Image
  if isinstance(value, one) or hasattr(value, "read"):
    return True
  if not hasattr(value, "__array__"):
    return False
  array = _array(value, "images")
  return array.dtype.kind not in "OSTU" and array.ndim != 4


def _several(value: Any, name: str, allowed: str) -> list:
  """The items of a list, a generator or an array, but not of a dict or set."""
  if hasattr(value, "__array__"):
    return list(np.atleast_1d(_array(value, name)))
  unordered = Mapping | set | frozenset
  if isinstance(value, unordered) or not isinstance(value, Iterable):
    raise errors.UserError(name, told(value), allowed, "Give a list of them.")
  return list(value)


def _array(value: Any, name: str) -> np.ndarray:
  try:
    return np.asarray(value)
  except Exception as e:  # torch raises for GPU, bfloat16 and gradients.
    allowed, remedy = "an array in host memory", f"It says: {e}."
    raise errors.UserError(name, told(value), allowed, remedy) from e


def pixels(value: Any, name: str) -> np.ndarray | PIL.Image.Image:
  """Returns uint8 [h, w, 3]; gray and transparent arrays as PIL images.

  Raises:
    UserError: for what is not an array, or not such a picture.
  """
  allowed = "a path, bytes, an open file, uint8 [h, w, 3] or a PIL image"
  if not hasattr(value, "__array__"):
    remedy = "Give one picture, or a list of them."
    raise errors.UserError(name, told(value), allowed, remedy)
  array = _array(value, name)
  channels = array.shape[2] if array.ndim == 3 else 0
  if array.dtype != np.uint8:
    remedy = "Scale it to 0..255 and convert it: its white level is not known."
  elif not array.size:
    remedy = "It has no pixels."
  elif channels == 3:
    return array
  elif array.ndim == 2 or channels in (1, 4):
    return PIL.Image.fromarray(array[..., 0] if channels == 1 else array)
  else:
    remedy = "Channels come last, as in [h, w, 3]; several are [n, h, w, 3]."
  raise errors.UserError(name, told(array), allowed, remedy)


def texts(value: Texts, name: str) -> list[str]:
  """Returns a list of texts, of one or several.

  Raises:
    UserError: naming the item, as texts[3], that is not a text.
  """
  if isinstance(value, str | Bytes):
    return [_text(value, name)]
  several = _several(value, name, _TEXTS)
  return [_text(x, f"{name}[{i}]") for i, x in enumerate(several)]


def _text(value: Any, name: str) -> str:
  if isinstance(value, str):
    return str(value)  # Also converts NumPy's str.
  if not isinstance(value, Bytes):
    remedy = "Give str, one for each text."
    raise errors.UserError(name, told(value), "a text", remedy)
  try:
    return bytes(value).decode()
  except UnicodeDecodeError as e:
    remedy = f"These bytes are not UTF-8: {e}."
    raise errors.UserError(name, told(value), "a text", remedy) from e


def count(value: Any, name: str, most: int) -> int:
  """Returns a whole number from 1 to `most`, or raises UserError."""
  try:
    number = operator.index(value)
  except TypeError:
    number = 0
  if isinstance(value, bool) or not 1 <= number <= most:
    allowed = f"a whole number from 1 to {most}"
    remedy = "Leave it out for the default."
    raise errors.UserError(name, value, allowed, remedy)
  return number


def told(value: Any) -> str:
  """Returns a short description of any value, for errors."""
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    return f"{value.dtype} {list(value.shape)}"
  return f"{type(value).__name__}: {reprlib.repr(value)}"
