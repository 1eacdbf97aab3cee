"""What a decoder tells of masked patches (MAE): its error, and a picture."""

from collections.abc import Iterator

import numpy as np
import PIL.Image

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator

_SIDE, _GAP = 112, 8  # Pixels: of an image at least, and between images.


def prepare(
  source: Source,
  *,
  mask: float = 0.75,
  rows: int = 8,
  columns: int = 2,
  seed: int = 0,
) -> Evaluator:
  """Returns run(embed), which yields loss and one picture.

  The loss is the mean over all images of the squared error over their masked
  patches, as MAE trains it (arXiv:2111.06377). In the picture an image stands
  beside what the tower saw of it, and beside that with the pixels that the
  decoder tells. Normalized targets say nothing of a patch's mean and standard
  deviation: there these are the true ones.

  Args:
    source: the images.
    mask: the part of an image's patches that the tower does not see.
    rows, columns: of the picture, in images.
    seed: of the choice of images, and of the patches that are seen; these
      depend on an image's number besides.
  """
  for name, value in {"rows": rows, "columns": columns}.items():
    errors.at_least(name, value, 1)

  def run(embed: Embed) -> Iterator[tuple[str, float | PIL.Image.Image]]:
    if embed.reconstruct is None:
      allowed, remedy = "a decoder of patches", "MAE's models have one."
      raise errors.UserError("model.heads.decoder", None, allowed, remedy)
    order = np.random.default_rng(seed).permutation(len(source))
    shown = order[: rows * columns].tolist()
    found = embed.reconstruct(source, mask, seed, shown)
    yield "loss", float(found.loss.mean(dtype=np.float64))
    pictures = [found.pictures[i] for i in shown]
    yield "reconstructions", _sheet(pictures, columns)

  return run


def _sheet(pictures: list[np.ndarray], columns: int) -> PIL.Image.Image:
  """Returns images uint8 [3, h, w, 3] beside each other, row by row."""
  columns = min(columns, len(pictures))
  _, h, w, _ = pictures[0].shape
  times = -(-_SIDE // min(h, w))
  h, w = h * times, w * times
  across, down = columns * (3 * w + 2 * _GAP), -(-len(pictures) // columns)
  sheet = PIL.Image.new("RGB", (across, down * (h + _GAP)), "white")
  for i, three in enumerate(pictures):
    row, column = divmod(i, columns)
    for k, pixels in enumerate(three):
      image = PIL.Image.fromarray(pixels).resize(
        (w, h), PIL.Image.Resampling.NEAREST
      )
      x = column * (3 * w + 2 * _GAP) + k * w
      sheet.paste(image, (x, row * (h + _GAP)))
  return sheet
