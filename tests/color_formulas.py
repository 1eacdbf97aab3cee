"""Color spaces by their definitions, pixel by pixel, in float64."""

import numpy as np


def lab(r, g, b):
  """CIE's definition, for a pixel of sRGB in [0, 1], D65."""

  def linear(v):
    return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4

  def f(t):
    d = 6 / 29
    return t ** (1 / 3) if t > d**3 else t / (3 * d * d) + 4 / 29

  r, g, b = linear(r), linear(g), linear(b)
  x = 0.412453 * r + 0.357580 * g + 0.180423 * b
  y = 0.212671 * r + 0.715160 * g + 0.072169 * b
  z = 0.019334 * r + 0.119193 * g + 0.950227 * b
  x, y, z = f(x / 0.95047), f(y), f(z / 1.08883)
  return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ycbcr(r, g, b):
  """ITU-R BT.601: scaled differences to luma."""
  y = 0.299 * r + 0.587 * g + 0.114 * b
  blue, red = (b - y) / (2 - 0.228), (r - y) / (2 - 0.598)
  return 16 + 219 * y, 128 + 224 * blue, 128 + 224 * red


def ydbdr(r, g, b):
  y = 0.299 * r + 0.587 * g + 0.114 * b
  return y, 1.505 * (b - y), -1.902 * (r - y)


SPACES = {"lab": lab, "ycbcr": ycbcr, "ydbdr": ydbdr}
# CMC's, of the definition of its ranges.
NORMS = {
  "lab": (
    ((0 + 100) / 2, (-86.183 + 98.233) / 2, (-107.857 + 94.478) / 2),
    ((100 - 0) / 2, (86.183 + 98.233) / 2, (107.857 + 94.478) / 2),
  ),
  "ycbcr": ((116.151, 121.080, 132.342), (109.500, 111.855, 111.964)),
  "ydbdr": ((0.5, 0, 0), (0.5, 1.333, 1.333)),
}


def normalized(image, space):
  """Float64, pixel by pixel."""
  flat = np.asarray(image).reshape(-1, 3) / 255
  mean, std = (np.array(v) for v in NORMS[space])
  found = np.array([SPACES[space](*pixel) for pixel in flat])
  return ((found - mean) / std).reshape(image.shape)
