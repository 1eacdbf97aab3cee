"""Preprocessing: named operations with arguments, checked when parsed.

  [("random_resized_crop", {"size": 224, "area": (0.5, 1)}), ("flip_lr", {})]

Each operation is a function of this module: (image, rng, **arguments) ->
image. A size is the side of a square or (height, width). Values stay uint8;
normalisation happens on the device.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps

from big_contrastive import errors, resolve

Image = PIL.Image.Image
Rng = Any  # np.random.Generator; None in evaluation.
Method = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Size = int | tuple | list


def decode(data: bytes | np.ndarray, least: int = 0) -> Image:
  """Returns an RGB image; alpha is laid on white, EXIF rotation is applied.

  Args:
    data: an encoded image, or uint8 [h, w], [h, w, 1], [h, w, 3], [h, w, 4].
    least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is
      faster, if both sides stay that long; 0 for the whole.

  Raises:
    ValueError: for what is no image, with the decoder's reason.
  """
  try:
    if isinstance(data, np.ndarray):
      grey = data.ndim == 3 and data.shape[-1] == 1
      image = PIL.Image.fromarray(data[..., 0] if grey else data)
    else:
      image = PIL.Image.open(io.BytesIO(data))
      if least:
        image.draft("RGB", (least, least))
      image.load()
      with contextlib.suppress(Exception):  # Garbage in EXIF: a good image.
        PIL.ImageOps.exif_transpose(image, in_place=True)
    return _rgb(image)
  except Exception as e:  # Decoders raise all kinds on broken bytes.
    raise ValueError(f"no image: {type(e).__name__}: {e}") from e


def _rgb(image: Image) -> Image:
  if image.mode.startswith("I"):  # 16 bits: PIL would clip, not scale.
    scaled = np.asarray(image, np.float32) / 257
    image = PIL.Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
  if image.mode.endswith("A") or "transparency" in image.info:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  return image.convert("RGB")


def resize(
  image: Image,
  rng: Rng,
  *,
  size: Size,
  method: Method = "bicubic",
  antialias: bool = True,
) -> Image:
  """Squashes to the size; without antialias as tf.image.resize by default."""
  h, w = _pair(size)
  if antialias:
    return image.resize((w, h), _resampling(method))
  box, kind = (0, 0, *image.size), PIL.Image.Transform.EXTENT
  return image.transform((w, h), kind, box, _resampling(method))


def resize_shortest(
  image: Image, rng: Rng, *, size: int, method: Method = "bicubic"
) -> Image:
  """Resizes so that the shorter side is `size`, antialiased."""
  scale = size / min(image.size)
  w, h = (max(size, round(side * scale)) for side in image.size)
  return image.resize((w, h), _resampling(method))


def center_crop(image: Image, rng: Rng, *, size: Size) -> Image:
  """Cuts the size out of the middle; a smaller image is padded black."""
  h, w = _pair(size)
  left, top = (image.width - w) // 2, (image.height - h) // 2
  return image.crop((left, top, left + w, top + h))


def random_crop(
  image: Image, rng: Rng, *, size: Size, padding: int = 0
) -> Image:
  """Cuts the size out of anywhere; padding, also of small ones, is the edge."""
  h, w = _pair(size)
  x = max(padding, -((image.width - w) // 2))
  y = max(padding, -((image.height - h) // 2))
  if x or y:
    padded = np.pad(np.asarray(image), ((y, y), (x, x), (0, 0)), "edge")
    image = PIL.Image.fromarray(padded)
  return image.crop(_anywhere(image, rng, w, h))


def random_resized_crop(
  image: Image,
  rng: Rng,
  *,
  size: Size,
  area: tuple | list = (0.08, 1.0),
  aspect: tuple | list = (3 / 4, 4 / 3),
  method: Method = "bicubic",
) -> Image:
  """Cuts a part and resizes it, antialiased (arXiv:1409.4842, section 6).

  Its part of the area and its width / height are drawn between the bounds. If
  ten draws don't fit, it is the largest part with an allowed width / height.
  """
  width, height = image.size
  for _ in range(10):
    pixels = width * height * rng.uniform(*area)
    ratio = math.exp(rng.uniform(*map(math.log, aspect)))
    w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
    if 0 < w <= width and 0 < h <= height:
      break
  else:
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w = max(1, min(width, round(height * ratio)))
    h = max(1, min(height, round(width / ratio)))
  box = _anywhere(image, rng, w, h)
  return image.resize(_pair(size)[::-1], _resampling(method), box)


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
  hue: float = 0.0,
  p: float = 1.0,
) -> Image:
  """Scales each by a factor in [1 - x, 1 + x]; turns the hue by [-x, x] turns.

  In random order, and all of it with probability p.
  """
  if rng.random() >= p:
    return image
  strengths = (brightness, contrast, saturation, hue)
  names = ("Brightness", "Contrast", "Color")
  for i in rng.permutation(4):
    change = rng.uniform(-strengths[i], strengths[i])
    if change and i == 3:
      image = _turn_hue(image, round(256 * change))
    elif change:
      image = getattr(PIL.ImageEnhance, names[i])(image).enhance(1 + change)
  return image


def grayscale(image: Image, rng: Rng, *, p: float = 0.2) -> Image:
  """Takes the colour away with probability p."""
  return image.convert("L").convert("RGB") if rng.random() < p else image


_FIXED = (resize, resize_shortest, center_crop)
_RANDOM = (random_crop, random_resized_crop, flip_lr, color_jitter, grayscale)
_OPS = {op.__name__: op for op in (*_FIXED, *_RANDOM)}
_BOUNDS = {
  "size": (1, 2**15), "padding": (0, 2**15), "area": (1e-4, 1),
  "aspect": (1e-2, 1e2), "hue": (0, 0.5), "p": (0, 1),
  "brightness": (0, 1), "contrast": (0, 1), "saturation": (0, 1),
}  # fmt: skip


def _turn_hue(image: Image, turn: int) -> Image:
  h, s, v = image.convert("HSV").split()
  h = h.point([(i + turn) % 256 for i in range(256)])
  return PIL.Image.merge("HSV", (h, s, v)).convert("RGB")


def _anywhere(image: Image, rng: Rng, w: int, h: int) -> tuple[int, ...]:
  left = int(rng.integers(image.width - w + 1))
  top = int(rng.integers(image.height - h + 1))
  return left, top, left + w, top + h


def _pair(size: Size) -> tuple[int, int]:
  """Height and width."""
  return (size, size) if isinstance(size, int) else (size[0], size[1])


def _resampling(method: str) -> PIL.Image.Resampling:
  return PIL.Image.Resampling[method.upper()]


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """(bytes or uint8 array, rng) -> uint8 [size[0], size[1], 3]; see parse."""

  ops: tuple[functools.partial, ...]
  size: tuple[int, int]
  least: int = 0

  def __call__(self, data: bytes | np.ndarray, rng: Rng = None) -> np.ndarray:
    image = decode(data, self.least)
    for op in self.ops:
      image = op(image, rng)
    return np.asarray(image)


def parse(ops: Sequence[Any], where: str, train: bool = True) -> Pipeline:
  """Returns the pipeline of [(name, arguments), ...] or ["name", ...].

  Args:
    ops: as in a config, or as JSON gives it back.
    where: the config field, for errors.
    train: False for evaluation, where nothing may be random. In training, a
      JPEG is decoded at a part of its size if twice what is needed is left.

  Raises:
    UserError: for a name, an argument or a value that is not allowed, and for
      a pipeline whose results are not all of one size.
  """
  bound, size = [], None
  for i, op in enumerate(ops):
    bound.append(_bind(op, f"{where}[{i}]", train))
    if given := bound[-1].keywords.get("size"):
      size = None if bound[-1].func is resize_shortest else _pair(given)
  if size is None:
    allowed = "operations that make all images equally large"
    named = [op.func.__name__ for op in bound]
    remedy = "Add a resize or a crop behind it."
    raise errors.UserError(where, named, allowed, remedy)
  return Pipeline(tuple(bound), size, _least(bound[0]) if train else 0)


def _least(op: functools.partial) -> int:
  """The side of an image that op, the first one, shrinks to half or less."""
  side = 2 * max(_pair(op.keywords.get("size", 0)))
  if op.func is random_resized_crop:
    kwargs = op.func.__kwdefaults__ | op.keywords
    part = kwargs["area"][0] * min(kwargs["aspect"][0], 1 / kwargs["aspect"][1])
    return math.ceil(side / math.sqrt(part))
  return side if op.func in (resize, resize_shortest) else 0


def _bind(op: Any, at: str, train: bool) -> functools.partial:
  """The operation with its arguments, which are known and in range."""
  op = (op, {}) if isinstance(op, str) else op
  pair = isinstance(op, tuple | list) and len(op) == 2
  if not pair or not isinstance(op[0], str) or not hasattr(op[1], "items"):
    remedy = 'Write it like ("resize", {"size": 224}).'
    raise errors.UserError(at, op, "a name, or (name, arguments)", remedy)
  name, kwargs = op[0], dict(op[1])
  function = _OPS[errors.choice(at, name, _OPS)]
  if not train and function in _RANDOM:
    allowed = "one of " + ", ".join(f.__name__ for f in _FIXED)
    raise errors.UserError(at, name, allowed, "Evaluation must not be random.")
  known = list(inspect.signature(function).parameters)[2:]
  for key in kwargs:
    errors.choice(at, key, known)
  resolve.bind(function, kwargs, at)
  bound = functools.partial(function, **kwargs)
  kwargs = {"size": None} | kwargs if "size" in known else kwargs
  for key, value in kwargs.items():
    if allowed := _wrong(key, value, kwargs):
      remedy = f"Write it like ({name!r}, {{{key!r}: ...}})."
      raise errors.UserError(f"{at}.{key}", value, allowed, remedy)
  return bound


def _wrong(key: str, value: Any, kwargs: dict[str, Any]) -> str:
  """What is allowed, if the value is not."""
  if key not in _BOUNDS:
    lanczos = kwargs.get("method") == "lanczos"
    return "True with lanczos" if lanczos and value is False else ""
  low, high = _BOUNDS[key]
  numbers = list(value) if isinstance(value, tuple | list) else [value] * 2
  kinds = (int,) if key in ("size", "padding") else (int, float)
  good = all(type(n) in kinds and low <= n <= high for n in numbers)
  good = good and len(numbers) == 2
  pair = "two numbers, ascending, " if key in ("area", "aspect") else ""
  good = good and not (pair and numbers != sorted(numbers))
  return "" if good else f"{pair}from {low} to {high}"
