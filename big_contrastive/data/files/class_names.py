"""Names of classes: their labels, and lists of names in files."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import fields, paths, tables
from big_contrastive.storage import urls

_KINDS = "a list, a file with one per line, table.tsv:column or file.json:key"
_SHOWN = 5


class Names(list[str]):
  """Names of classes by label; finds a label by its name.

  `from_user` is True for a list that a user wrote: it may have a line too many.
  """

  from_user = False

  def __init__(self, names: Iterable[str]):
    super().__init__(names)
    # By the exact name, and by `alike` of it. None: several classes share it.
    self._places: list[dict[str, int | None]] = [{}, {}]
    for k, name in enumerate(self):
      for places, form in zip(self._places, (name, alike(name))):
        places[form] = None if form in places else k

  def place(self, name: str) -> int | None:
    """Returns the label of a name, exact or else `alike`; None for no class.

    Raises:
      BadRecord: if several classes have that name.
    """
    for places, form in zip(self._places, (name, alike(name))):
      if form in places:
        number = places[form]
        if number is None:
          raise BadRecord("label", f"several classes are called {name[:60]!r}")
        return number
    return None


def alike(name: str) -> str:
  """Returns a class's name in a form that ignores case, "_", "-" and spaces."""
  name = unicodedata.normalize("NFC", name)  # macOS writes another form.
  return " ".join(re.sub(r"[\s_-]+", " ", name).casefold().split())


def label(value: Any, classes: list[str] | None) -> int:
  """Returns the label of a number, its digits, or the name of a class.

  Raises:
    BadRecord: if it is missing, not a label, or too large for the classes.
  """
  place, text = None, fields.text(value)
  if classes and text is not None:
    names = classes if isinstance(classes, Names) else Names(classes)
    # Looked up before checking for a missing value: a class may be "None".
    place = names.place(text)
  value = fields.plain(value)
  if value is None and place is None:
    raise BadRecord("label", "no label")
  number = fields.whole(value)
  fits = number is not None and 0 <= number < (
    len(classes) if classes else 2**31
  )
  if place is not None and fits and place != number:
    message = f"{value!r} is class {place} by its name and {number} by number"
    raise BadRecord("label", message)
  if place is not None or fits:
    return number if place is None else place
  known = "; the names of classes are not known" if not classes else ""
  if classes and number is not None:
    known = f", of {len(classes)} classes"
  raise BadRecord("label", f"no label: {str(value)[:60]!r}{known}")


def read(value: str | Sequence[str], where: str) -> list[str]:
  """Returns a list of texts, in order: names of classes, or prompts.

  Args:
    value: a list; a file with one per line; "table.tsv:column", by row;
      "file.json" with a list, or {"0": ..., "1": ...}; "file.json:key".
    where: the argument, for errors.

  Raises:
    UserError: for a file or key that does not exist, and for a value that is
      not a text or is empty, also in the middle of a file.
  """
  if not isinstance(value, str):
    return _checked([(f"{where}[{i}]", text) for i, text in enumerate(value)])
  path, key = _split(value, where)
  if path.endswith(".json"):
    listed = _of_json(path, key, where)
    named = [(f"{where}: {path}[{i}]", text) for i, text in listed]
  elif key or path.endswith((".csv", ".tsv", ".jsonl")):
    rows = tables.read_table(path, where)
    tables.column(rows, key, f"{where}: column of {path}")
    named = [(f"{where}: {rows.at(i)}", r[key]) for i, r in enumerate(rows)]
  else:
    texts = paths.lines(path, where)
    while texts and not texts[-1].strip():
      texts.pop()
    named = [(f"{where}: {path}:{i}", t) for i, t in enumerate(texts, 1)]
  if not named:
    raise errors.UserError(where, value, "one text or more", "It is empty.")
  return _checked(named)


def _split(value: str, where: str) -> tuple[str, str]:
  """The path and the key of "file.json:key"; a path may contain colons."""
  before, _, after = value.rpartition(":")
  for path, key in ((value, ""), (before, after)):
    full = os.path.expanduser(path)
    if os.path.isfile(full) or urls.remote(path):
      return full, key
  remedy = f"Give {_KINDS}."
  raise errors.UserError(where, value, "a file that exists", remedy)


def _checked(named: list[tuple[str, Any]]) -> list[str]:
  texts = []
  for where, text in named:
    good = isinstance(text, str) and text.strip()
    if not good or any(c in text for c in "\t\0\n"):
      allowed = "a text, not empty and without tabs"
      remedy = f"Fix it, or give {_KINDS}."
      raise errors.UserError(where, text, allowed, remedy)
    texts.append(fields.clean(text).strip())
  return texts


def _of_json(path: str, key: str, where: str) -> list[tuple[Any, Any]]:
  """The list in a JSON file: the whole content, or the value of a key."""
  try:
    content = fields.from_json("\n".join(paths.lines(path, where)))
  except (ValueError, RecursionError) as e:
    if isinstance(e, errors.UserError):
      raise
    allowed, remedy = "a JSON file", f"It can't be read: {e}."
    raise errors.UserError(where, path, allowed, remedy) from e
  if key and isinstance(content, dict):
    content = content[errors.choice(where, key, content)]
  if isinstance(content, list):
    return list(enumerate(content))
  if isinstance(content, dict) and set(content) == set(
    map(str, range(len(content)))
  ):
    return [(i, content[str(i)]) for i in range(len(content))]
  allowed = '["text", ...], {"0": "text", ...}, or one of those under a key'
  has = f"{content!r}"[:60]
  if isinstance(content, dict):
    has = "the keys " + ", ".join(map(repr, list(content)[:_SHOWN]))
  raise errors.UserError(
    where, path, allowed, f"It has {has}. Say which: {_KINDS}."
  )
