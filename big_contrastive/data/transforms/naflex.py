"""Images of any shape as patches, for NaFlex (SigLIP 2, arXiv:2502.14786)."""

import math

import numpy as np

# Range and precision of Siglip2ImageProcessor's search; borderline sizes depend
# on them.
_LEAST, _MOST, _CLOSE = 1e-6, 100.0, 1e-5


def fit(size: tuple[int, int], patch: int, most: int) -> tuple[int, int]:
  """Returns the width and height of an image in patches, after resizing.

  Takes the largest scale at which at most `most` patches cover the image, so
  the shape is kept up to a patch.

  Args:
    size: width and height in pixels.
    patch: side of a patch.
    most: the largest number of patches.
  """

  def covered(scale: float) -> tuple[int, int]:
    w, h = (max(1, math.ceil(side * scale / patch)) for side in size)
    return w, h

  low, high = _LEAST, _MOST
  while high - low >= _CLOSE:
    middle = (low + high) / 2
    if math.prod(covered(middle)) <= most:
      low = middle
    else:
      high = middle
  return covered(low)


def pack(pixels: np.ndarray, patch: int, most: int) -> np.ndarray:
  """Returns uint8 [most + 1, patch * patch, 3]; see models/naflex.py.

  Args:
    pixels: uint8 [h, w, 3]; both sides are multiples of the patch's.
    patch: side of a patch.
    most: number of patches in the result; missing ones are zeros.
  """
  h, w = (side // patch for side in pixels.shape[:2])
  packed = np.zeros((most + 1, patch * patch, 3), np.uint8)
  cut = pixels.reshape(h, patch, w, patch, 3).swapaxes(1, 2)
  packed[: h * w] = cut.reshape(h * w, patch * patch, 3)
  packed[-1, :2, :2] = [divmod(h, 256), divmod(w, 256)]
  return packed
