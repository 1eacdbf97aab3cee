"""A picture of what each head of the last block attends to, as in DINO."""

from collections.abc import Iterator

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator

# Pixels: of an image, between images; and the light of what a mask leaves out.
_SIDE, _GAP, _DARK = 112, 6, 0.2

Map = Float[np.ndarray, "rows columns"]


def prepare(
  source: Source,
  *,
  rows: int = 4,
  res: int | None = None,
  mass: float = 0.6,
  seed: int = 0,
) -> Evaluator:
  """Returns run(embed), which yields one picture.

  Each row shows an image and, to its right, how the class token attends to it
  in the last block: below, the part of the image that has most of that
  attention. The first is the mean of all heads, the others are one head each.
  arXiv:2104.14294, figure 3.

  Args:
    source: the records, of which some are drawn.
    rows: how many.
    res: side of the squares that they are resized to, a multiple of the patch
      side; None for the model's preprocessing.
    mass: the share of the attention that the part below has.
    seed: of the draw.
  """
  errors.at_least("rows", rows, 1)
  if res is not None:
    errors.at_least("res", res, 1)
  if not 0 < mass <= 1:
    remedy = "DINO's figures have 0.6."
    allowed = "a number above 0, at most 1"
    raise errors.UserError("mass", mass, allowed, remedy)

  def run(embed: Embed) -> Iterator[tuple[str, PIL.Image.Image]]:
    drawn = np.random.default_rng(seed).permutation(len(source))[:rows]
    some = [source[int(i)] for i in drawn]
    yield "attention", sheet(*embed.attention(some, res), mass)

  return run


def sheet(
  images: UInt8[np.ndarray, "n h w 3"],
  weights: Float[np.ndarray, "n heads rows columns"],
  mass: float = 0.6,
) -> PIL.Image.Image:
  """Returns a picture of images and of the attention to them; see `prepare`.

  Args:
    images: as the tower sees them.
    weights: of each head, as inference.model.Model.attention returns them.
    mass: see `prepare`.
  """
  maps = np.concatenate([weights.mean(1, keepdims=True), weights], axis=1)
  step, (n, heads) = _SIDE + _GAP, maps.shape[:2]
  size = _GAP + (heads + 1) * step, _GAP + 2 * n * step
  picture = PIL.Image.new("RGB", size, "white")
  for row, (image, each) in enumerate(zip(images, maps, strict=True)):
    shown = _resized(image, PIL.Image.Resampling.BICUBIC)
    y = _GAP + 2 * row * step
    picture.paste(PIL.Image.fromarray(shown), (_GAP, y))
    for column, one in enumerate(each, 1):
      x = _GAP + column * step
      part = _resized(np.uint8(255 * kept(one, mass))) > 0
      masked = np.where(part[..., None], shown, _DARK * shown).astype(np.uint8)
      picture.paste(PIL.Image.fromarray(_heat(one)), (x, y))
      picture.paste(PIL.Image.fromarray(masked), (x, y + step))
  return picture


def kept(weights: Map, mass: float) -> Bool[np.ndarray, "rows columns"]:
  """Returns the fewest patches that together have a share of the attention."""
  flat = weights.astype(np.float64).ravel()
  order = np.argsort(-flat, kind="stable")
  before = np.cumsum(flat[order]) - flat[order]
  found = np.zeros(flat.shape, bool)
  found[order] = before < mass * flat.sum()
  return found.reshape(weights.shape)


def _heat(weights: Map) -> UInt8[np.ndarray, "h w 3"]:
  """Black for none, over red and yellow to white for the most."""
  light = weights / max(float(weights.max()), 1e-30)
  color = np.clip(3 * light[..., None] - np.arange(3), 0, 1)
  return _resized(np.uint8(255 * color))


def _resized(
  image: np.ndarray, how: PIL.Image.Resampling = PIL.Image.Resampling.NEAREST
) -> np.ndarray:
  return np.asarray(PIL.Image.fromarray(image).resize((_SIDE, _SIDE), how))
