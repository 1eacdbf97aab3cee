"""Selects rows of a table, and joins another table to them."""

from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import fields, tables


def said(value: Any) -> str:
  """Returns a value as conditions and joins compare it; "" if missing."""
  try:
    key = fields.key(value)
  except BadRecord:
    return str(value)
  return "" if key is None else str(key)


def chosen(
  rows: tables.Rows, where: str | None, split: str | None, split_column: str
) -> list[int]:
  """Returns the numbers of the rows to take.

  Args:
    rows: of a table.
    where: "column=value" or "column=value1|value2", several with commas.
    split: short for where="SPLIT_COLUMN=SPLIT".
    split_column: the column that split is about.

  Raises:
    UserError: for a condition that no row meets.
  """
  conditions = [("where", c) for c in where.split(",")] if where else []
  conditions += [("split", f"{split_column}={split}")] if split else []
  taken = list(range(len(rows)))
  for thing, condition in conditions:
    name, equals, values = (s.strip() for s in condition.partition("="))
    if not equals:
      remedy = "Write it like split=train."
      raise errors.UserError("where", where, "column=value", remedy)
    tables.column(rows, name, "split_column" if thing == "split" else thing)
    allowed_values = {said(value) for value in values.split("|")}
    seen = {said(rows[i][name]) for i in taken}
    taken = [i for i in taken if said(rows[i][name]) in allowed_values]
    if not taken:
      listed = ", ".join(sorted(seen)[:10]) + ", ..." * (len(seen) > 10)
      value = split if thing == "split" else condition
      remedy = f"No row has it. {errors.closest(values, seen)}"
      allowed = f"a value of the column {name}: {listed}"
      raise errors.UserError(thing, value, allowed, remedy)
  return taken


def join(rows: tables.Rows, table: str) -> None:
  """Adds another table's columns to the rows, joined on one column.

  A row that lacks the value gets empty columns.
  """
  path, _, name = table.rpartition(":")
  if not path:
    remedy = "Write it like classes.tsv:label."
    raise errors.UserError("join", table, "table:column", remedy)
  others = tables.read_table(path, "join")
  tables.column(rows, name, "join: column of captions")
  tables.column(others, name, f"join: column of {path}")
  by_value: dict[str, tables.Row] = {}
  for i, other in enumerate(others):
    value = said(other[name])
    # Rows without the value don't belong together.
    if value and by_value.setdefault(value, other) is not other:
      allowed = f"values of which {path} has one row each"
      remedy = "Drop all rows but one."
      raise errors.UserError(
        f"join: {others.at(i)}: {name}", other[name], allowed, remedy
      )
  nothing = dict.fromkeys(others[0], "")
  for i, row in enumerate(rows):
    value = said(row[name])
    if value and value not in by_value:
      allowed, remedy = f"a {name} of {path}", "Add it to that table."
      raise errors.UserError(
        f"join: {rows.at(i)}: {name}", row[name], allowed, remedy
      )
    # A field that a JSONL line lacks must not hide the other table's.
    present = {k: v for k, v in row.items() if v != "" or k not in nothing}
    rows[i] = (by_value[value] if value else nothing) | present
