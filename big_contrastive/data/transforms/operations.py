"""Preprocessing: named operations with arguments, checked when parsed.

  [("random_resized_crop", {"size": 224, "area": (0.5, 1)}), ("flip_lr", {})]

Each operation is a function: (image, rng, **arguments) -> image. A size is the
side of a square or (height, width). Values stay uint8; normalization happens on
the device.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from big_contrastive.config import errors, schema
from big_contrastive.data.transforms.blur import gaussian_blur
from big_contrastive.data.transforms.color import (
  color_jitter,
  grayscale,
  solarize,
)
from big_contrastive.data.transforms.crops import (
  center_crop,
  flip_lr,
  naflex,
  pair,
  random_crop,
  random_resized_crop,
  resize,
  resize_shortest,
)
from big_contrastive.data.transforms.decode import decode as decode
from big_contrastive.data.transforms.pipeline import Pipeline
from big_contrastive.data.transforms.vectors import Vectors

_FIXED = (resize, resize_shortest, center_crop, naflex)
_RANDOM = (
  random_crop, random_resized_crop, flip_lr, color_jitter, grayscale, solarize,
  gaussian_blur,
)  # fmt: skip
_OPS = {op.__name__: op for op in (*_FIXED, *_RANDOM)}
_BOUNDS = {
  "size": (1, 2**15), "padding": (0, 2**15), "area": (1e-4, 1),
  "aspect": (1e-2, 1e2), "hue": (0, 0.5), "p": (0, 1),
  "brightness": (0, 10), "contrast": (0, 10), "saturation": (0, 10),
  "sigma": (1e-2, 1e2), "kernel": (1, 255), "threshold": (0, 2**8),
  "patch": (2, 2**8), "most": (1, 2**14),
}  # fmt: skip
_INTEGERS = ("size", "padding", "kernel", "threshold", "patch", "most")
_ASCENDING = ("area", "aspect", "sigma")


def parse(
  ops: Sequence[Any], where: str, train: bool = True
) -> Pipeline | Vectors:
  """Returns the pipeline of [(name, arguments), ...] or ["name", ...].

  Args:
    ops: as in a config, or as JSON gives it back.
    where: the config field, for errors.
    train: False for evaluation, where nothing may be random. In training, a
      JPEG is decoded at a reduced size if that is enough: see geometry.

  [("vectors", {"size": d})] alone takes images that are embedded already.

  Raises:
    UserError: for a name, an argument or a value that is not allowed, and for
      a pipeline whose results are not all of one size.
  """
  if [op[0] for op in ops if isinstance(op, tuple | list)] == ["vectors"]:
    return _vectors(ops[0], where)
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
      size = None if bound[-1].func is resize_shortest else pair(op_size)
  if size is None:
    allowed = "operations that make all images equally large"
    named = [op.func.__name__ for op in bound]
    remedy = "Add a resize or a crop at the end."
    raise errors.UserError(where, named, allowed, remedy)
  return Pipeline(tuple(bound), size, scaled=train)


def _vectors(op: Any, where: str) -> Vectors:
  """What takes one of the views of an image that is embedded already."""
  size = dict(op[1]).get("size")
  if len(op[1]) != 1 or type(size) is not int or size < 1:
    allowed = '("vectors", {"size": d}), of vectors of d numbers'
    raise errors.UserError(f"{where}[0]", op, allowed, "See embed.")
  return Vectors((size,))


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
  if key == "kernel" and (value is None or value % 2 == 0):
    return "" if value is None else "an odd number from 1 to 255"
  low, high = _BOUNDS[key]
  numbers = list(value) if isinstance(value, tuple | list) else [value] * 2
  kinds = (int,) if key in _INTEGERS else (int, float)
  good = all(type(n) in kinds and low <= n <= high for n in numbers)
  good = good and len(numbers) == 2
  two = "two numbers, ascending, " if key in _ASCENDING else ""
  good = good and not (two and numbers != sorted(numbers))
  return "" if good else f"{two}from {low} to {high}"
