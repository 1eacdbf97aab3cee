"""From a record to an example: read, decode, augment, choose, tokenize."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.source import Batch, Source
from big_contrastive.data.tokenizers.tokenizer import Tokenizer

# A record that can't be read is replaced by the one behind it; so many in a
# row mean that the data are not what they were said to be.
_TRIES = 20
_GOOD = np.zeros(_TRIES, np.int8)
_GOOD.flags.writeable = False


@dataclasses.dataclass
class Examples:
  """Makes examples of records; a bad record is replaced by the next one.

  Args:
    source: random access to records.
    image: from image.parse: (bytes or uint8, rng) -> uint8 [h, w, 3]. Parts of
      a mixture may have their own: source.preprocess(index).
    tokenizer: str -> int32 [l].
  """

  source: Source
  image: Callable[[Any, np.random.Generator | None], np.ndarray]
  tokenizer: Tokenizer

  def __post_init__(self):
    self._own = getattr(self.source, "preprocess", None)

  def __call__(self, index: int, rng: np.random.Generator) -> Batch:
    """Returns "image", "text", "id", and what was wrong.

    "bad" int8 [_TRIES] are the kinds, plus 1, of the records from number
    "index" on that were replaced. Of several captions one is drawn.
    """
    kinds, at = _GOOD, int(index)
    for tries in range(_TRIES):
      try:
        made = self._example(at, rng)
      except (OSError, ValueError, SyntaxError) as e:
        kinds = kinds.copy()
        kinds[tries] = 1 + bad_records.KINDS.index(bad_records.kind(e))
        at = self.after(at)
        continue
      made["bad"], made["index"] = kinds, np.int64(index)
      return made
    raise errors.UserError(
      f"{_TRIES} records of the training data from {self.name(index)} on",
      "unreadable",
      "images that can be decoded, with captions",
      f"The first: {self.why(index)}.",
    )

  def _example(self, index: int, rng: np.random.Generator) -> Batch:
    record, preprocess = self.source[index], self.image
    if self._own is not None:
      preprocess = self._own(index) or preprocess
    image = preprocess(record["image"], rng)
    caption = _caption(record["text"], rng)
    return {
      "image": image,
      "text": self.tokenizer(caption),
      "id": np.int32(record["id"]),
    }

  def after(self, index: int) -> int:
    """Returns the record that replaces a bad one: of the same part."""
    return after(self.source, index)

  def name(self, index: int) -> str:
    """Returns what a person finds the record by."""
    return name(self.source, index)

  def why(self, index: int) -> str:
    """Returns what is wrong with a bad record, by reading it again."""
    try:
      self._example(index, np.random.default_rng(0))
    except (OSError, ValueError, SyntaxError) as e:
      return " ".join(str(e).split())[:200]
    return "it could be read now"


def name(source: Source, index: int) -> str:
  """Returns "FILE:KEY" where the source knows it, else "record NUMBER"."""
  if hasattr(source, "name"):
    return source.name(index)
  return f"record {index}"


def after(source: Source, index: int) -> int:
  """Returns what source.after says, where it has that, else the next record."""
  if hasattr(source, "after"):
    return source.after(index)
  return (index + 1) % len(source)


def _caption(texts: Any, rng: np.random.Generator) -> str:
  if isinstance(texts, str) and texts and not texts.isspace():
    return texts  # As nearly all are.
  several = [texts] if isinstance(texts, str) else texts
  if not isinstance(several, list | tuple | np.ndarray):
    raise bad_records.BadRecord(
      "type", f"a caption of type {type(texts).__name__}"
    )
  for caption in several:
    if not isinstance(caption, str):
      said = type(caption).__name__
      raise bad_records.BadRecord("type", f"a caption of type {said}")
  several = [caption for caption in several if caption.strip()]
  if not several:
    raise bad_records.BadRecord("caption", "no caption, or an empty one")
  return several[rng.integers(len(several))]
