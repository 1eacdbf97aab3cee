"""Preprocessing: named operations with arguments, checked when parsed.

  [("random_resized_crop", {"size": 224, "area": (0.5, 1)}), ("flip_lr", {})]

Each operation is a function of this module: (image, rng, **arguments) ->
image. A size is the side of a square or (height, width). Values stay uint8;
normalization happens on the device.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps

from big_contrastive.config import errors, schema
from big_contrastive.data.transforms import decode as decoding
from big_contrastive.data.transforms import geometry
from big_contrastive.data.transforms import naflex as patches
from big_contrastive.data.transforms.color import color_jitter, grayscale
from big_contrastive.data.transforms.decode import decode as decode
from big_contrastive.data.transforms.decode import limited, pixels

Image = PIL.Image.Image
Rng = Any  # np.random.Generator; None in evaluation.
Method = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Rounding = Literal["nearest", "down"]
Size = int | tuple | list
Ops = Sequence[functools.partial]


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
  image: Image,
  rng: Rng,
  *,
  size: int,
  method: Method = "bicubic",
  rounding: Rounding = "nearest",
) -> Image:
  """Resizes so that the shorter side is `size`, antialiased.

  The longer side is rounded: "down" by torchvision and transformers. A result
  that is too large is a bad record, unless a crop follows: see Pipeline.
  """
  w, h = geometry.longer(image.size, size, rounding)
  return image.resize(limited(w, h), _resampling(method))


def center_crop(
  image: Image, rng: Rng, *, size: Size, rounding: Rounding = "down"
) -> Image:
  """Cuts the size out of the middle; a smaller image is padded black.

  The corner is rounded: "nearest", and half to even, by torchvision.
  """
  left, top = geometry.middle(image.size, _pair(size), rounding)
  return _framed(image, left, top, _pair(size))


def random_crop(
  image: Image, rng: Rng, *, size: Size, padding: int = 0
) -> Image:
  """Cuts the size out at a random position; padding repeats the edge."""
  crop = geometry.cut(np.asarray(image), rng, _pair(size), padding)
  return PIL.Image.fromarray(crop)


def random_resized_crop(
  image: Image,
  rng: Rng,
  *,
  size: Size,
  area: tuple | list = (0.08, 1.0),
  aspect: tuple | list = (3 / 4, 4 / 3),
  method: Method = "bicubic",
) -> Image:
  """Cuts out a box and resizes it, antialiased (arXiv:1409.4842, section 6).

  Its fraction of the area and its width / height are drawn between the bounds.
  If ten draws don't fit, it is the largest box with an allowed width / height.
  """
  box = geometry.part(image.size, rng, area, aspect)
  return image.resize(_pair(size)[::-1], _resampling(method), box)


def flip_lr(image: Image, rng: Rng, *, p: float = 0.5) -> Image:
  """Mirrors left and right with probability p."""
  return PIL.ImageOps.mirror(image) if rng.random() < p else image


def naflex(
  image: Image,
  rng: Rng,
  *,
  patch: int,
  most: int,
  method: Method = "bilinear",
) -> np.ndarray:
  """Keeps the shape: resizes to at most `most` patches, and cuts them out.

  Must be the last operation, with config.model.image.max_patches = most
  (SigLIP 2's NaFlex, arXiv:2502.14786): uint8 [most + 1, patch * patch, 3].
  """
  w, h = patches.fit(image.size, patch, most)
  resized = image.resize((w * patch, h * patch), _resampling(method))
  return patches.pack(np.asarray(resized), patch, most)


_FIXED = (resize, resize_shortest, center_crop, naflex)
_RANDOM = (random_crop, random_resized_crop, flip_lr, color_jitter, grayscale)
_CROPS = (center_crop, random_crop)
_OPS = {op.__name__: op for op in (*_FIXED, *_RANDOM)}
_BOUNDS = {
  "size": (1, 2**15), "padding": (0, 2**15), "area": (1e-4, 1),
  "aspect": (1e-2, 1e2), "hue": (0, 0.5), "p": (0, 1),
  "brightness": (0, 1), "contrast": (0, 1), "saturation": (0, 1),
  "patch": (2, 2**8), "most": (1, 2**14),
}  # fmt: skip


def _pair(size: Size) -> tuple[int, int]:
  """Height and width."""
  return (size, size) if isinstance(size, int) else (size[0], size[1])


def _framed(image: Image, left: int, top: int, size: tuple[int, int]) -> Image:
  return image.crop((left, top, left + size[1], top + size[0]))


def _arguments(op: functools.partial) -> dict[str, Any]:
  """All arguments of an operation, converted for PIL and NumPy."""
  kwargs = (op.func.__kwdefaults__ or {}) | op.keywords
  for name, read in (("size", _pair), ("method", _resampling)):
    if name in kwargs:
      kwargs[name] = read(kwargs[name])
  return kwargs


def _at_once(
  image: Image, rng: Rng, first: functools.partial, second: functools.partial
) -> Image | np.ndarray:
  """resize_shortest and a crop; the image between them may have any size."""
  how, cut = _arguments(first), _arguments(second)
  full_size = geometry.longer(image.size, how["size"][0], how["rounding"])
  if math.prod(full_size) <= decoding.MAX_PIXELS:
    return second(first(image, rng), rng)
  random = second.func is random_crop
  place = (
    geometry.corner(full_size, rng, **cut)
    if random
    else geometry.middle(full_size, **cut)
  )
  size = cut["size"]
  part, *place = geometry.of_resized(
    image, full_size, *place, size, how["method"]
  )
  if random:
    return geometry.at(np.asarray(part), *place, size)
  return _framed(part, *place, size)


def _resampling(method: str) -> PIL.Image.Resampling:
  return PIL.Image.Resampling[method.upper()]


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """(bytes or uint8 array, rng) -> uint8 [h, w, 3], or patches; see parse."""

  ops: tuple[functools.partial, ...]
  size: tuple[int, ...]  # As models/vit.py's `takes`.
  scaled: bool = False

  def __call__(self, data: bytes | np.ndarray, rng: Rng = None) -> np.ndarray:
    image, ops = self._decoded(data, rng)
    while ops:
      op, *ops = ops
      if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
      if op.func is resize_shortest and ops and ops[0].func in _CROPS:
        image = _at_once(image, rng, op, ops.pop(0))
      else:
        image = op(image, rng)
    return np.asarray(image)

  @functools.cached_property
  def _first(self) -> tuple[Callable, Ops, dict[str, Any]]:
    """The first operation, the others, and all arguments of the first."""
    first, *rest = self.ops
    return first.func, rest, _arguments(first)

  def _decoded(self, data: Any, rng: Rng) -> tuple[Image | np.ndarray, Ops]:
    """The image, as small as the first operation allows, and the other ops."""
    first, rest, kwargs = self._first
    if self.scaled and first is random_crop:
      return geometry.cut(pixels(data), rng, **kwargs), rest
    if self.scaled and first is random_resized_crop:
      return geometry.while_decoding(data, rng, **kwargs), rest
    if self.scaled and first in (resize, resize_shortest):
      side = geometry.SPARE * max(kwargs["size"])
      return decode(data, lambda full_size: min(full_size) / side), self.ops
    return decode(data), self.ops


def parse(ops: Sequence[Any], where: str, train: bool = True) -> Pipeline:
  """Returns the pipeline of [(name, arguments), ...] or ["name", ...].

  Args:
    ops: as in a config, or as JSON gives it back.
    where: the config field, for errors.
    train: False for evaluation, where nothing may be random. In training, a
      JPEG is decoded at a reduced size if that is enough: see geometry.

  Raises:
    UserError: for a name, an argument or a value that is not allowed, and for
      a pipeline whose results are not all of one size.
  """
  bound, size = [], None
  for i, op in enumerate(ops):
    bound.append(_bind(op, f"{where}[{i}]", train))
    kwargs = bound[-1].keywords
    if bound[-1].func is naflex:
      size = kwargs["most"], kwargs["patch"], kwargs["patch"]
      if i + 1 < len(ops):
        allowed = "the last operation"
        raise errors.UserError(f"{where}[{i}]", "naflex", allowed, "Move it.")
    elif op_size := kwargs.get("size"):
      size = None if bound[-1].func is resize_shortest else _pair(op_size)
  if size is None:
    allowed = "operations that make all images equally large"
    named = [op.func.__name__ for op in bound]
    remedy = "Add a resize or a crop at the end."
    raise errors.UserError(where, named, allowed, remedy)
  return Pipeline(tuple(bound), size, scaled=train)


def _bind(op: Any, at: str, train: bool) -> functools.partial:
  """The operation with its arguments, whose names and ranges are checked."""
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
  schema.bind(function, kwargs, at)
  bound = functools.partial(function, **kwargs)
  needed = {"size", "patch", "most"} & set(known)
  kwargs = dict.fromkeys(needed) | kwargs
  for key, value in kwargs.items():
    if allowed := _wrong(key, value, kwargs):
      remedy = f"Write it like ({name!r}, {{{key!r}: ...}})."
      raise errors.UserError(f"{at}.{key}", value, allowed, remedy)
  return bound


def _wrong(key: str, value: Any, kwargs: dict[str, Any]) -> str:
  """The allowed values, if this one is not allowed; else ""."""
  if key not in _BOUNDS:
    lanczos = kwargs.get("method") == "lanczos"
    return "True with lanczos" if lanczos and value is False else ""
  low, high = _BOUNDS[key]
  numbers = list(value) if isinstance(value, tuple | list) else [value] * 2
  integers = ("size", "padding", "patch", "most")
  kinds = (int,) if key in integers else (int, float)
  good = all(type(n) in kinds and low <= n <= high for n in numbers)
  good = good and len(numbers) == 2
  pair = "two numbers, ascending, " if key in ("area", "aspect") else ""
  good = good and not (pair and numbers != sorted(numbers))
  return "" if good else f"{pair}from {low} to {high}"
