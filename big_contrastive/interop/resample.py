"""Adapts learned positions to another resolution or text length.

Projects differ; this does what SigLIP 2 does: images bilinear with
antialiasing. big_vision's ViT resizes bilinearly from corner to corner, without
antialiasing; OpenCLIP and timm take bicubic with antialiasing, transformers
bicubic without. Texts are cut, as in transformers; for longer ones LONG_TEXTS
has two ways, of which "interpolate", OpenCLIP's, moves every position that was
learned, and "long_clip" (arXiv:2403.15378) none of the first 20.
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


# How many of the first positions stay as they are.
LONG_TEXTS = {"interpolate": 0, "long_clip": 20}


def fit(
  stored: dict[str, Any],
  expected: dict[str, Any],
  source: str,
  long_texts: str | None = None,
) -> Callable[[], dict[str, Any]]:
  """Returns a function that returns `stored` in the shapes of `expected`.

  Everything that can't be adapted is reported at once, before this returns;
  nothing is computed before the function is called.

  Args:
    stored: arrays by our names, nested.
    expected: arrays or shapes, nested.
    source: the path, for errors and the log.
    long_texts: one of LONG_TEXTS; None: longer texts are an error.

  Raises:
    UserError: naming every parameter that is missing, unknown or misshapen.
  """
  flat, shapes = rules.flatten(stored), rules.shapes(expected)
  theirs = {k: tuple(v.shape) for k, v in flat.items()}
  wrong = [
    f"{k} {theirs.get(k, 'missing')} for {shapes.get(k, 'no such parameter')}"
    for k in sorted(theirs.keys() | shapes.keys())
    if theirs.get(k) != shapes.get(k)
    and not (
      k in theirs
      and k in shapes
      and _can(k, theirs[k], shapes[k], long_texts, "txt/cls" in theirs)
    )
  ]
  if wrong:
    allowed = "the parameters of config.model"
    remedy = (
      "Change config.model to the variant, res, pool and text length that it "
      "was made with. Positions of images are resampled, those of texts cut; "
      'more with config.long_texts = "interpolate", or, of 22 up, "long_clip".'
    )
    raise errors.UserError(
      f"weights of {source}", "; ".join(wrong), allowed, remedy
    )

  def read() -> dict[str, Any]:
    has_cls = "txt/cls" in flat
    return rules.unflatten(
      {
        k: positions(
          k, flat[k], shape, source, last=has_cls, long_texts=long_texts
        )
        for k, shape in shapes.items()
      }
    )

  return read


def positions(
  name: str,
  array: np.ndarray,
  shape: Shape,
  source: str,
  last: bool = False,
  long_texts: str | None = None,
) -> np.ndarray:
  """Returns the array itself, or its positions in another shape, with a log.

  Args:
    name: of the parameter.
    array, shape: what is there, and what is needed.
    source: the path, for the log.
    last: whether the last row is that of a learned token behind texts.
    long_texts: one of LONG_TEXTS, where there are more positions of texts.
  """
  if array.shape == shape:
    return array
  message = "%s: %s, learned for %d positions, %s for %d"
  if name in _CUT:
    how = "cut" if shape[0] < len(array) else f"{long_texts}:"
    logging.warning(message, source, name, len(array), how, shape[0])
    behind = int(last and name == "txt/pos")
    size, rows = shape[0] - behind, array[: len(array) - behind]
    texts = rows[:size]
    if size > len(rows):
      texts = stretched(rows, size, LONG_TEXTS[long_texts])
    return np.concatenate([texts, array[len(rows) :]])
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


def stretched(rows: np.ndarray, size: int, kept: int) -> np.ndarray:
  """Returns [size, w] of the n positions [n, w]; linear between them.

  With kept = 0 position j is that at (j + 1/2) n / size - 1/2, within 0 and
  n - 1: torch's interpolation, which OpenCLIP takes. Otherwise the first stay
  as they are, and position j is that at kept + (j - kept) (n - kept) / (size -
  kept); past n - 1 the last slope goes on. Long-CLIP makes 248 of 77, with
  kept = 20.
  """
  n, j = len(rows), np.arange(size)
  if kept:
    rest = kept + (j - kept) * (n - kept) / (size - kept)
    at = np.where(j < kept, j, rest)
  else:
    at = np.clip((j + 0.5) * n / size - 0.5, 0, n - 1)
  first = np.clip(np.floor(at).astype(int), 0, max(0, n - 2))
  share = (at - first)[:, None]
  after = rows[np.minimum(first + 1, n - 1)]
  return ((1 - share) * rows[first] + share * after).astype(rows.dtype)


def _can(
  name: str, stored: Shape, shape: Shape, long_texts: str | None, cls: bool
) -> bool:
  """Whether these are positions that can be adapted to a shape."""
  if len(stored) != 2 or len(shape) != 2 or stored[1] != shape[1]:
    return False
  if name in _CUT:
    texts = stored[0] - (cls and name == "txt/pos")
    more = long_texts is not None and texts > LONG_TEXTS[long_texts] + 1
    return more or shape[0] <= stored[0]
  extra = {n - math.isqrt(n) ** 2 for n in (stored[0], shape[0])}
  return name == "img/pos" and extra in ({0}, {1})
