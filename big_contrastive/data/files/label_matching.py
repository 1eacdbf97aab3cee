"""Matches the labels of the data with a list of class names."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import class_names, fields

By = Literal["name", "number", "order"]
_SHOWN = 5  # Names in an error.


def places(
  label: np.ndarray,
  names: Sequence[str],
  source_names: Sequence[str] | None,
  by: By,
  where: str,
) -> np.ndarray:
  """Returns each label's index in a list of class names.

  Args:
    label: int [n], all labels of the data.
    names: the list.
    source_names: the source's names by label, or None.
    by: how they are matched, see zero_shot.prepare.
    where: the argument that holds the list, for errors.

  Returns:
    int [n].

  Raises:
    UserError: if they don't fit.
  """
  check_labels(label, source_names or range(int(label.max(initial=0)) + 1))
  if by == "order":
    return in_order(label, names, source_names, where)
  if source_names:
    return fit(names, source_names, by, where)[label]
  if by == "name":
    detail = f"Its labels are {label.min()} to {label.max()}."
    _check_count(int(label.max()) + 1, names, where, detail)
    numbered = [*map(str, range(len(names)))]
    return match(names, numbered, where, _ORDER)[label]
  check_labels(label, names)
  return label


def fit(
  names: Sequence[str], source_names: Sequence[str], by: By, where: str
) -> np.ndarray:
  """Returns the index in a list of each of a source's classes; see `places`."""
  if by == "name":
    return match(names, source_names, where, _ORDER)
  indices = numbers(source_names) or list(range(len(source_names)))
  check_labels(np.array(indices), names)
  return np.array(indices)


_ORDER = "Are the names in the order of the labels? Then set match = 'order'."


def of_labels(classes: str | Sequence[str], where: str) -> class_names.Names:
  """Returns the class names, by label, that a user gave for a source.

  Args:
    classes: see class_names.read.
    where: the argument, for errors.

  Raises:
    UserError: see class_names.read; also if the names are numbers that differ
      from their indices: a label 2 would be ambiguous.
  """
  names = class_names.Names(class_names.read(classes, where))
  names.from_user = True
  values = numbers(names)
  if values is not None and values != list(range(len(values))):
    allowed = "names, or the numbers from 0 on in their order"
    remedy = "A label may be a name or a place here. Sort them."
    raise errors.UserError(where, _shown(names), allowed, remedy)
  return names


def numbers(names: Sequence[str]) -> list[int] | None:
  """Returns the names as numbers; None unless all are numbers and differ."""
  values = [fields.whole(name) for name in names]
  return (
    values if None not in values and len({*values}) == len(values) else None
  )


def match(
  names: Sequence[str], source_names: Sequence[str], where: str, remedy: str
) -> np.ndarray:
  """Returns the index in a list of names of each of a source's classes.

  Equal names match, in any order. Otherwise numbers (0, 1, 10, 2, as folders
  are sorted) are indices into a list of names, or equal numbers in a list of
  numbers. Otherwise names match that are class_names.alike.

  Args:
    names: the list.
    source_names: the source's names, by label.
    where: the argument that holds the list, for errors.
    remedy: what to do if they don't fit.

  Returns:
    int64 [len(source_names)].

  Raises:
    UserError: if a class of the source is not in the list, or several times;
      the message shows both sides.
  """
  if list(names) == list(source_names):
    return np.arange(len(source_names))
  places, listed = numbers(source_names), numbers(names)
  if places is not None and listed is not None:
    indices = [listed.index(n) if n in listed else None for n in places]
  elif places is not None and {*source_names} - {*names}:
    detail = f"The data's classes are numbers: {_shown(source_names)}."
    _check_count(max(places) + 1, names, where, detail)
    return np.array(places)
  else:
    indices = _by_name(class_names.Names(names), source_names)
  missing = [
    name for name, k in zip(source_names, indices, strict=True) if k is None
  ]
  if not missing:
    return np.array(indices)
  raise errors.UserError(
    where, _shown(names),
    f"a list in which each class of the data is once: {_shown(source_names)}",
    f"{len(missing)} are not, like {missing[0]!r}. {remedy}",
  )  # fmt: skip


def _by_name(
  names: class_names.Names, source_names: Sequence[str]
) -> list[int | None]:
  indices: list[int | None] = []
  for name in source_names:
    try:
      indices.append(names.place(name))
    except BadRecord:
      indices.append(None)
  return indices


def in_order(
  label: np.ndarray,
  names: Sequence[str],
  source_names: Sequence[str] | None,
  where: str,
) -> np.ndarray:
  """Returns the index of each label among the data's classes, in their order.

  If a source has no names, its classes are the labels that occur; see `places`.

  Raises:
    UserError: if there are fewer or more classes than names.
  """
  occurring, order = np.unique(label, return_inverse=True)
  count = len(source_names) if source_names else len(occurring)
  if count != len(names):
    allowed = f"as many names as the data has classes, {count}"
    remedy = f"Its labels are {occurring.min()} to {occurring.max()}."
    raise errors.UserError(where, _shown(names), allowed, remedy)
  return label if source_names else order


def _check_count(
  count: int, names: Sequence[str], where: str, detail: str
) -> None:
  if count != len(names):
    raise errors.UserError(
      where, _shown(names),
      f"as many names as the data has classes, {count}",
      f"{detail} Is a line too many, or one missing? If labels are places in "
      "this list, from 0 on, set match = 'number'; if it has the labels that "
      "occur, in their order, match = 'order'.",
    )  # fmt: skip


def tell_unused(label: Sequence[int], names: Sequence[str], where: str) -> None:
  """Logs names beyond the largest label: the list may have a line too many.

  Args:
    label: the labels that occur.
    names: by label.
    where: the argument that holds the names, for the log.
  """
  most = max(label, default=0)
  if most + 1 < len(names):
    message = (
      "%s: no label is %d (%r) or more, of %d names: is a line too many?"
    )
    logging.warning(message, where, most + 1, names[most + 1], len(names))


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
