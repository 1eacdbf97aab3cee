"""Pipelines of operations, over an image of their own or a shared one."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from big_contrastive.data.transforms import crops, geometry
from big_contrastive.data.transforms import decode as decoding
from big_contrastive.data.transforms.decode import decode, pixels

Image = PIL.Image.Image
Rng = Any  # np.random.Generator; None in evaluation.
Ops = Sequence[functools.partial]

CROPS = (crops.center_crop, crops.random_crop)


class Begun(NamedTuple):
  """A pipeline whose image is not decoded yet."""

  spare: decoding.Spare | None  # See decode; None if no side may shrink.
  end: Callable[[Image], np.ndarray]  # Of the image, after `spare`.


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """(bytes or uint8 array, rng) -> uint8 [h, w, 3], or patches.

  Args:
    ops: operations with their arguments, see operations.parse.
    size: of results, as models/vit.py's `takes`.
    scaled: whether a JPEG is decoded at a reduced size if that is enough.
  """

  ops: tuple[functools.partial, ...]
  size: tuple[int, ...]
  scaled: bool = False

  def __call__(self, data: bytes | np.ndarray, rng: Rng = None) -> np.ndarray:
    first, rest, kwargs = self._first
    if self.scaled and first is crops.random_crop:
      return _run(geometry.cut(pixels(data), rng, **kwargs), rest, rng)
    begun = self.begin(rng)
    return begun.end(decode(data, begun.spare))

  def blank(self) -> np.ndarray:
    """Returns a result of the shape and dtype of all; not for random ones."""
    return self(np.zeros((32, 32, 3), np.uint8))

  def described(self) -> str:
    """Returns its operations and their arguments, as JSON."""
    ops = [(op.func.__name__, _arguments(op)) for op in self.ops]
    return json.dumps([self.scaled, ops], sort_keys=True, default=str)

  def begin(self, rng: Rng) -> Begun:
    """Returns what it needs of the image that is decoded, and what it does.

    Args:
      rng: a generator that nothing else draws from in between.
    """
    first, rest, kwargs = self._first
    if self.scaled and first is crops.random_resized_crop:
      crop = geometry.RandomResizedCrop(rng, **kwargs)
      return Begun(crop.spare, lambda image: _run(crop.of(image), rest, rng))
    if self.scaled and first in (crops.resize, crops.resize_shortest):
      side = geometry.SPARE * max(kwargs["size"])
      end = functools.partial(_run, ops=self.ops, rng=rng)
      return Begun(lambda full_size: min(full_size) / side, end)
    return Begun(None, functools.partial(_run, ops=self.ops, rng=rng))

  @functools.cached_property
  def _first(self) -> tuple[Callable, Ops, dict[str, Any]]:
    """The first operation, the others, and all arguments of the first."""
    first, *rest = self.ops
    return first.func, rest, _arguments(first)


Jobs = Sequence[tuple[Pipeline, Rng]]


def together(
  data: bytes | np.ndarray, jobs: Jobs, beside: Jobs = ()
) -> list[np.ndarray]:
  """Returns what each pipeline makes of an image that is decoded only once.

  All boxes are drawn first. A JPEG is decoded at the least size that is enough
  for all of them, where a pipeline alone decodes it at the least that is enough
  for itself. Of other images each pipeline makes the same as alone.

  Args:
    data: see decode.
    jobs: pipelines, each with a generator of its own.
    beside: pipelines for which it is decoded as large, but that make nothing.
  """
  begun = [pipeline.begin(rng) for pipeline, rng in (*jobs, *beside)]

  def spare(full_size: tuple[int, int]) -> float:
    return min(one.spare(full_size) if one.spare else 1.0 for one in begun)

  image = decode(data, spare if any(one.spare for one in begun) else None)
  return [one.end(image) for one in begun[: len(jobs)]]


def _run(image: Image | np.ndarray, ops: Ops, rng: Rng) -> np.ndarray:
  """The image after the operations."""
  while ops:
    op, *ops = ops
    if isinstance(image, np.ndarray):
      image = PIL.Image.fromarray(image)
    if op.func is crops.resize_shortest and ops and ops[0].func in CROPS:
      image = _at_once(image, rng, op, ops.pop(0))
    else:
      image = op(image, rng)
  return np.asarray(image)


def _at_once(
  image: Image, rng: Rng, first: functools.partial, second: functools.partial
) -> Image | np.ndarray:
  """resize_shortest and a crop; the image between them may have any size."""
  how, cut = _arguments(first), _arguments(second)
  full_size = geometry.longer(image.size, how["size"][0], how["rounding"])
  if math.prod(full_size) <= decoding.MAX_PIXELS:
    return second(first(image, rng), rng)
  random = second.func is crops.random_crop
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
  return crops.framed(part, *place, size)


def _arguments(op: functools.partial) -> dict[str, Any]:
  """All arguments of an operation, converted for PIL and NumPy."""
  kwargs = (op.func.__kwdefaults__ or {}) | op.keywords
  for name, read in (("size", crops.pair), ("method", crops.resampling)):
    if name in kwargs:
      kwargs[name] = read(kwargs[name])
  return kwargs
