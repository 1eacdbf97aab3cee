"""A picture of what the model retrieves: right in green, wrong in red."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import operations
from big_contrastive.evals import Embed, Evaluator, retrieval

_SIDE, _WIDTH, _LINE = 96, 330, 16  # Pixels.


def prepare(
  source: Source,
  *,
  texts: Literal["captions", "classes"] = "captions",
  rows: int = 8,
  columns: int = 3,
  seed: int = 0,
) -> Evaluator:
  """Returns run(embed), which yields one picture.

  Each cell shows an image, its caption, and the three texts that are nearest
  to the image.

  Args:
    source: records with captions.
    texts: the candidates: all captions of the source, right if they have the
      image's id; or its class names, right if it is the image's class.
    rows, columns: of the grid.
    seed: of the choice of images.
  """
  for name, value in {"rows": rows, "columns": columns}.items():
    errors.at_least(name, value, 1)
  if texts == "classes" and not source.classes:
    remedy = 'Set it to "captions", or give a source with class names.'
    raise errors.UserError("texts", texts, "captions", remedy)

  def run(embed: Embed) -> Iterator[tuple[str, PIL.Image.Image]]:
    embed.require_text()
    data = embed.images(source)
    if texts == "classes":
      names, right, target = (
        source.classes,
        np.arange(len(source.classes)),
        data.label,
      )
    else:
      target, _, names, right = retrieval.distinct(source, data.id)
    ztxt = embed.texts(names)

    def results(i: int) -> list[tuple[str, bool]]:
      score = data.zimg[i] @ ztxt.T
      nearest = np.argsort(-score, kind="stable")[:3]  # NaN comes last.
      fine = (right == target[i]) & np.isfinite(score)
      return [(names[j], fine[j]) for j in nearest]

    shape, n = (rows, columns), len(data.zimg)
    yield "nearest_texts", sheet(source, n, results, shape, seed)

  return run


def sheet(
  source: Source,
  count: int,
  results: Callable[[int], list[tuple[str, bool]]],
  shape: tuple[int, int],
  seed: int,
) -> PIL.Image.Image:
  """Returns a picture of images, each beside a caption and texts of a model.

  Args:
    source: records with captions.
    count: how many.
    results: number of a record -> texts, and whether each is right.
    shape: rows and columns of the picture.
    seed: of the choice of images.
  """
  rows, columns = shape
  picture = PIL.Image.new(
    "RGB", (columns * _WIDTH, rows * (_SIDE + 8)), "white"
  )
  chosen = np.random.default_rng(seed).permutation(count)[: rows * columns]
  for cell, i in enumerate(chosen):
    row, column = divmod(cell, columns)
    place = column * _WIDTH, row * (_SIDE + 8)
    _cell(picture, *place, source[int(i)], results(int(i)))
  return picture


def _cell(
  sheet: PIL.Image.Image,
  x: int,
  y: int,
  record: dict[str, Any],
  results: list[tuple[str, bool]],
) -> None:
  picture = operations.decode(record["image"]).resize((_SIDE, _SIDE))
  sheet.paste(picture, (x + 4, y + 4))
  draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(size=11)
  caption = record["text"]
  caption = caption if isinstance(caption, str) else next(iter(caption), "")
  lines = [(caption, "black")]
  lines += [
    (f"> {text}", "green" if right else "red") for text, right in results
  ]
  for i, (text, color) in enumerate(lines):
    place = (x + _SIDE + 10, y + 8 + i * (_LINE + 5))
    text = shortened(text, draw, font, _WIDTH - _SIDE - 16)
    draw.text(place, text, fill=color, font=font)


def shortened(text: str, draw: Any, font: Any, width: int) -> str:
  """The text, truncated to the width of its cell."""
  if draw.textlength(text, font=font) <= width:
    return text
  while text and draw.textlength(text + "...", font=font) > width:
    text = text[:-1]
  return text + "..."
