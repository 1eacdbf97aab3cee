"""Counts of synsets from a file such as CatLIP's: {"n5928118": 52418327, ...}.

The key is "n" and the offset in WordNet 3.0, without zeros before it.
"""

import io
import json
import pickle
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.labels import wordnet
from big_contrastive.storage import paths


class _Plain(pickle.Unpickler):
  """Reads dicts, texts and numbers; nothing that runs code."""

  def find_class(self, module: str, name: str) -> Any:
    raise pickle.UnpicklingError(f"it wants {module}.{name}")


def read(name: str, nouns: wordnet.Nouns, thing: str) -> dict[int, int]:
  """Returns counts by offset.

  Args:
    name: a JSON file, or a pickled dict.
    nouns: of WordNet: each synset must be one whose head is its first sense.
    thing: the argument that names the file, for errors.

  Raises:
    UserError: for another file, and for synsets of another WordNet.
  """
  allowed = 'synsets and their counts: {"n5928118": 52418327, ...}'
  try:
    content = paths.local(name, thing).read_bytes()
    json_text = content.lstrip()[:1] == b"{"
    load = json.loads if json_text else lambda x: _Plain(io.BytesIO(x)).load()
    raw = load(content)
    counts = {int(k.removeprefix("n")): int(n) for k, n in raw.items()}
  except Exception as e:  # A damaged pickle may raise anything.
    remedy = f"{type(e).__name__}: {e}."
    raise errors.UserError(thing, name, allowed, remedy) from e
  for offset in counts:
    head = nouns.head.get(offset)
    if head is None or nouns.synset.get(head) != offset:
      value = f"n{offset} in {name}"
      wanted = "synsets of --wordnet that are the first sense of their head"
      remedy = "CatLIP's offsets are those of WordNet 3.0."
      raise errors.UserError(thing, value, wanted, remedy)
  if min(counts.values(), default=0) < 1:
    raise errors.UserError(thing, name, allowed, "Each count is 1 or more.")
  return counts
