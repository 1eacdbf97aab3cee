"""An Embed that embeds no text, and if wanted no image, a second time."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from big_contrastive.data.filters import Filtered
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Embedded


def remembered(embed: Embed, *, images: bool) -> Embed:
  """Returns an Embed that keeps the vectors of what it has embedded.

  Data sets share prompts, and those of captions in several languages share
  images. Kept are the texts, and images, of the last set that had new ones.

  Args:
    embed: the model.
    images: whether images are kept, by their bytes, too: to know them, each is
      read once more.
  """
  texts: dict[Any, np.ndarray] = {}
  pictures: dict[Any, np.ndarray] = {}

  def of_texts(wanted: list[str]) -> np.ndarray:
    return _vectors(
      texts, wanted, lambda new: embed.texts([wanted[i] for i in new])
    )

  def of_images(source: Source) -> Embedded:
    shown, label, id = [], [], []
    for record in evaluation.read_all(source):
      shown.append(_digest(record["image"]))
      label.append(record.get("label", -1))
      id.append(record["id"])

    def fresh(new: list[int]) -> np.ndarray:
      return embed.images(Filtered(source, np.array(new), bool, {})).zimg

    zimg = _vectors(pictures, shown, fresh)
    return Embedded(zimg, np.array(label, np.int32), np.array(id, np.int32))

  kept = {"images": of_images} if images else {}
  return dataclasses.replace(embed, texts=of_texts, **kept)


def _vectors(
  known: dict[Any, np.ndarray],
  wanted: Sequence[Any],
  compute: Callable[[list[int]], np.ndarray],
) -> np.ndarray:
  """The vectors of items; if some are new, these items alone are known then."""
  first: dict[Any, int] = {}
  for i, item in enumerate(wanted):
    if item not in known:
      first.setdefault(item, i)
  if first:
    new = dict(zip(first, compute(list(first.values())), strict=True))
    both = {item: (new if item in new else known)[item] for item in wanted}
    known.clear()
    known.update(both)
  return np.stack([known[item] for item in wanted])


def _digest(image: bytes | np.ndarray) -> bytes:
  if not isinstance(image, bytes):
    image = repr(np.shape(image)).encode() + np.asarray(image).tobytes()
  return hashlib.blake2b(image, digest_size=16).digest()
