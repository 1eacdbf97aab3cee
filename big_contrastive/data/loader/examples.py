"""Turns a record into an example: reads, decodes, augments, tokenizes."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.loader.draws import DRAWS
from big_contrastive.data.source import Batch, Source
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.data.transforms.pipeline import Pipeline, together
from big_contrastive.data.transforms.views import View

# A record that can't be read is replaced by the next one; this many in a row
# mean that the data set is not what the config says.
_TRIES = 20
_GOOD = np.zeros(_TRIES, np.int8)
_GOOD.flags.writeable = False


@dataclasses.dataclass
class Examples:
  """Makes examples from records; a bad record is replaced by the next one.

  Args:
    source: random access to records.
    image: from operations.parse: (bytes or uint8, rng) -> uint8 [h, w, 3]. In
      a mixture, each source may have its own: source.preprocess(index). None
      for no "image".
    tokenizer: str -> int32 [l]; None for only images.
    views: by name, from views.parse.
    fields: of examples, besides "bad" and "index"; None for all there can be.
    later: by step, the fields from there on, see `at`.
  """

  source: Source
  image: Callable[[Any, np.random.Generator | None], np.ndarray] | None
  tokenizer: Tokenizer | None = None
  views: Mapping[str, View] = dataclasses.field(default_factory=dict)
  fields: Collection[str] | None = None
  later: Mapping[int, Collection[str]] = dataclasses.field(default_factory=dict)

  def at(self, step: int) -> "Examples":
    """Returns what makes the examples of a step: their fields, no others."""
    begun = [first for first in self.later if first <= step]
    fields = self.later[max(begun)] if begun else self.fields
    return dataclasses.replace(self, fields=fields, later={})

  def has(self, field: str) -> bool:
    """Returns whether examples have that field, as far as it is up to them."""
    if self.fields is None or field in ("bad", "index"):
      return True
    return field in self.fields

  def __call__(
    self, index: int, rng: np.random.Generator, at: tuple[int, int] = (0, 0)
  ) -> Batch:
    """Returns "image", "id", "text" and views, and "bad" and "index".

    A view is uint8 [count, h, w, 3]. "bad" int8 [_TRIES] has the kinds, plus 1,
    of the bad records from number "index" on that were replaced. "record" is
    the number of the one whose image this is. Of several captions one is drawn.

    Args:
      index: of the record.
      rng: draws for "image", and then the caption.
      at: seed and position in the stream. A view's randomness is a function of
        these and of its name, also in a record that replaces another.
    """
    kinds, number = _GOOD, int(index)
    for tries in range(_TRIES):
      try:
        example = self._example(number, rng, at)
      except (OSError, ValueError, SyntaxError) as e:
        kinds = kinds.copy()
        kinds[tries] = 1 + bad_records.KINDS.index(bad_records.kind(e))
        number = self.source.after(number)
        continue
      example["bad"], example["index"] = kinds, np.int64(index)
      return example
    first = self.source.name(index)
    raise errors.UserError(
      f"{_TRIES} records of the training data from {first} on",
      "unreadable",
      "images that can be decoded, with captions",
      f"The first: {self.why(index)}.",
    )

  def _example(
    self, index: int, rng: np.random.Generator, at: tuple[int, int] = (0, 0)
  ) -> Batch:
    record = self.source[index]
    example = self._images(index, record["image"], rng, at)
    if self.tokenizer is not None and self.has("text"):
      example["text"] = self.tokenizer(_caption(record.get("text", ()), rng))
    if self.has("id"):
      example["id"] = np.int32(record["id"])
    if self.has("record"):
      example["record"] = np.int32(index)
    return example

  def _images(
    self, index: int, data: Any, rng: np.random.Generator, at: tuple[int, int]
  ) -> Batch:
    """Returns "image" and the views; what are Pipelines share a decoding.

    A view that is not made still counts in the size of that decoding: so it
    changes no bit of the others.
    """
    images, jobs, beside = {}, {}, []
    if self.image is not None and self.has("image"):
      own = self.source.preprocess(index) or self.image
      if self.views and isinstance(own, Pipeline):
        jobs["image"] = [(own, rng)]
      else:
        images["image"] = own(data, rng)
    places = itertools.count(1)
    for name, view in self.views.items():
      draws = [DRAWS.at(*at, block, next(places)) for block in view.blocks]
      of = [(view.pipeline, view_rng) for view_rng in draws]
      if self.has(name):
        jobs[name] = of
      else:
        beside += of
    if jobs:
      made = iter(together(data, [*itertools.chain(*jobs.values())], beside))
      several = {k: [next(made) for _ in of] for k, of in jobs.items()}
      for name, of in several.items():
        images[name] = of[0] if name == "image" else np.stack(of)
    return images

  def why(self, index: int) -> str:
    """Returns what is wrong with a bad record, by reading it again."""
    try:
      self._example(index, np.random.default_rng(0))
    except (OSError, ValueError, SyntaxError) as e:
      return " ".join(str(e).split())[:200]
    return "it could be read now"


def _caption(texts: Any, rng: np.random.Generator) -> str:
  if isinstance(texts, str) and texts and not texts.isspace():
    return texts  # The usual case.
  several = [texts] if isinstance(texts, str) else texts
  if not isinstance(several, list | tuple | np.ndarray):
    raise bad_records.BadRecord(
      "type", f"a caption of type {type(texts).__name__}"
    )
  for caption in several:
    if not isinstance(caption, str):
      kind = type(caption).__name__
      raise bad_records.BadRecord("type", f"a caption of type {kind}")
  several = [caption for caption in several if caption.strip()]
  if not several:
    raise bad_records.BadRecord("caption", "no caption, or an empty one")
  return several[rng.integers(len(several))]
