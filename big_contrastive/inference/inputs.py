"""What people pass from Python: pictures and texts, one or several.

The natural reading, or an error that names the item: images[3].
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
  """What NumPy, JAX and torch have."""

  def __array__(self) -> np.ndarray: ...


Bytes = bytes | bytearray | memoryview
# A path, a file that is open, its bytes, an array, or a PIL image. Arrays are
# uint8 [h, w, 3], or as PIL has them: gray [h, w] or [h, w, 1], RGBA [h, w, 4].
Picture = (
  str | os.PathLike | io.BufferedIOBase | Bytes | Array | PIL.Image.Image
)
# One, or several: a list, a generator, an array [n, h, w, 3].
Pictures = Picture | Iterable[Picture]
# UTF-8, where it is bytes.
Texts = str | Bytes | Iterable[str | Bytes]

_PICTURES = "pictures: paths, bytes, open files, uint8 [h, w, 3] or PIL images"
_TEXTS = "a text or a list of texts"


def pictures(given: Pictures, name: str) -> dict[str, Any]:
  """Returns pictures by name: "images" if it is one, else "images[0]", ...

  Raises:
    UserError: for what is neither a picture nor several.
  """
  if _is_picture(given):
    return {name: given}
  several = _several(given, name, _PICTURES)
  return {f"{name}[{i}]": x for i, x in enumerate(several)}


def _is_picture(given: Any) -> bool:
  one = str | os.PathLike | Bytes | PIL.Image.Image
  if isinstance(given, one) or hasattr(given, "read"):
    return True
  if not hasattr(given, "__array__"):
    return False
  array = _array(given, "images")
  return array.dtype.kind not in "OSTU" and array.ndim != 4


def _several(given: Any, name: str, allowed: str) -> list:
  """The items of a list, a generator, an array; no keys of a dict."""
  if hasattr(given, "__array__"):
    return list(np.atleast_1d(_array(given, name)))
  unordered = Mapping | set | frozenset
  if isinstance(given, unordered) or not isinstance(given, Iterable):
    raise errors.UserError(name, told(given), allowed, "Give a list of them.")
  return list(given)


def _array(given: Any, name: str) -> np.ndarray:
  try:
    return np.asarray(given)
  except Exception as e:  # torch's: of a GPU, of bfloat16, with a gradient.
    allowed, remedy = "an array in host memory", f"It says: {e}."
    raise errors.UserError(name, told(given), allowed, remedy) from e


def pixels(given: Any, name: str) -> np.ndarray | PIL.Image.Image:
  """Returns uint8 [h, w, 3]; gray and transparent ones as PIL has them.

  Raises:
    UserError: for what is no array, or holds no such picture.
  """
  allowed = "a path, bytes, an open file, uint8 [h, w, 3] or a PIL image"
  if not hasattr(given, "__array__"):
    remedy = "Give one picture, or a list of them."
    raise errors.UserError(name, told(given), allowed, remedy)
  array = _array(given, name)
  channels = array.shape[2] if array.ndim == 3 else 0
  if array.dtype != np.uint8:
    remedy = "Scale it to 0..255 yourself and convert it: what is white in it?"
  elif not array.size:
    remedy = "It has no pixels."
  elif channels == 3:
    return array
  elif array.ndim == 2 or channels in (1, 4):
    return PIL.Image.fromarray(array[..., 0] if channels == 1 else array)
  else:
    remedy = "Channels come last, as in [h, w, 3]; several are [n, h, w, 3]."
  raise errors.UserError(name, told(array), allowed, remedy)


def texts(given: Texts, name: str) -> list[str]:
  """Returns a list of texts, of one or several.

  Raises:
    UserError: naming, as texts[3], what is no text.
  """
  if isinstance(given, str | Bytes):
    return [_text(given, name)]
  several = _several(given, name, _TEXTS)
  return [_text(x, f"{name}[{i}]") for i, x in enumerate(several)]


def _text(given: Any, name: str) -> str:
  if isinstance(given, str):
    return str(given)  # NumPy's, too.
  if not isinstance(given, Bytes):
    remedy = "Give str, one for each text."
    raise errors.UserError(name, told(given), "a text", remedy)
  try:
    return bytes(given).decode()
  except UnicodeDecodeError as e:
    remedy = f"These bytes are no UTF-8: {e}."
    raise errors.UserError(name, told(given), "a text", remedy) from e


def count(given: Any, name: str, most: int) -> int:
  """Returns a whole number from 1 to `most`, or raises UserError."""
  try:
    number = operator.index(given)
  except TypeError:
    number = 0
  if isinstance(given, bool) or not 1 <= number <= most:
    allowed = f"a whole number from 1 to {most}"
    raise errors.UserError(name, given, allowed, "Leave it out for the usual.")
  return number


def told(given: Any) -> str:
  """Returns a value, whatever it is, in a few words."""
  if hasattr(given, "dtype") and hasattr(given, "shape"):
    return f"{given.dtype} {list(given.shape)}"
  return f"{type(given).__name__}: {reprlib.repr(given)}"
