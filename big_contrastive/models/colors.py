"""Color spaces that keep lightness apart from color, on the device.

The formulas and constants are those of scikit-image, for sRGB in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Pixels = Float[Array, "*b 3"]


def lab(rgb: Pixels) -> Pixels:
  """Returns CIE L*a*b* under D65: L from 0 to 100, a and b about +-100."""
  linear = jnp.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
  xyz = _times(linear, (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
  ))  # fmt: skip
  xyz /= _like((0.95047, 1.0, 1.08883), xyz)  # White, of the 2 degree observer.
  f = jnp.where(xyz > 0.008856, jnp.cbrt(xyz), 7.787 * xyz + 16 / 116)
  fx, fy, fz = f[..., 0], f[..., 1], f[..., 2]
  return jnp.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


def ycbcr(rgb: Pixels) -> Pixels:
  """Returns Y'CbCr of ITU-R BT.601: Y from 16 to 235, Cb, Cr from 16 to 240."""
  y = _times(rgb, (
    (65.481, 128.553, 24.966),
    (-37.797, -74.203, 112.0),
    (112.0, -93.786, -18.214),
  ))  # fmt: skip
  return y + _like((16.0, 128.0, 128.0), y)


def ydbdr(rgb: Pixels) -> Pixels:
  """Returns Y'DbDr of SECAM: Y from 0 to 1, Db and Dr within +-1.333."""
  return _times(rgb, (
    (0.299, 0.587, 0.114),
    (-0.45, -0.883, 1.333),
    (-1.333, 1.116, 0.217),
  ))  # fmt: skip


class Space(NamedTuple):
  """A color space.

  Attributes:
    of: sRGB in [0, 1] -> the space.
    mean, std: per channel, by which its values are normalized.
  """

  of: Callable[[Pixels], Pixels]
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


# Means and deviations of CMC's code; of YDbDr it has none: those of its range.
SPACES = {
  "lab": Space(lab, (50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675)),
  "ycbcr": Space(
    ycbcr, (116.151, 121.080, 132.342), (109.500, 111.855, 111.964)
  ),
  "ydbdr": Space(ydbdr, (0.5, 0.0, 0.0), (0.5, 1.333, 1.333)),
}


def normalized(image: Array, space: str) -> Pixels:
  """Returns uint8 pixels of RGB in a space of SPACES, normalized, float32."""
  found = SPACES[space]
  values = found.of(image.astype(jnp.float32) / 255)
  return (values - _like(found.mean, values)) / _like(found.std, values)


def _times(pixels: Pixels, matrix: tuple) -> Pixels:
  matrix = jnp.asarray(matrix, jnp.float32)
  return jnp.einsum("...c,dc->...d", pixels, matrix, precision="highest")


def _like(values: tuple[float, ...], pixels: Pixels) -> Pixels:
  """Returns a value per channel, to broadcast with pixels."""
  shape = (1,) * (pixels.ndim - 1) + (3,)
  return jnp.asarray(values, jnp.float32).reshape(shape)
