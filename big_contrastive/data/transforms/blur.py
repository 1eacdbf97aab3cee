"""The operation gaussian_blur of operations.parse."""

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

Image = PIL.Image.Image
Rng = Any  # np.random.Generator.

_SEEN = 1e-9  # Smaller weights move no level: a narrow Gaussian takes less.


def gaussian_blur(
  image: Image,
  rng: Rng,
  *,
  p: float = 0.5,
  sigma: tuple | list = (0.1, 2.0),
  kernel: int | None = None,
) -> Image:
  """Blurs with probability p; sigma, in pixels, is drawn between the bounds.

  Without a kernel as PIL does, by box filters that repeat the edge (MoCo v2,
  arXiv:2003.04297). A kernel is the width of a Gaussian that is cut off there,
  outside of the image is black (SimCLR, arXiv:2002.05709, with a tenth of the
  side).
  """
  deviation = drawn(rng, p, sigma)
  return image if deviation is None else blurred(image, deviation, kernel)


def drawn(rng: Rng, p: float, sigma: tuple | list) -> float | None:
  """Returns gaussian_blur's standard deviation in pixels; None for no blur."""
  return rng.uniform(*sigma) if rng.random() < p else None


def blurred(image: Image, sigma: float, kernel: int | None = None) -> Image:
  """Returns a blurred image, see gaussian_blur."""
  if kernel is None:
    return image.filter(PIL.ImageFilter.GaussianBlur(sigma))
  half = kernel // 2
  weights = np.exp(-((np.arange(half + 1) / sigma) ** 2) / 2)
  weights /= 2 * weights.sum() - weights[0]
  weights = weights[weights > _SEEN]
  values = np.asarray(image, np.float32)
  for axis in (1, 0):
    values = _convolved(values, weights.astype(np.float32), axis)
  return PIL.Image.fromarray(np.rint(values).astype(np.uint8))


def _convolved(
  values: np.ndarray, weights: np.ndarray, axis: int
) -> np.ndarray:
  """Convolves along an axis, zeros outside.

  Args:
    values: float32 [h, w, 3].
    weights: from the middle of the kernel to its end.
    axis: 0 or 1.
  """
  side, half = values.shape[axis], len(weights) - 1
  pads = [(0, 0)] * 3
  pads[axis] = half, half
  padded = np.pad(values, pads)

  def moved(by: int) -> np.ndarray:
    where = [slice(None)] * 3
    where[axis] = slice(half + by, half + by + side)
    return padded[tuple(where)]

  total = weights[0] * values
  for by in range(1, half + 1):
    both = moved(by) + moved(-by)
    both *= weights[by]
    total += both
  return total
