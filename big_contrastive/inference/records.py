"""Pictures that a user gives, as records."""

import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import decode
from big_contrastive.inference import inputs


class Records(Source):
  """Pictures as a source of records."""

  def __init__(self, images: inputs.Pictures):
    pictures = inputs.pictures(images, "images")
    self._names = list(pictures)
    self._contents = [_named(x, name) for name, x in pictures.items()]

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return {"image": self._contents[i], "id": 0}

  def name(self, i: int) -> str:
    return self._names[i]


def _named(picture: inputs.Picture, name: str) -> bytes | np.ndarray:
  """The content of a picture; errors name it."""
  try:
    return _content(picture, name)
  except errors.UserError:
    raise
  except Exception as e:  # Files and PIL's plugins raise many kinds.
    value, remedy = inputs.told(picture), f"{type(e).__name__}: {e}."
    raise errors.UserError(name, value, "a picture", remedy) from e


def _content(
  picture: inputs.Picture, name: str = "images"
) -> bytes | np.ndarray:
  """The content of a picture, as the "image" of a record."""
  if isinstance(picture, str | os.PathLike):
    return pathlib.Path(os.path.expanduser(picture)).read_bytes()
  if hasattr(picture, "read"):
    picture = picture.read()
  if isinstance(picture, bytes | bytearray | memoryview):
    return bytes(picture)
  if isinstance(picture, PIL.Image.Image):
    return decode.of_pil(picture)
  array = inputs.pixels(picture, name)
  return array if isinstance(array, np.ndarray) else _content(array, name)
