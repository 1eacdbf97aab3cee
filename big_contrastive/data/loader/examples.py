"""Turns a record into an example: reads, decodes, augments, tokenizes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.source import Batch, Source
from big_contrastive.data.tokenizers.tokenizer import Tokenizer

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
      a mixture, each source may have its own: source.preprocess(index).
    tokenizer: str -> int32 [l]; None for only images.
  """

  source: Source
  image: Callable[[Any, np.random.Generator | None], np.ndarray]
  tokenizer: Tokenizer | None = None

  def __call__(self, index: int, rng: np.random.Generator) -> Batch:
    """Returns "image", "id", "text" if there is a tokenizer, "bad", "index".

    "bad" int8 [_TRIES] has the kinds, plus 1, of the bad records from number
    "index" on that were replaced. Of several captions one is drawn.
    """
    kinds, at = _GOOD, int(index)
    for tries in range(_TRIES):
      try:
        example = self._example(at, rng)
      except (OSError, ValueError, SyntaxError) as e:
        kinds = kinds.copy()
        kinds[tries] = 1 + bad_records.KINDS.index(bad_records.kind(e))
        at = self.source.after(at)
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

  def _example(self, index: int, rng: np.random.Generator) -> Batch:
    record = self.source[index]
    preprocess = self.source.preprocess(index) or self.image
    image = preprocess(record["image"], rng)
    if self.tokenizer is None:
      return {"image": image, "id": np.int32(record["id"])}
    caption = _caption(record.get("text", ()), rng)
    return {
      "image": image,
      "text": self.tokenizer(caption),
      "id": np.int32(record["id"]),
    }

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
