"""A picture of nearest images: of the query's class in green, others in red."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from big_contrastive.config import errors
from big_contrastive.data.files import label_matching
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import operations
from big_contrastive.evals import (
  Embed,
  Evaluator,
  _cosines,
  _labeled,
  gallery,
)

# Pixels: of an image, of its frame, of a line of text, between cells.
_SIDE, _FRAME, _LINE, _GAP = 96, 4, 14, 8
_WIDTH, _HEIGHT = _SIDE + 2 * _FRAME, _SIDE + 2 * _FRAME + 2 * _LINE
_UNKNOWN = "gray"


def prepare(
  source: Source,
  *,
  train: Source | None = None,
  on: _labeled.On = "features",
  rows: int = 8,
  k: int = 6,
  seed: int = 0,
) -> Evaluator:
  """Returns run(embed), which yields one picture.

  Each row shows an image and, to its right, the k images that are nearest to
  it, each with its class and cosine, framed in green if it has the class of
  the first, in red if it has another, in gray if either has no label.

  Args:
    source: the records of the first column, of which some are drawn.
    train: where the nearest are looked for. If it is the data of `source`, or
      if none is named, a record is not its own neighbor.
    on: the image tower's pooled "features", made unit; or "embeddings".
    rows: images of the first column.
    k: neighbors of each.
    seed: of the draw.
  """
  _labeled.choice_on(on)
  for name, value in {"rows": rows, "k": k}.items():
    errors.at_least(name, value, 1)
  bank = source if train is None else train
  most = len(bank) - (bank is source)
  if k > most:
    allowed = f"at most {most}, the images that can be shown"
    raise errors.UserError("k", k, allowed, "Lower it.")

  def run(embed: Embed) -> Iterator[tuple[str, PIL.Image.Image]]:
    x, label = _labeled.vectors(embed, source, on, unit=True)
    their, theirs = x, label
    if bank is not source:
      their, theirs = _labeled.vectors(embed, bank, on, unit=True)
      label = _matched(label, source, bank)
    drawn = np.random.default_rng(seed).permutation(len(x))[:rows]
    # One more than is shown, since a record is nearest to itself.
    own = bank is source
    cosine, near = _cosines.nearest(x[drawn], their, k + own, embed)
    sheet = _sheet(len(drawn), k)
    names = bank.classes or source.classes
    for row, i in enumerate(drawn):
      _cell(sheet, row, 0, source[int(i)], _name(label[i], names), "white")
      others = np.flatnonzero(near[row] != i) if own else np.arange(k)
      for column, j in enumerate(others[:k], 1):
        at, score = int(near[row, j]), cosine[row, j]
        text = f"{score:.3f}\n{_name(theirs[at], names)}"
        color = _color(label[i], theirs[at])
        _cell(sheet, row, column, bank[at], text, color)
    yield "nearest_images", sheet

  return run


def _matched(label: np.ndarray, source: Source, bank: Source) -> np.ndarray:
  """The labels in the classes of the bank, where both have names."""
  known = label >= 0
  if source.classes and bank.classes and known.any():
    label = label.copy()
    label[known] = label_matching.places(
      label[known], bank.classes, source.classes, "name", "train.classes"
    )
  return label


def _color(label: int, other: int) -> str:
  if label < 0 or other < 0:
    return _UNKNOWN
  return "green" if label == other else "red"


def _name(label: int, names: Any) -> str:
  if label < 0:
    return "no label"
  return names[label] if names and label < len(names) else f"class {label}"


def _sheet(rows: int, k: int) -> PIL.Image.Image:
  size = (k + 1) * (_WIDTH + _GAP) + _GAP, rows * (_HEIGHT + _GAP) + _GAP
  return PIL.Image.new("RGB", size, "white")


def _cell(
  sheet: PIL.Image.Image,
  row: int,
  column: int,
  record: dict[str, Any],
  text: str,
  color: str,
) -> None:
  """Draws an image in a frame of a color, with lines of text below."""
  x = _GAP + column * (_WIDTH + _GAP)
  y = _GAP + row * (_HEIGHT + _GAP)
  draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(size=11)
  draw.rectangle((x, y, x + _WIDTH - 1, y + _WIDTH - 1), fill=color)
  picture = operations.decode(record["image"]).resize((_SIDE, _SIDE))
  sheet.paste(picture, (x + _FRAME, y + _FRAME))
  for i, line in enumerate(text.split("\n")):
    line = gallery.shortened(line, draw, font, _WIDTH)
    draw.text((x, y + _WIDTH + i * _LINE), line, fill="black", font=font)
