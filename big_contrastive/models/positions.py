"""Fixed positions of patches."""

from typing import Literal

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


Table = Literal["sincos2d", "sincos2d_moco", "sincos2d_mae"]


def sincos2d(side: int, width: int, table: Table = "sincos2d") -> np.ndarray:
  """Returns fixed positions [side * side, width], row by row.

  A quarter of the width each for sin and cos of both coordinates. The published
  tables differ: big_vision's ("sincos2d") has the column first, and wavelengths
  from 2 pi to 20,000 pi, both included; MAE's (arXiv:2111.06377) the column
  first and MoCo v3's (2104.02057) the row, and the last wavelength is left out.
  """
  if width % 4:
    remedy = 'Change the width or use pos="learned".'
    raise errors.UserError("width", width, "a multiple of 4", remedy)
  row, column = np.mgrid[:side, :side]
  ends = table == "sincos2d"
  omega = 1 / 10_000 ** np.linspace(0, 1, width // 4, endpoint=ends)
  order = (row, column) if table == "sincos2d_moco" else (column, row)
  first, second = (np.outer(v.ravel(), omega) for v in order)
  waves = (np.sin(first), np.cos(first), np.sin(second), np.cos(second))
  return np.concatenate(waves, axis=1).astype(np.float32)
