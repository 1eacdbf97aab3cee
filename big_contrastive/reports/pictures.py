"""The pictures of runs, inside the page."""

import base64
import io

import PIL.Image

from big_contrastive.reports import curves
from big_contrastive.reports.markup import Markup, joined, tag
from big_contrastive.reports.numerals import counted
from big_contrastive.reports.runs import Run
from big_contrastive.storage import urls
from big_contrastive.storage.paths import Path

# Bytes: of one picture, beyond which it is made smaller, and of all.
_LARGE, _ALL = 1 << 20, 24 << 20
_SIDE = 1600


def gallery(runs: list[Run]) -> Markup | None:
  """Returns the pictures by name, those of all runs side by side.

  What does not fit into a page of a bounded size is named.
  """
  names = dict.fromkeys(name for run in runs for name in run.pictures)
  blocks, used, left = [], 0, []
  for name in names:
    figures = []
    for i, run in enumerate(runs):
      if name not in run.pictures:
        continue
      source = _source(run.pictures[name])
      if source is None:
        left.append(f"{name} of {run.name} can't be read")
      elif used + len(source) > _ALL:
        left.append(f"{name} of {run.name} would make the page too large")
      else:
        used += len(source)
        image = tag("img", src=source, alt=f"{name} of {run.name}")
        caption = tag("figcaption", curves.sample(i), run.name)
        figures.append(tag("figure", caption, image, class_="picture"))
    if figures:
      short = name.removeprefix("eval/")
      block = tag("div", figures, class_="pictures")
      blocks.append(joined(tag("h3", short), block))
  if left:
    text = f"{counted(len(left), 'picture')} left out: {'; '.join(left[:20])}."
    blocks.append(tag("p", text, class_="quiet"))
  return joined(blocks) or None


def _source(path: Path) -> str | None:
  """A picture as a data URI; None for one that is broken, or half written."""
  try:
    content = urls.patiently(path.read_bytes, str(path))
    with PIL.Image.open(io.BytesIO(content)) as image:
      image.load()
      if len(content) > _LARGE or max(image.size) > 4 * _SIDE:
        image = image.convert("RGB")
        image.thumbnail((_SIDE, _SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=88)
        return _uri("jpeg", file.getvalue())
  except Exception:  # Pillow's errors are of many kinds.
    return None
  return _uri("png", content)


def _uri(kind: str, content: bytes) -> str:
  return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
