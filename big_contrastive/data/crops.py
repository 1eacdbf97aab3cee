"""Parts of images, drawn at random, before the image is decoded or after."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from big_contrastive.data.decode import decode

Image = PIL.Image.Image
Rng = Any  # np.random.Generator.

# Pixels a side that are decoded for one that is needed: with 1.5, crops of
# photos are those of a whole decoding at 44 dB; with 1, at 36 (see LOG.md).
SPARE = 1.5


def part(
  whole: tuple[int, int],
  rng: Rng,
  area: Sequence[float],
  aspect: Sequence[float],
) -> tuple[int, ...]:
  """Returns the box of image.random_resized_crop in an image of that size."""
  width, height = whole
  for _ in range(10):
    pixels = width * height * rng.uniform(*area)
    ratio = math.exp(rng.uniform(*map(math.log, aspect)))
    w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
    if 0 < w <= width and 0 < h <= height:
      break
  else:
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w = max(1, min(width, round(height * ratio)))
    h = max(1, min(height, round(width / ratio)))
  return anywhere(whole, rng, w, h)


def anywhere(
  whole: tuple[int, int], rng: Rng, w: int, h: int
) -> tuple[int, ...]:
  """Returns a box of w x h pixels, all places being as likely."""
  # A third of the time that rng.integers takes.
  left = int(rng.random() * (whole[0] - w + 1))
  top = int(rng.random() * (whole[1] - h + 1))
  return left, top, left + w, top + h


def cut(
  pixels: np.ndarray, rng: Rng, size: tuple[int, int], padding: int
) -> np.ndarray:
  """Returns image.random_crop of uint8 [h, w, 3]: a view if it pads nothing."""
  (h, w), (height, width, _) = size, pixels.shape
  y, x = max(padding, (h - height + 1) // 2), max(padding, (w - width + 1) // 2)
  if x or y:
    pixels = np.pad(pixels, ((y, y), (x, x), (0, 0)), "edge")
    height, width, _ = pixels.shape
  left, top, right, bottom = anywhere((width, height), rng, w, h)
  return pixels[top:bottom, left:right]


def while_decoding(
  data: bytes | np.ndarray,
  rng: Rng,
  size: tuple[int, int],
  method: PIL.Image.Resampling,
  *,
  area: Sequence[float],
  aspect: Sequence[float],
) -> Image:
  """Returns what image.random_resized_crop does, for the same rng.

  The part is drawn before the image is decoded, which so may be smaller.

  Args:
    data: see decode.
    rng: that draws the part.
    size: height and width.
    method: of resizing.
    area, aspect: see image.random_resized_crop.
  """
  h, w = size
  whole, box = (1, 1), (0, 0, 1, 1)

  def spare(full: tuple[int, int]) -> float:
    nonlocal whole, box
    whole, box = full, part(full, rng, area, aspect)
    return min((box[2] - box[0]) / w, (box[3] - box[1]) / h) / SPARE

  image = decode(data, spare)
  scales = [a / b for a, b in zip(image.size * 2, whole * 2, strict=True)]
  scaled = [side * scale for side, scale in zip(box, scales, strict=True)]
  return image.resize((w, h), method, scaled)
