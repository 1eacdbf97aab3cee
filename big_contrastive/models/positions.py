"""Fixed positions of patches."""

import numpy as np

from big_contrastive.config import errors


class Fixed:
  """A constant table, not a parameter; compares by content."""

  def __init__(self, array: np.ndarray):
    self.array = array

  def __eq__(self, other) -> bool:
    return isinstance(other, Fixed) and np.array_equal(self.array, other.array)

  def __hash__(self) -> int:
    return hash(self.array.shape)


def sincos2d(side: int, width: int) -> np.ndarray:
  """Returns fixed positions [side * side, width] (MoCo v3, arXiv:2104.02057).

  A quarter of the width each for sin and cos of column and row, at
  wavelengths 2 pi to 20,000 pi.
  """
  if width % 4:
    remedy = 'Change the width or use pos="learned".'
    raise errors.UserError("width", width, "a multiple of 4", remedy)
  row, column = np.mgrid[:side, :side]
  omega = 1 / 10_000 ** np.linspace(0, 1, width // 4)
  row, column = (np.outer(v.ravel(), omega) for v in (row, column))
  waves = (np.sin(column), np.cos(column), np.sin(row), np.cos(row))
  return np.concatenate(waves, axis=1).astype(np.float32)
