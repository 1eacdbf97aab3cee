"""A vocabulary of synsets: captions to classes, as CatLIP (arXiv:2404.15653).

A word of a caption, reduced to its lemma, stands for the lemma's first synset.
With synonyms "head", as published, only if it is the synset's first word:
"bike" is no label, "bicycle" is; with "merge" for any of its words.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.labels import wordnet, words

Synonyms = Literal["head", "merge"]
SYNONYMS = ("head", "merge")
# The vocabulary of the data set shapes: 48 classes of 20 captions or more.
SHAPES = wordnet.SHAPES / "vocabulary.json"
_KNOWN = 2**16  # Words whose class is remembered.


def meanings(nouns: wordnet.Nouns, synonyms: Synonyms) -> dict[str, int]:
  """Returns the synset of each lemma that is a label, an offset."""
  if synonyms == "merge":
    return dict(nouns.synset)
  head = nouns.head
  return {w: n for w, n in nouns.synset.items() if head[n] == w}


class Labels:
  """Captions to the numbers of what their words mean; each once.

  Args:
    meaning: of each lemma that has one.
    others: the other lemmas: a word's form may be one of these.
    plurals: irregular forms -> their lemmas.
  """

  def __init__(
    self,
    meaning: Mapping[str, int],
    others: Sequence[str],
    plurals: Mapping[str, list[str]],
  ):
    known = {w: -1 for w in others} | dict(meaning)

    @functools.lru_cache(_KNOWN)
    def of_word(word: str) -> int:
      return known.get(wordnet.lemma(word, known, plurals), -1)

    self._of_word = of_word

  def __call__(self, caption: str) -> list[int]:
    """Returns the numbers, in the order of the words."""
    found = map(self._of_word, words.of(caption))
    return list(dict.fromkeys(n for n in found if n >= 0))


def from_wordnet(nouns: wordnet.Nouns, synonyms: Synonyms) -> Labels:
  """Returns captions -> offsets of synsets, of all that there are."""
  meaning = meanings(nouns, synonyms)
  others = [w for w in nouns.synset if w not in meaning]
  return Labels(meaning, others, nouns.plurals)


def vocabulary(
  nouns: wordnet.Nouns,
  synonyms: Synonyms,
  counts: Sequence[tuple[int, int]],
  captions: int,
) -> bytes:
  """Returns the file of a vocabulary, which needs WordNet no more.

  Args:
    nouns: of WordNet.
    synonyms: which words are labels.
    counts: (offset, captions that have it) of each class, in their order.
    captions: how many there were in all; 0 where that is not known.
  """
  place = {offset: i for i, (offset, _) in enumerate(counts)}
  meaning = meanings(nouns, synonyms)
  classes = {w: place[n] for w, n in meaning.items() if n in place}
  content = {
    "synonyms": synonyms,
    "captions": captions,
    "synsets": [[n, nouns.head[n], count] for n, count in counts],
    "words": classes,
    "lemmas": [w for w in nouns.synset if w not in classes],
    "plurals": dict(nouns.plurals),
  }
  text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
  return text.encode() + b"\n"


class Vocabulary:
  """The classes of a file that `vocabulary` made.

  Args:
    blob: its content.

  Attributes:
    offsets: of the synsets in WordNet, int64 [V].
    heads: their first words.
    frequency: share of captions that have each, float64 [V], above 0 and below
      1: one that all have is taken for half a caption less. None where it is
      not known.
    labels: captions -> classes.

  Raises:
    ValueError: for another file.
  """

  def __init__(self, blob: bytes):
    content = json.loads(blob)
    try:
      synsets: list[Any] = content["synsets"]
      self.offsets = np.array([n for n, _, _ in synsets], np.int64)
      self.heads: list[str] = [head for _, head, _ in synsets]
      count = np.array([n for _, _, n in synsets], np.float64)
      total = int(content["captions"])
      self.labels = Labels(
        content["words"], content["lemmas"], content["plurals"]
      )
    except (KeyError, TypeError) as e:
      raise ValueError(f"not a file of big_contrastive.synsets: {e!r}") from e
    if not synsets or total < 0 or total and (count > total).any():
      raise ValueError("counts of no class, or above that of captions")
    if count.min() < 1:
      raise ValueError("a class that no caption has")
    self.frequency = np.minimum(count, total - 0.5) / total if total else None

  def name(self, number: int) -> str:
    """Returns the first word of a class, with spaces."""
    return self.heads[number].replace("_", " ")


def chosen(
  counts: Mapping[int, int], least: int, size: int | None
) -> list[tuple[int, int]]:
  """Returns the synsets that become classes, the most frequent first.

  Args:
    counts: captions that have it, by offset.
    least: those of fewer captions are left out.
    size: how many at most; None for all. Of equal counts the smaller offset is
      first.

  Raises:
    UserError: if there are none.
  """
  order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  found = [(n, count) for n, count in order if count >= least][:size]
  if not found:
    most = order[0][1] if order else 0
    allowed = f"at most {most}, captions of the most frequent synset"
    raise errors.UserError("--least", least, allowed, "Lower it.")
  return found
