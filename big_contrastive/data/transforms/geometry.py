"""Boxes of crops, fixed or random, before or after an image is decoded."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image

Image = PIL.Image.Image
Rng = Any  # np.random.Generator.

# Decoded pixels per needed pixel, along a side. Against crops of a full
# decoding, crops of photos have 44 dB with 1.5, and 36 dB with 1 (see LOG.md).
SPARE = 1.5


ROUNDING: dict[str, Callable[[float], int]] = {
  "nearest": round,
  "down": math.floor,
}


def longer(
  full_size: tuple[int, int], size: int, rounding: str
) -> tuple[int, int]:
  """Returns the width and height of crops.resize_shortest."""
  integer, least = ROUNDING[rounding], min(full_size)
  w, h = (max(size, integer(size * side / least)) for side in full_size)
  return w, h


def middle(
  full_size: tuple[int, int], size: tuple[int, int], rounding: str
) -> tuple[int, int]:
  """Returns left and top of a center crop; in the padding, they are < 0."""
  integer, (width, height), (h, w) = ROUNDING[rounding], full_size, size
  return integer((width - w) / 2), integer((height - h) / 2)


def part(
  full_size: tuple[int, int],
  rng: Rng,
  area: Sequence[float],
  aspect: Sequence[float],
  central: bool = False,
) -> tuple[int, ...]:
  """Returns the box of a random resized crop in an image of that size.

  Args:
    full_size: width and height.
    rng: draws the box.
    area, aspect: see crops.random_resized_crop.
    central: whether the box is in the middle if ten draws don't fit.
  """
  width, height = full_size
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
    if central:
      left, top = (width - w) // 2, (height - h) // 2
      return left, top, left + w, top + h
  return anywhere(full_size, rng, w, h)


def anywhere(
  full_size: tuple[int, int], rng: Rng, w: int, h: int
) -> tuple[int, ...]:
  """Returns a box of w x h pixels, all positions being equally likely."""
  # A third of the time that rng.integers takes.
  left = int(rng.random() * (full_size[0] - w + 1))
  top = int(rng.random() * (full_size[1] - h + 1))
  return left, top, left + w, top + h


def corner(
  full_size: tuple[int, int], rng: Rng, size: tuple[int, int], padding: int
) -> tuple[int, int]:
  """Returns left and top of a random crop; in the padding, they are < 0."""
  x, y = (
    max(padding, (part - side + 1) // 2)
    for part, side in zip(size[::-1], full_size, strict=True)
  )
  padded = full_size[0] + 2 * x, full_size[1] + 2 * y
  left, top, _, _ = anywhere(padded, rng, *size[::-1])
  return left - x, top - y


def cut(
  pixels: np.ndarray, rng: Rng, size: tuple[int, int], padding: int
) -> np.ndarray:
  """Returns a random crop of uint8 [h, w, 3]: a view if it pads nothing."""
  height, width, _ = pixels.shape
  left, top = corner((width, height), rng, size, padding)
  return at(pixels, left, top, size)


def at(
  pixels: np.ndarray, left: int, top: int, size: tuple[int, int]
) -> np.ndarray:
  """Returns a box of uint8 [h, w, 3]; the edge is repeated outside."""
  (h, w), (height, width, _) = size, pixels.shape
  if min(left, top) >= 0 and left + w <= width and top + h <= height:
    return pixels[top : top + h, left : left + w]
  rows = np.arange(top, top + h).clip(0, height - 1)
  return pixels[rows[:, None], np.arange(left, left + w).clip(0, width - 1)]


def of_resized(
  image: Image,
  full_size: tuple[int, int],
  left: int,
  top: int,
  size: tuple[int, int],
  method: PIL.Image.Resampling,
) -> tuple[Image, int, int]:
  """Returns a part of resize(full_size, method), without the rest.

  Args:
    image: any.
    full_size: width and height after resizing.
    left, top, size: of the part; size is height and width.
    method: of resizing.

  Returns:
    The part, without what is outside of the image, but at least the nearest
    pixel; and left and top of the requested part in it.
  """
  box, near, exact = [], [], []
  for start, side, full, old in zip(
    (left, top), size[::-1], full_size, image.size, strict=True
  ):
    first = min(max(start, 0), full - 1)
    last = max(min(start + side, full), first + 1)
    # PIL has boxes of 32-bit floats, too few for thousands of pixels: crop
    # first, with the margin that the widest filter, Lanczos, needs.
    scale = old / full
    reach = 3 * max(1, scale) + 1
    low = max(0, math.floor(first * scale - reach))
    high = min(old, math.ceil(last * scale + reach))
    box.append((first, last))
    near.append((low, high))
    exact.append((first * scale - low, min(last * scale, old) - low))
  part = image.crop(
    [place for ends in zip(*near, strict=True) for place in ends]
  )
  # PIL first resizes along the side after which fewer pixels remain, and rounds
  # between the two passes.
  across = full_size[0] * image.height <= full_size[1] * image.width
  for axis in (0, 1) if across else (1, 0):
    sides, within = list(part.size), [0.0, 0.0, *part.size]
    sides[axis] = box[axis][1] - box[axis][0]
    within[axis::2] = exact[axis]
    part = part.resize(sides, method, within)
  return part, left - box[0][0], top - box[1][0]


def resized(
  image: Image,
  box: Sequence[float],
  size: tuple[int, int],
  method: PIL.Image.Resampling,
  *,
  inside: bool,
) -> Image:
  """Returns a box of an image, resized.

  Args:
    image: any.
    box: left, top, right and bottom; may be fractions.
    size: height and width.
    method: of resizing.
    inside: whether pixels outside the box, up to whole ones, don't count.
  """
  if inside:
    left, top = (math.floor(side) for side in box[:2])
    right, bottom = (math.ceil(side) for side in box[2:])
    right, bottom = min(right, image.width), min(bottom, image.height)
    image = image.crop((left, top, right, bottom))
    places = zip(box, (left, top) * 2, image.size * 2, strict=True)
    box = tuple(min(side - start, most) for side, start, most in places)
  return image.resize(size[::-1], method, box)


class RandomResizedCrop:
  """What crops.random_resized_crop does, for the same rng.

  The box is drawn before the image is decoded, so it can be decoded smaller:
  first `spare`, then `of`.

  Args:
    rng: draws the box.
    size: height and width.
    method: of resizing.
    area, aspect, as_torchvision: see crops.random_resized_crop.
  """

  def __init__(
    self,
    rng: Rng,
    size: tuple[int, int],
    method: PIL.Image.Resampling,
    *,
    area: Sequence[float],
    aspect: Sequence[float],
    as_torchvision: bool,
  ):
    self._rng, self._size, self._method = rng, size, method
    self._bounds, self._as_torchvision = (area, aspect), as_torchvision

  def spare(self, full_size: tuple[int, int]) -> float:
    """Draws the box; returns the factor by which sides may shrink.

    Args:
      full_size: width and height of the image.
    """
    box = part(full_size, self._rng, *self._bounds, self._as_torchvision)
    self._full_size, self._box = full_size, box
    (h, w), (left, top, right, bottom) = self._size, box
    return min((right - left) / w, (bottom - top) / h) / SPARE

  def of(self, image: Image) -> Image:
    """Returns the crop of the image, which may have been decoded smaller."""
    scales = [
      a / b for a, b in zip(image.size * 2, self._full_size * 2, strict=True)
    ]
    scaled = [a * b for a, b in zip(self._box, scales, strict=True)]
    how = self._size, self._method
    return resized(image, scaled, *how, inside=self._as_torchvision)
