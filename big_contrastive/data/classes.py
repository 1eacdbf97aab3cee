"""Labels, names of classes, lists of them, and whether two lists fit."""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from big_contrastive import errors
from big_contrastive.data import paths, records, tables
from big_contrastive.data.bad import BadRecord

_KINDS = "a list, a file with one a line, table.tsv:column or file.json:key"
_SHOWN = 5


class Names(list[str]):
  """Names of classes by label; finds a label by its name."""

  def __init__(self, names: Iterable[str]):
    super().__init__(names)
    # As they are, and alike. None: several have it, and none of them is meant.
    self._places: list[dict[str, int | None]] = [{}, {}]
    for k, name in enumerate(self):
      for places, form in zip(self._places, (name, alike(name))):
        places[form] = None if form in places else k

  def place(self, name: str) -> int | None:
    """Returns the label of a name, as it is or else `alike`; None for others.

    Raises:
      BadRecord: if several classes have it.
    """
    for places, form in zip(self._places, (name, alike(name))):
      if form in places:
        found = places[form]
        if found is None:
          raise BadRecord("label", f"several classes are called {name[:60]!r}")
        return found
    return None


def alike(name: str) -> str:
  """Returns a class's name without what lists of names differ in."""
  return " ".join(re.sub(r"[\s_-]+", " ", name).casefold().split())


def label(value: Any, classes: list[str] | None) -> int:
  """Returns the label of a number, its digits, or the name of a class.

  Raises:
    BadRecord: if it is missing, none of them, or too large for the classes.
  """
  place, text = None, records.text(value)
  if classes and text is not None:
    names = classes if isinstance(classes, Names) else Names(classes)
    # Before it may be missing: a class may be called "None".
    place = names.place(text)
  value = records.plain(value)
  if value is None and place is None:
    raise BadRecord("label", "no label")
  number = records.whole(value)
  fits = number is not None and 0 <= number < (
    len(classes) if classes else 2**31
  )
  if place is not None and fits and place != number:
    said = f"{value!r} is class {place} by its name and {number} by number"
    raise BadRecord("label", said)
  if place is not None or fits:
    return number if place is None else place
  known = "; the names of classes are not known" if not classes else ""
  if classes and number is not None:
    known = f", of {len(classes)} classes"
  raise BadRecord("label", f"no label: {str(value)[:60]!r}{known}")


def read(value: str | Sequence[str], where: str) -> list[str]:
  """Returns a list of texts, in order: names of classes, or prompts.

  Args:
    value: a list; a file with one a line; "table.tsv:column", by row;
      "file.json" with a list, or {"0": ..., "1": ...}; "file.json:key".
    where: the argument, for errors.

  Raises:
    UserError: for what is not there, and for a text that is empty, in the
      middle of a file too, or is none.
  """
  if not isinstance(value, str):
    return _checked([(f"{where}[{i}]", text) for i, text in enumerate(value)])
  path, key = _split(value, where)
  if path.endswith(".json"):
    listed = _of_json(path, key, where)
    named = [(f"{where}: {path}[{i}]", text) for i, text in listed]
  elif key:
    rows = tables.read_table(path, where)
    tables.column(rows, key, where)
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
  """The path and the key of "file.json:key"; a path may hold colons, too."""
  before, _, after = value.rpartition(":")
  for path, key in ((value, ""), (before, after)):
    full = os.path.expanduser(path)
    if os.path.isfile(full) or paths.remote(path):
      return full, key
  remedy = f"Give {_KINDS}."
  raise errors.UserError(where, value, "a file that exists", remedy)


def _checked(named: list[tuple[str, Any]]) -> list[str]:
  found = []
  for where, text in named:
    good = isinstance(text, str) and text.strip()
    if not good or any(c in text for c in "\t\0\n"):
      allowed = "a text, not empty and without tabs"
      remedy = f"Mend it, or give {_KINDS}."
      raise errors.UserError(where, text, allowed, remedy)
    found.append(records.clean(text).strip())
  return found


def _of_json(path: str, key: str, where: str) -> list[tuple[Any, Any]]:
  """The list in a JSON file: all of it, or under a key."""
  try:
    found = records.from_json("\n".join(paths.lines(path, where)))
  except (ValueError, RecursionError) as e:
    if isinstance(e, errors.UserError):
      raise
    allowed, remedy = "a JSON file", f"It can't be read: {e}."
    raise errors.UserError(where, path, allowed, remedy) from e
  if key and isinstance(found, dict):
    found = found[errors.choice(where, key, found)]
  if isinstance(found, list):
    return list(enumerate(found))
  if isinstance(found, dict) and set(found) == set(map(str, range(len(found)))):
    return [(i, found[str(i)]) for i in range(len(found))]
  allowed = '["text", ...], {"0": "text", ...}, or one of those under a key'
  keys = ", ".join(map(repr, list(found)[:_SHOWN]))
  has = f"the keys {keys}" if isinstance(found, dict) else f"{found!r}"[:60]
  raise errors.UserError(
    where, path, allowed, f"It has {has}. Say which: {_KINDS}."
  )


def numbers(names: Sequence[str]) -> list[int] | None:
  """Returns the numbers that a source's classes have in place of names.

  None where they have names: where they are not all of 0, 1, ... in any order,
  as names of folders are sorted: 0, 1, 10, 2.
  """
  found = [records.whole(name) for name in names]
  return found if set(found) == set(range(len(found))) else None


def match(
  names: Sequence[str],
  own: Sequence[str] | None,
  where: str,
  remedy: str = "Mend the list, or the names of the folders.",
) -> np.ndarray | None:
  """Returns the place in a list of names of each of a source's classes.

  Names are compared by alike.

  Args:
    names: the list.
    own: the source's, by label; None if it has none.
    where: the argument that has the list, for errors.
    remedy: what to do where they don't fit.

  Returns:
    int64 [len(own)]; None where classes have no names, and labels are places.

  Raises:
    UserError: where a class of the source is not in the list, or several
      times; both sides are shown.
  """
  if not own:
    return None
  places = numbers(own)
  if places is not None:
    told = f"The data's classes are numbers: {_shown(own)}."
    _check_count(len(own), names, where, told)
    return np.array(places)
  if list(map(alike, names)) == list(map(alike, own)):
    return np.arange(len(own))
  by_name, found, missing = Names(names), [], []
  for name in own:
    try:
      place = by_name.place(name)
    except BadRecord:
      place = None
    found.append(place)
    if place is None:
      missing.append(name)
  if not missing:
    return np.array(found)
  raise errors.UserError(
    where, _shown(names),
    f"a list in which each class of the data is once: {_shown(own)}",
    f"{len(missing)} are not, like {missing[0]!r}. {remedy}",
  )  # fmt: skip


def check_count(label: np.ndarray, names: Sequence[str], where: str) -> None:
  """Raises UserError where labels are places in a list of another length.

  Args:
    label: int [n], all labels of the data.
    names: the list.
    where: the argument that has the list, for errors.
  """
  told = f"Its labels are {label.min()} to {label.max()}."
  _check_count(int(label.max()) + 1, names, where, told)


def _check_count(
  count: int, names: Sequence[str], where: str, told: str
) -> None:
  if count != len(names):
    raise errors.UserError(
      where, _shown(names),
      f"as many names as the data has classes, {count}",
      f"{told} Is a line too many, or one missing? If labels are places in "
      "this list, set match = 'number'.",
    )  # fmt: skip


def check_labels(label: np.ndarray, names: Sequence[str]) -> None:
  """Raises UserError unless every label has a name."""
  if label.min() < 0 or label.max() >= len(names):
    raise errors.UserError(
      "labels of the evaluation data",
      f"{label.min()} to {label.max()}",
      f"0 to {len(names) - 1}, one for each class name",
      "Give a source with labels, and as many class names.",
    )


def _shown(names: Sequence[str]) -> str:
  more = ", ..." if len(names) > _SHOWN else ""
  return f"{len(names)} names ({', '.join(names[:_SHOWN])}{more})"
