"""Ids and labels of a whole table."""

from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import (
  class_names,
  fields,
  label_matching,
  queries,
  tables,
)


def numbered(rows: tables.Rows, name: str) -> list[int | None]:
  """Each row's id as its index among the sorted ids; None if it is missing."""
  tables.column(rows, name, "id")
  keys = []
  for i, row in enumerate(rows):
    try:
      keys.append(fields.key(row[name]))
    except BadRecord as e:
      allowed, remedy = "a number or a text", f"It is {e}."
      raise errors.UserError(rows.at(i), row[name], allowed, remedy) from e
  places = {k: i for i, k in enumerate(sorted(set(keys) - {None}, key=str))}
  return [places.get(key) for key in keys]


def labels(
  rows: tables.Rows,
  label: str | None,
  class_name: str | None,
  classes: str | list | None,
) -> tuple[list[int | None], list[str] | None]:
  """Each row's label, None if it is missing, and the names by label."""
  for thing, value in (("class_name", class_name), ("classes", classes)):
    if value is not None and (label is None or (class_name and classes)):
      remedy = "Set label to the column with the labels, and one of the two."
      raise errors.UserError(thing, value, "None here", remedy)
  if label is None:
    return [None] * len(rows), None
  tables.column(rows, label, "label")
  if class_name:
    tables.column(rows, class_name, "class_name")
  if classes is not None:
    names = label_matching.of_labels(classes, "classes")
    labels = [_label(rows, i, label, names) for i in range(len(rows))]
    present = [k for k in labels if k is not None]
    label_matching.tell_unused(present, names, "classes")
    return labels, list(names)
  values = [fields.plain(row[label]) for row in rows]
  numbers = [fields.whole(v) for v in values]
  present = [i for i, v in enumerate(values) if v is not None]
  _check_alike(rows, label, present, numbers)
  if any(numbers[i] is not None for i in present):
    labels = [None if n is None or n < 0 else n for n in numbers]
    if class_name is None:
      return labels, None
  else:
    order = {v: i for i, v in enumerate(sorted({values[i] for i in present}))}
    labels = [order.get(v) for v in values]
  names = [queries.said(row[class_name or label]) for row in rows]
  return labels, _classes(rows, labels, names)


def _label(
  rows: tables.Rows, i: int, column: str, names: class_names.Names
) -> int | None:
  value = rows[i][column]
  text, number = fields.text(value), fields.whole(value)
  missing = fields.plain(value) is None or (number is not None and number < 0)
  try:
    # A class may be called " None", or "-1".
    if missing and (text is None or names.place(text) is None):
      return None
    return class_names.label(value, names)
  except BadRecord as e:
    allowed = f"one of the {len(names)} classes, or its number"
    raise errors.UserError(rows.at(i), value, allowed, f"{e}.") from e


def _check_alike(
  rows: tables.Rows, column: str, present: list[int], numbers: list[int | None]
) -> None:
  """Raises UserError for a column that mixes numbers and names."""
  names = [i for i in present if numbers[i] is None]
  wholes = [i for i in present if numbers[i] is not None]
  for i in present:
    value, large = rows[i][column], (numbers[i] or 0) >= 2**31
    # Numbers that are not whole are not names either.
    odd = i in names[:1] and all(_is_number(rows[k][column]) for k in names)
    if large or odd or (numbers[i] is None and not isinstance(value, str)):
      allowed, remedy = "a whole number below 2**31, or a name", "Fix the row."
      raise errors.UserError(f"{rows.at(i)}: {column}", value, allowed, remedy)
  if names and wholes:
    few, many = sorted((names, wholes), key=len)
    allowed = f"whole numbers alone, or names alone, as in {rows.at(many[0])}"
    remedy = "Fix the rows, or list the names: classes=FILE."
    value = rows[few[0]][column]
    raise errors.UserError(
      f"{rows.at(few[0])}: {column}", value, allowed, remedy
    )


def _is_number(value: Any) -> bool:
  try:
    float(value)
  except (TypeError, ValueError):
    return False
  return True


def _classes(
  rows: tables.Rows, labels: list[int | None], names: list[str]
) -> list[str]:
  by_label: dict[int, str] = {}
  for i, (label, name) in enumerate(zip(labels, names, strict=True)):
    if label is not None and not name:
      allowed, remedy = "a name for each label", "Add it."
      raise errors.UserError(f"class_name: {rows.at(i)}", name, allowed, remedy)
    if label is not None and by_label.setdefault(label, name) != name:
      pair = f"{by_label[label]} and {name}"
      allowed = f"one name for the label {label}"
      raise errors.UserError("class_name", pair, allowed, "Fix the table.")
  for i in range(len(by_label)):
    if i not in by_label:
      allowed = f"a name for each label from 0 to {max(by_label)}"
      remedy = "Leave class_name out, or use its column as the label."
      raise errors.UserError("class_name", f"none for {i}", allowed, remedy)
  return [by_label[i] for i in range(len(by_label))]
