"""Tables with a header: JSONL, CSV and TSV, row by row and nothing lost."""

import csv
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from big_contrastive import errors
from big_contrastive.data import paths, records
from big_contrastive.data.bad import BadRecord

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row]]

csv.field_size_limit(2**31 - 1)  # Captions may be longer than 128 KiB.


class Rows(list[Row]):
  """Rows by column name, and the line of the file at which each begins."""

  def __init__(self, path: str, numbered: Numbered):
    self.path, self._lines = path, []
    super().__init__()
    for line, row in numbered:
      self.append(row)
      self._lines.append(line)

  def at(self, index: int) -> str:
    """Returns what a person finds a row by: "captions.csv:17"."""
    return f"{self.path}:{self._lines[index]}"


def read_table(
  path: str,
  thing: str = "captions",
  is_row: Callable[[Row], bool] = lambda row: False,
) -> Rows:
  """Returns the rows of a JSONL, CSV or TSV file.

  Every row has every column; what a JSONL line lacks, or null, is "".

  Args:
    path: .csv and .tsv have a header line; JSONL values may be lists.
    thing: the argument that holds the path, for errors.
    is_row: tells a row from a line of text: where lines within quotation marks
      are rows, one mark is missing, and the rows would be lost.

  Raises:
    UserError: for a file that is missing, empty or broken; names the line.
  """
  readers: dict[str, Callable[[str, TextIO, Callable], Numbered]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
  }
  reader = readers.get(pathlib.Path(path).suffix.lower())
  if reader is None:
    allowed = "a file that ends in " + ", ".join(readers)
    raise errors.UserError(thing, path, allowed, "Convert or rename it.")
  full = os.path.expanduser(path)
  if not os.path.isfile(full):
    remedy = f"It is not found below {os.getcwd()}."
    raise errors.UserError(thing, path, "a file that exists", remedy)
  try:
    with open(full, newline="", encoding="utf-8-sig") as file:
      rows = Rows(path, reader(path, file, is_row))
  except UnicodeDecodeError:
    with open(full, "rb") as raw:
      paths.utf8_lines(raw, path)  # Names the line.
    raise
  if not rows:
    remedy = "Check that it is the right file."
    raise errors.UserError(thing, path, "a table with rows", remedy)
  if reader is _jsonl:
    _fill(rows)
  return rows


def column(rows: list[Row], name: str, thing: str) -> str:
  """Returns name if the rows have that column, else raises UserError."""
  return errors.choice(thing, name, rows[0])


def _jsonl(path: str, file: TextIO, is_row: Callable) -> Numbered:
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      row, remedy = records.from_json(line), 'Write it like {"image": "a.jpg"}.'
    except (ValueError, RecursionError) as e:
      row, remedy = None, f"Mend the line: {e}."
    if not isinstance(row, dict):
      where, allowed = f"{path}:{number}", "one JSON object a line"
      raise errors.UserError(where, line.strip()[:60], allowed, remedy)
    yield number, row


def _fill(rows: Rows) -> None:
  empty = dict.fromkeys((name for row in rows for name in row), "")
  for i, row in enumerate(rows):
    rows[i] = empty | {k: v for k, v in row.items() if v is not None}


class _Lines:
  """The lines of a file; keeps those that a record was read from."""

  def __init__(self, path: str, file: TextIO):
    self._path, self._file, self.number = path, file, 0
    self.record: list[str] = []

  def __iter__(self) -> Iterator[str]:
    for line in self._file:
      self.number += 1
      self.record.append(line)
      if "\0" in line:
        where, remedy = f"{self._path}:{self.number}", paths.CONVERT
        _raise(where, line, "text in UTF-8, without NUL", remedy)
      yield line


def _csv(path: str, file: TextIO, is_row: Callable, **dialect: Any) -> Numbered:
  lines = _Lines(path, file)
  reader = csv.reader(lines, strict=True, **dialect)
  header, kind = _header(path, reader), dialect.get("delimiter", ",")
  while True:
    lines.record, start = [], lines.number + 1
    try:
      fields = next(reader, None)
    except csv.Error as e:
      remedy = f"{e}. In a quoted field a quotation mark is written twice."
      _raise(f"{path}:{start}", lines.record[0], "fields of a CSV", remedy)
    if fields is None:
      return
    if not fields:  # A blank line.
      continue
    if len(fields) != len(header):
      _raise(
        f"{path}:{start}",
        f"{len(fields)} fields",
        f"{len(header)} fields, as the header has",
        "Mend the line: a quote or a separator may be missing.",
      )
    if len(lines.record) > 1:
      _check_lines(path, start, lines.record, header, kind, is_row)
    yield start, dict(zip(header, fields, strict=True))


def _header(path: str, reader: Any) -> list[str]:
  header = next(reader, [])
  for name in header:
    if header.count(name) > 1:
      allowed = "columns with different names"
      raise errors.UserError(f"{path}:1", name, allowed, "Rename one of them.")
  other = [mark for mark in (";", "\t", "|") if mark in "".join(header)]
  if len(header) == 1 and other:
    remedy = f"They have {other[0]!r}: save it with commas, or tabs as .tsv."
    _raise(f"{path}:1", header[0], "names with commas between them", remedy)
  return header


def _check_lines(
  path: str, start: int, lines: list[str], header: list[str], kind: str,
  is_row: Callable[[Row], bool],
) -> None:  # fmt: skip
  """A field of several lines must not be one that swallowed rows.

  The last of its lines may look like a row, as fields follow it. Of one that
  swallowed a row, so does the first, if its last mark is taken for none.
  """
  first = next(csv.reader(lines[:1], delimiter=kind))
  first += next(csv.reader([first.pop()], delimiter=kind), [])
  ends = (first[: len(header)], first[-len(header) :])  # It may have more.
  whole = len(first) >= len(header) and any(
    is_row(dict(zip(header, fields, strict=True))) for fields in ends
  )
  for k, line in enumerate(lines[1:], start + 1):
    fields = next(csv.reader([line], delimiter=kind))
    if len(fields) != len(header):
      continue
    last = k == start + len(lines) - 1
    found = is_row(dict(zip(header, fields, strict=True)))
    if found and (whole or not last):
      allowed = "a quotation mark at both ends of a field"
      remedy = f"One is missing: line {k} within it is a row of its own."
      _raise(f"{path}:{start}", lines[0], allowed, remedy)
    asked = "is a quotation mark missing?"
    told = "%s:%d: a field that goes on to line %d: %s"
    logging.warning(told, path, start, k, asked)
    return


def _tsv(path: str, file: TextIO, is_row: Callable) -> Numbered:
  start = file.tell()
  first = file.readline().rstrip("\r\n").split("\t")
  file.seek(start)
  if all(_quoted(name) for name in first):  # All is, as by QUOTE_ALL.
    yield from _csv(path, file, is_row, delimiter="\t")
    return
  # A tab ends a field, and nothing else: captions may hold quotes.
  plain = _csv(path, file, is_row, delimiter="\t", quoting=csv.QUOTE_NONE)
  for number, row in plain:
    yield number, {k: _unquoted(v) for k, v in row.items()}


def _quoted(text: str) -> bool:
  return len(text) > 1 and text[0] == text[-1] == '"'


def _unquoted(text: str) -> str:
  """What pandas or Excel meant by "6"" nail": marks that are all in pairs."""
  inner = text[1:-1]
  if not _quoted(text) or '"' in inner.replace('""', ""):
    return text
  return inner.replace('""', '"') if '"' in inner or not inner else text


def _raise(thing: str, value: str, allowed: str, remedy: str) -> None:
  raise errors.UserError(thing, value.strip()[:60], allowed, remedy)


def said(value: Any) -> str:
  """Returns what a condition or another table calls a value; "" for none."""
  try:
    key = records.key(value)
  except BadRecord:
    return str(value)
  return "" if key is None else str(key)


def chosen(
  rows: Rows, where: str | None, split: str | None, split_column: str
) -> list[int]:
  """Returns the numbers of the rows to take.

  Args:
    rows: of a table.
    where: "column=value" or "column=value1|value2", several with commas.
    split: short for where="SPLIT_COLUMN=SPLIT".
    split_column: the column that split is about.

  Raises:
    UserError: for a condition that no row fulfils.
  """
  conditions = [("where", c) for c in where.split(",")] if where else []
  conditions += [("split", f"{split_column}={split}")] if split else []
  taken = list(range(len(rows)))
  for thing, condition in conditions:
    name, equals, values = (s.strip() for s in condition.partition("="))
    if not equals:
      remedy = "Write it like split=train."
      raise errors.UserError("where", where, "column=value", remedy)
    column(rows, name, "split_column" if thing == "split" else thing)
    wanted = {said(value) for value in values.split("|")}
    seen = {said(rows[i][name]) for i in taken}
    taken = [i for i in taken if said(rows[i][name]) in wanted]
    if not taken:
      listed = ", ".join(sorted(seen)[:10]) + ", ..." * (len(seen) > 10)
      value = split if thing == "split" else condition
      remedy = f"No row has it. {errors.closest(values, seen)}"
      allowed = f"a value of the column {name}: {listed}"
      raise errors.UserError(thing, value, allowed, remedy)
  return taken


def join(rows: Rows, table: str) -> None:
  """Adds another table's columns to the rows, by equal values of one."""
  path, _, name = table.rpartition(":")
  if not path:
    remedy = "Write it like classes.tsv:label."
    raise errors.UserError("join", table, "table:column", remedy)
  others = read_table(path, "join")
  column(rows, name, "join: column of captions")
  column(others, name, f"join: column of {path}")
  by_value: dict[str, Row] = {}
  for i, other in enumerate(others):
    value = said(other[name])
    # Rows that lack it have nothing in common.
    if value and by_value.setdefault(value, other) is not other:
      allowed = f"values of which {path} has one row each"
      remedy = "Drop all rows but one."
      raise errors.UserError(
        f"join: {others.at(i)}: {name}", other[name], allowed, remedy
      )
  for i, row in enumerate(rows):
    if said(row[name]) not in by_value:
      allowed, remedy = f"a {name} of {path}", "Add it to that table."
      raise errors.UserError(
        f"join: {rows.at(i)}: {name}", row[name], allowed, remedy
      )
    rows[i] = by_value[said(row[name])] | row
