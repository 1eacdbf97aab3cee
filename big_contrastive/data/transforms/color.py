"""Operations of operations.parse that change an image's colors.

Those that draw more than whether they happen have a function that draws, and
one that does what was drawn.
"""

from collections.abc import Sequence
from typing import Any, Literal

import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps

Image = PIL.Image.Image
Rng = Any  # np.random.Generator.
Change = tuple[str, float]

_CHANGES = ("brightness", "contrast", "saturation", "hue")
_ENHANCED = {
  "brightness": PIL.ImageEnhance.Brightness,
  "contrast": PIL.ImageEnhance.Contrast,
  "saturation": PIL.ImageEnhance.Color,
}


def color_jitter(
  image: Image,
  rng: Rng,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  p: float = 1.0,
  order: Literal["random", "fixed"] = "random",
  additive: bool = False,
  as_torchvision: bool = False,
) -> Image:
  """Scales each by a factor in [1 - x, 1 + x]; turns the hue by [-x, x] turns.

  All of it with probability p, in random order, or in that of the arguments. No
  factor is below 0. Additive brightness is shifted by [-x, x] of the range,
  not scaled (SimCLR v1, BYOL). Hues have 256 levels: a turn is rounded to the
  nearest; as_torchvision, 255 times the turn is rounded toward 0.
  """
  strengths = brightness, contrast, saturation, hue
  changes = drawn(rng, strengths, p, order)
  return changed(image, changes, additive, as_torchvision)


def drawn(
  rng: Rng, strengths: Sequence[float], p: float, order: str
) -> list[Change]:
  """Returns color_jitter's changes: names and amounts, in their order.

  The factor is 1 plus the amount; of hue, the amount is a part of a turn. There
  are none if nothing happens.

  Args:
    rng: draws.
    strengths: of brightness, contrast, saturation and hue.
    p, order: see color_jitter.
  """
  if rng.random() >= p:
    return []
  places = rng.permutation(4) if order == "random" else range(4)
  changes = []
  for i in places:
    amount = rng.uniform(max(-1, -strengths[i]), strengths[i])
    changes.append((_CHANGES[i], float(amount)))
  return [(name, amount) for name, amount in changes if amount]


def changed(
  image: Image,
  changes: Sequence[Change],
  additive: bool = False,
  as_torchvision: bool = False,
) -> Image:
  """Returns an image after color_jitter's changes, one after the other."""
  for name, amount in changes:
    if name == "hue":
      turn = int(255 * amount) if as_torchvision else round(256 * amount)
      image = _turn_hue(image, turn)
    elif name == "brightness" and additive:
      image = image.point([_level(i + 255 * amount) for i in range(256)] * 3)
    else:
      image = _ENHANCED[name](image).enhance(1 + amount)
  return image


def grayscale(image: Image, rng: Rng, *, p: float = 0.2) -> Image:
  """Takes the color away with probability p."""
  return image.convert("L").convert("RGB") if rng.random() < p else image


def solarize(
  image: Image, rng: Rng, *, p: float = 0.2, threshold: int = 128
) -> Image:
  """Inverts what is at the threshold or above, with probability p."""
  if rng.random() >= p:
    return image
  return PIL.ImageOps.solarize(image, threshold)


def _turn_hue(image: Image, turn: int) -> Image:
  h, s, v = image.convert("HSV").split()
  h = h.point([(i + turn) % 256 for i in range(256)])
  return PIL.Image.merge("HSV", (h, s, v)).convert("RGB")


def _level(value: float) -> int:
  return min(max(round(value), 0), 255)
