"""Positions of patches: fixed ones, and learned ones for images of any size."""

import functools
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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
Resize = Literal["clean", "dino", "antialias"]


def sincos2d(
  rows: int, width: int, table: Table = "sincos2d", columns: int | None = None
) -> np.ndarray:
  """Returns fixed positions [rows * columns, width], row by row.

  A quarter of the width each for sin and cos of both coordinates. The published
  tables differ: big_vision's ("sincos2d") has the column first, and wavelengths
  from 2 pi to 20,000 pi, both included; MAE's (arXiv:2111.06377) the column
  first and MoCo v3's (2104.02057) the row, and the last wavelength is left out.

  Args:
    rows, columns: of patches; a square without columns.
    width: a multiple of 4.
    table: see above.
  """
  if width % 4:
    remedy = 'Change the width or use pos="learned".'
    raise errors.UserError("width", width, "a multiple of 4", remedy)
  row, column = np.mgrid[:rows, : columns or rows]
  ends = table == "sincos2d"
  omega = 1 / 10_000 ** np.linspace(0, 1, width // 4, endpoint=ends)
  order = (row, column) if table == "sincos2d_moco" else (column, row)
  first, second = (np.outer(v.ravel(), omega) for v in order)
  waves = (np.sin(first), np.cos(first), np.sin(second), np.cos(second))
  return np.concatenate(waves, axis=1).astype(np.float32)


def resized(
  table: Float[Array, "cells w"], grid: tuple[int, int], how: Resize = "clean"
) -> Float[Array, "patches w"]:
  """Returns the positions of a grid of patches, row by row, by bicubic weights.

  "clean" is torch's bicubic interpolation without antialiasing, as transformers
  and DINOv2 have it; "antialias" that with it, timm's. "dino" is DINO's
  (arXiv:2104.14294): for n places of a table of side s the step between them is
  s / (n + 0.1), not s / n.

  Args:
    table: learned, of a square, row by row.
    grid: rows and columns of patches.
    how: see above.
  """
  side = math.isqrt(len(table))
  rows, columns = (_weights(side, size, how) for size in grid)
  square = table.reshape(side, side, -1)
  x = jnp.einsum("ri,cj,ijw->rcw", rows, columns, square, precision="highest")
  return x.reshape(-1, table.shape[1])


@functools.cache
def _weights(side: int, size: int, how: Resize) -> np.ndarray:
  """Returns [size, side] float32: the weights of cells at places; sums of 1."""
  step = side / (size + 0.1 if how == "dino" else size)
  center = (np.arange(size) + 0.5) * step - 0.5
  if how == "antialias":
    far = np.abs(np.arange(side) - center[:, None]) / max(1.0, step)
    weights = _cubic(far, -0.5)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype(np.float32)
  weights = np.zeros((size, side))
  for offset in (-1, 0, 1, 2):
    cell = np.floor(center) + offset
    # The cells at the border stand for those beyond it.
    at = np.arange(size), np.clip(cell, 0, side - 1).astype(int)
    np.add.at(weights, at, _cubic(np.abs(cell - center), -0.75))
  return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' kernel at distances x: 1 at 0, and 0 at 1 and from 2 on."""
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
