"""Adapts learned positions to another resolution or text length.

Projects differ; this does what SigLIP 2 does: images bilinear with
antialiasing. big_vision's ViT resizes bilinearly from corner to corner, without
antialiasing; OpenCLIP and timm take bicubic with antialiasing, transformers
bicubic without. Texts are cut, as in transformers. No project has positions for
longer texts, and OpenCLIP's stretching moves every position that was learned.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from big_contrastive.config import errors, rules

Shape = tuple[int, ...]
_CUT = ("txt/pos", "dec/pos")  # Positions in texts.


def fit(
  stored: dict[str, Any], expected: dict[str, Any], source: str
) -> Callable[[], dict[str, Any]]:
  """Returns a function that returns `stored` in the shapes of `expected`.

  Everything that can't be adapted is reported at once, before this returns;
  nothing is computed before the function is called.

  Args:
    stored: arrays by our names, nested.
    expected: arrays or shapes, nested.
    source: the path, for errors and the log.

  Raises:
    UserError: naming every parameter that is missing, unknown or misshapen.
  """
  flat, shapes = rules.flatten(stored), rules.shapes(expected)
  theirs = {k: tuple(v.shape) for k, v in flat.items()}
  wrong = [
    f"{k} {theirs.get(k, 'missing')} for {shapes.get(k, 'no such parameter')}"
    for k in sorted(theirs.keys() | shapes.keys())
    if theirs.get(k) != shapes.get(k)
    and not (k in theirs and k in shapes and _can(k, theirs[k], shapes[k]))
  ]
  if wrong:
    allowed = "the parameters of config.model"
    remedy = (
      "Change config.model to the variant, res, pool and text length that it "
      "was made with. Positions of images are resampled, those of texts cut."
    )
    raise errors.UserError(
      f"weights of {source}", "; ".join(wrong), allowed, remedy
    )

  def read() -> dict[str, Any]:
    has_cls = "txt/cls" in flat
    return rules.unflatten(
      {
        k: positions(k, flat[k], shape, source, last=has_cls)
        for k, shape in shapes.items()
      }
    )

  return read


def positions(
  name: str, array: np.ndarray, shape: Shape, source: str, last: bool = False
) -> np.ndarray:
  """Returns the array itself, or its positions in another shape, with a log.

  Args:
    name: of the parameter.
    array, shape: what is there, and what is needed.
    source: the path, for the log.
    last: whether the last row is that of a learned token behind texts.
  """
  if array.shape == shape:
    return array
  message = "%s: %s, learned for %d positions, %s for %d"
  if name in _CUT:
    logging.warning(message, source, name, len(array), "cut", shape[0])
    if last and name == "txt/pos":
      return np.concatenate([array[: shape[0] - 1], array[-1:]])
    return array[: shape[0]]
  logging.warning(message, source, name, len(array), "resampled", shape[0])
  side, rows = math.isqrt(shape[0]), math.isqrt(len(array))
  # A class token's position comes first and stays.
  first, rest = array[: len(array) - rows**2], array[len(array) - rows**2 :]
  return np.concatenate([first, grid(rest, side)])


def grid(array: np.ndarray, side: int) -> np.ndarray:
  """Returns [side * side, w] of [rows * rows, w]: bilinear, antialiased."""
  rows, width = math.isqrt(len(array)), array.shape[1]
  square = array.reshape(rows, rows, width).astype(np.float32)
  resized = jax.image.resize(square, (side, side, width), "linear")
  return np.asarray(resized).reshape(side * side, width)


def _can(name: str, stored: Shape, shape: Shape) -> bool:
  """Whether these are positions that can be adapted to a shape."""
  if len(stored) != 2 or len(shape) != 2 or stored[1] != shape[1]:
    return False
  if name in _CUT:
    return shape[0] <= stored[0]
  extra = {n - math.isqrt(n) ** 2 for n in (stored[0], shape[0])}
  return name == "img/pos" and extra in ({0}, {1})
