"""Operations of operations.parse that change an image's colors."""

from typing import Any

import PIL.Image
import PIL.ImageEnhance

Image = PIL.Image.Image
Rng = Any  # np.random.Generator.


def color_jitter(
  image: Image,
  rng: Rng,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  p: float = 1.0,
) -> Image:
  """Scales each by a factor in [1 - x, 1 + x]; turns the hue by [-x, x] turns.

  In random order, and all of it with probability p.
  """
  if rng.random() >= p:
    return image
  strengths = (brightness, contrast, saturation, hue)
  names = ("Brightness", "Contrast", "Color")
  for i in rng.permutation(4):
    change = rng.uniform(-strengths[i], strengths[i])
    if change and i == 3:
      image = _turn_hue(image, round(256 * change))
    elif change:
      image = getattr(PIL.ImageEnhance, names[i])(image).enhance(1 + change)
  return image


def grayscale(image: Image, rng: Rng, *, p: float = 0.2) -> Image:
  """Takes the color away with probability p."""
  return image.convert("L").convert("RGB") if rng.random() < p else image


def _turn_hue(image: Image, turn: int) -> Image:
  h, s, v = image.convert("HSV").split()
  h = h.point([(i + turn) % 256 for i in range(256)])
  return PIL.Image.merge("HSV", (h, s, v)).convert("RGB")
