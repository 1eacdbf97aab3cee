"""NaFlex (SigLIP 2, arXiv:2502.14786): images of any shape as patches.

An image is packed by data/transforms/naflex.py: its patches, row by row, then
padding, then a row that holds the numbers of rows and columns of patches.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def unpack(
  image: Num[Array, "b rows p 3"],
) -> tuple[Num[Array, "b n p 3"], Int[Array, "b 2"]]:
  """Returns the patches, and how many rows and columns of them are real."""
  digits = image[:, -1, :2, :2].astype(jnp.int32)
  return image[:, :-1], 256 * digits[..., 0] + digits[..., 1]


def real(grid: Int[Array, "b 2"], n: int) -> Bool[Array, "b n"]:
  """Returns which of n patches are not padding."""
  return jnp.arange(n)[None] < (grid[:, :1] * grid[:, 1:])


def positions(
  table: Float[Array, "cells w"], grid: Int[Array, "b 2"], n: int
) -> Float[Array, "b n w"]:
  """Returns the positions of n patches: the table, resized for each image.

  Bilinear with antialiasing and half-pixel centers, as PyTorch's and Pillow's.

  Args:
    table: learned, of a square, row by row.
    grid: rows and columns of each image; its padding gets the last position.
    n: patches, padding included.
  """
  side = math.isqrt(table.shape[0])
  columns = grid[:, 1:]
  at = jnp.minimum(jnp.arange(n)[None], grid[:, :1] * columns - 1)
  rows = _weights(at // columns, grid[:, :1], side)
  weights = rows[..., None] * _weights(at % columns, columns, side)[:, :, None]
  weights = weights.reshape(*at.shape, side * side)
  return jnp.einsum("bnc,cw->bnw", weights, table, precision="highest")


def _weights(at: jax.Array, size: jax.Array, side: int) -> jax.Array:
  """Weights of `side` cells for place `at` of `size`, [b, n, side]; sum 1."""
  scale = side / size[..., None]
  center = (at[..., None] + 0.5) * scale
  cells = (jnp.arange(side) + 0.5)[None, None]
  far = jnp.abs(cells - center) / jnp.maximum(scale, 1.0)
  near = jnp.maximum(0.0, 1.0 - far)
  return near / near.sum(axis=-1, keepdims=True)
