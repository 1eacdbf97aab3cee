"""A picture of what is kept and what is thrown out."""

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from big_contrastive.data.source import Source
from big_contrastive.data.transforms import decode
from big_contrastive.offline import selection

_SIDE, _LINE, _GAP, _COLUMNS = 112, 14, 8, 8  # Pixels; records of a row.
_LINES = 3  # Of a caption.
_HEIGHT = _SIDE + (_LINES + 1) * _LINE + _GAP


def draw(source: Source, scores: np.ndarray, least: float) -> bytes:
  """Returns a PNG with four rows of records, their scores and captions.

  The rows are the best, those just kept, those just left out, and the worst;
  what is kept is framed in green, the others in red.

  Args:
    source: the records.
    scores: float32 [n], NaN for none; or a memory map.
    least: the least score that is kept.
  """
  inf = np.float32(np.inf)
  rows: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "best": lambda x: -x,
    "just kept": lambda x: np.where(x >= least, x, inf),
    "just left out": lambda x: np.where(x < least, -x, inf),
    "worst": lambda x: x,
  }
  size = _COLUMNS * (_SIDE + _GAP) + _GAP, len(rows) * (_HEIGHT + _LINE)
  sheet = PIL.Image.new("RGB", size, "white")
  pen = PIL.ImageDraw.Draw(sheet)
  font = PIL.ImageFont.load_default(size=11)
  for row, (title, key) in enumerate(rows.items()):
    y = row * (_HEIGHT + _LINE)
    pen.text((_GAP, y), title, fill="black", font=font)
    for column, i in enumerate(selection.first(scores, key, _COLUMNS)):
      x = _GAP + column * (_SIDE + _GAP)
      color = "green" if scores[i] >= least else "red"
      _cell(sheet, (x, y + _LINE), source, int(i), f"{scores[i]:.3f}", color)
  file = io.BytesIO()
  sheet.save(file, "PNG", optimize=True)
  return file.getvalue()


def _cell(
  sheet: PIL.Image.Image, at: tuple, source: Source, i: int, score: str,
  color: str,
) -> None:  # fmt: skip
  pen = PIL.ImageDraw.Draw(sheet)
  font = PIL.ImageFont.load_default(size=11)
  (x, y), record = at, source[i]
  pen.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), fill=color)
  picture = decode.decode(record["image"]).convert("RGB")
  sheet.paste(picture.resize((_SIDE - 6, _SIDE - 6)), (x + 3, y + 3))
  text = record.get("text", "")
  text = text if isinstance(text, str) else next(iter(text), "")
  lines = [score, *_wrapped(text, lambda t: pen.textlength(t, font=font))]
  for k, line in enumerate(lines[: _LINES + 1]):
    pen.text((x, y + _SIDE + k * _LINE), line, fill="black", font=font)


def _wrapped(text: str, width: Callable[[str], float]) -> list[str]:
  """The text in lines as wide as an image."""
  lines = [""]
  for word in text.split():
    longer = f"{lines[-1]} {word}".strip()
    if width(longer) <= _SIDE or not lines[-1]:
      lines[-1] = longer
    else:
      lines.append(word)
  return lines
