"""Preprocessing: named operations with arguments, checked when parsed.

  [("random_resized_crop", {"size": 224, "area": (0.5, 1)}), ("flip_lr", {})]

Each operation is a function of this module: (image, rng, **arguments) ->
image. Values stay uint8; normalisation happens on the device.
"""

import dataclasses
import inspect
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps

from big_contrastive import errors, resolve

Image = PIL.Image.Image
Rng = np.random.Generator | None
Method = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def decode(data: bytes | np.ndarray) -> Image:
  """Returns an RGB image; alpha is laid on white, EXIF rotation is applied.

  Raises:
    ValueError or OSError: for bytes that are no image.
  """
  if isinstance(data, np.ndarray):
    return PIL.Image.fromarray(data).convert("RGB")
  image = PIL.Image.open(io.BytesIO(data))
  image.load()
  image = PIL.ImageOps.exif_transpose(image)
  if image.mode.startswith("I"):  # 16 bits: PIL would clip, not scale.
    scaled = np.asarray(image, np.float32) / 257
    image = PIL.Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
  if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or (
    "transparency" in image.info
  ):
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  return image.convert("RGB")


def resize(
  image: Image, rng: Rng, *, size: int, method: Method = "bicubic"
) -> Image:
  """Squashes to size x size, antialiased; the aspect ratio is lost."""
  return image.resize((size, size), _resampling(method))


def resize_shortest(
  image: Image, rng: Rng, *, size: int, method: Method = "bicubic"
) -> Image:
  """Resizes so that the shorter side is `size`, antialiased."""
  scale = size / min(image.size)
  new = tuple(max(size, round(side * scale)) for side in image.size)
  return image.resize(new, _resampling(method))


def center_crop(image: Image, rng: Rng, *, size: int) -> Image:
  """Cuts size x size out of the middle; a smaller image is padded black."""
  left, top = ((side - size) // 2 for side in image.size)
  return image.crop((left, top, left + size, top + size))


def random_crop(
  image: Image, rng: Rng, *, size: int, padding: int = 0
) -> Image:
  """Cuts size x size out of anywhere, of the image with edges repeated."""
  pad = max(padding, *((size - side + 1) // 2 for side in image.size))
  if pad:
    around = ((pad, pad), (pad, pad), (0, 0))
    image = PIL.Image.fromarray(np.pad(np.asarray(image), around, "edge"))
  left, top = (int(rng.integers(s - size + 1)) for s in image.size)
  return image.crop((left, top, left + size, top + size))


def random_resized_crop(
  image: Image,
  rng: Rng,
  *,
  size: int,
  area: tuple | list = (0.08, 1.0),
  aspect: tuple | list = (3 / 4, 4 / 3),
  method: Method = "bicubic",
) -> Image:
  """Cuts a part of random area and aspect ratio, and resizes it (Inception).

  Args:
    image, rng: as everywhere.
    size: of the square result.
    area: smallest and largest part of the image's area.
    aspect: smallest and largest width / height.
    method: of resampling.
  """
  width, height = image.size
  for _ in range(10):
    pixels = width * height * rng.uniform(*area)
    ratio = math.exp(rng.uniform(*map(math.log, aspect)))
    w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
    if 0 < w <= width and 0 < h <= height:
      break
  else:
    w = h = min(width, height)
  left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
  box = (left, top, left + w, top + h)
  return image.resize((size, size), _resampling(method), box)


def flip_lr(image: Image, rng: Rng, *, p: float = 0.5) -> Image:
  """Mirrors left and right with probability p."""
  return PIL.ImageOps.mirror(image) if rng.random() < p else image


def color_jitter(
  image: Image,
  rng: Rng,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  p: float = 1.0,
) -> Image:
  """Scales each property by a factor in [1 - x, 1 + x], in random order."""
  if rng.random() >= p:
    return image
  changes = [
    (PIL.ImageEnhance.Brightness, brightness),
    (PIL.ImageEnhance.Contrast, contrast),
    (PIL.ImageEnhance.Color, saturation),
  ]
  for i in rng.permutation(len(changes)):
    enhancer, strength = changes[i]
    image = enhancer(image).enhance(rng.uniform(max(0, 1 - strength), 1 + strength))
  return image


def grayscale(image: Image, rng: Rng, *, p: float = 0.2) -> Image:
  """Takes the colour away with probability p."""
  return image.convert("L").convert("RGB") if rng.random() < p else image


_FIXED = (resize, resize_shortest, center_crop)
_RANDOM = (random_crop, random_resized_crop, flip_lr, color_jitter, grayscale)
_OPS = {op.__name__: op for op in (*_FIXED, *_RANDOM)}
_SQUARE = {"resize", "center_crop", "random_crop", "random_resized_crop"}


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """(bytes or uint8 [h, w, 3], rng) -> uint8 [size[0], size[1], 3].

  Args:
    ops: (image, rng) -> image, one after the other.
    size: height and width of every result.
  """

  ops: tuple[Callable[[Image, Rng], Image], ...]
  size: tuple[int, int]

  def __call__(self, data: bytes | np.ndarray, rng: Rng = None) -> np.ndarray:
    image = decode(data)
    for op in self.ops:
      image = op(image, rng)
    return np.asarray(image)


def parse(ops: Sequence[Any], where: str, train: bool = True) -> Pipeline:
  """Returns the pipeline of [(name, arguments), ...] or ["name", ...].

  Args:
    ops: as in a config, or as JSON gives it back.
    where: the config field, for errors.
    train: False for evaluation, where nothing may be random.

  Raises:
    UserError: for a name, an argument or a value that is not allowed, and for
      a pipeline whose results are not all of one size.
  """
  bound, size = [], None
  for i, op in enumerate(ops):
    at = f"{where}[{i}]"
    name, kwargs = _name_and_arguments(op, at)
    function = _OPS[errors.choice(at, name, _OPS)]
    if not train and function in _RANDOM:
      listed = "one of " + ", ".join(f.__name__ for f in _FIXED)
      remedy = "Evaluation must not be random."
      raise errors.UserError(at, name, listed, remedy)
    bound.append(resolve.bind(function, kwargs, at))
    _check_values(function, kwargs, at)
    if "size" in kwargs:
      size = (kwargs["size"],) * 2 if name in _SQUARE else None
  if size is None:
    names = [op if isinstance(op, str) else op[0] for op in ops]
    remedy = "Add a resize or a crop behind it."
    allowed = "operations that make all images equally large"
    raise errors.UserError(where, names, allowed, remedy)
  return Pipeline(tuple(bound), size)


def _name_and_arguments(op: Any, where: str) -> tuple[str, dict[str, Any]]:
  if isinstance(op, str):
    return op, {}
  pair = isinstance(op, tuple | list) and len(op) == 2
  if not pair or not isinstance(op[0], str) or not hasattr(op[1], "items"):
    remedy = 'Write it like ("resize", {"size": 224}).'
    raise errors.UserError(where, op, "a name, or (name, arguments)", remedy)
  return op[0], dict(op[1])


_RANGES = {
  "size": ("at least 1", lambda v: v >= 1),
  "padding": ("at least 0", lambda v: v >= 0),
  "p": ("0 to 1", lambda v: 0 <= v <= 1),
  "area": ("0 < smallest <= largest <= 1", lambda v: 0 < v[0] <= v[1] <= 1),
  "aspect": ("0 < smallest <= largest", lambda v: 0 < v[0] <= v[1]),
  "brightness": ("at least 0", lambda v: v >= 0),
  "contrast": ("at least 0", lambda v: v >= 0),
  "saturation": ("at least 0", lambda v: v >= 0),
}


def _check_values(function: Callable, kwargs: dict[str, Any], at: str) -> None:
  needed = "size" in inspect.signature(function).parameters
  if needed and "size" not in kwargs:
    remedy = f"Write ({function.__name__!r}, {{'size': 224}})."
    raise errors.UserError(f"{at}.size", None, "a number of pixels", remedy)
  for key, value in kwargs.items():
    allowed, is_good = _RANGES.get(key, ("", lambda v: True))
    pair = key in ("area", "aspect")
    if (pair and len(value) != 2) or not is_good(value):
      remedy = "Give two numbers." if pair else "Give another number."
      raise errors.UserError(f"{at}.{key}", value, allowed, remedy)


def _resampling(method: str) -> PIL.Image.Resampling:
  return PIL.Image.Resampling[method.upper()]
