"""Reads tables with a header (JSONL, CSV, TSV) without losing a row."""

import csv
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from big_contrastive.config import errors
from big_contrastive.data.files import fields, paths
from big_contrastive.storage import paths as places

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
    """Returns a name by which a person can find a row: "captions.csv:17"."""
    return f"{self.path}:{self._lines[index]}"


def read_table(
  path: str,
  thing: str = "captions",
  about: Callable[[Row], str] = lambda row: "",
) -> Rows:
  """Returns the rows of a JSONL, CSV or TSV file.

  Every row has every column; fields that a JSONL line lacks, and null, are "".

  Args:
    path: .csv and .tsv have a header line; JSONL values may be lists.
    thing: the argument that holds the path, for errors.
    about: row -> its subject (the image's file), "" for what is not a row. If
      a line within quotation marks has another subject than its row, a mark
      is missing, and rows would be lost.

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
  full = str(places.local(path, thing))
  if not os.path.isfile(full):
    remedy = f"It was not found below {os.getcwd()}."
    raise errors.UserError(thing, path, "a file that exists", remedy)
  try:
    with open(full, newline="", encoding="utf-8-sig") as file:
      rows = Rows(path, reader(path, file, about))
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
  """Returns `name` if the rows have that column, else raises UserError."""
  return errors.choice(thing, name, rows[0])


def _jsonl(path: str, file: TextIO, about: Callable) -> Numbered:
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      row, remedy = fields.from_json(line), 'Write it like {"image": "a.jpg"}.'
    except (ValueError, RecursionError) as e:
      row, remedy = None, f"Fix the line: {e}."
    if not isinstance(row, dict):
      where, allowed = f"{path}:{number}", "one JSON object per line"
      raise errors.UserError(where, line.strip()[:60], allowed, remedy)
    yield number, row


def _fill(rows: Rows) -> None:
  empty = dict.fromkeys((name for row in rows for name in row), "")
  for i, row in enumerate(rows):
    rows[i] = empty | {k: v for k, v in row.items() if v is not None}


class _Lines:
  """The lines of a file; remembers those of the current record."""

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


def _csv(path: str, file: TextIO, about: Callable, **dialect: Any) -> Numbered:
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
        "Fix the line: a quote or a separator may be missing; or "
        "save it as .csv, if fields hold tabs or line breaks.",
      )
    if len(lines.record) > 1:
      row = dict(zip(header, fields, strict=True))
      _check_lines(path, start, lines.record, row, kind, about)
    yield start, dict(zip(header, fields, strict=True))


def _header(path: str, reader: Any) -> list[str]:
  try:
    header = next(reader, [])
  except csv.Error as e:
    remedy = f"{e}. Is a quotation mark missing?"
    _raise(f"{path}:1", "the header", "names with commas between them", remedy)
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
  path: str, start: int, lines: list[str], row: Row, kind: str,
  about: Callable[[Row], str],
) -> None:  # fmt: skip
  """Raises UserError for a field of several lines that swallowed rows.

  Lines of a field may look like rows: its last line has fields after it, its
  first line has fields before it. But then they have the subject of the row.
  """
  subject, first = about(row), next(csv.reader(lines[:1], delimiter=kind))
  first += next(csv.reader([first.pop()], delimiter=kind), [])
  # Split anew, the first line may have more fields than the row.
  parts = [(start, first[: len(row)]), (start, first[-len(row) :])]
  for k, line in enumerate(lines[1:], start + 1):
    parts.append((k, next(csv.reader([line], delimiter=kind))))
  likely = 0
  for k, values in parts:
    if len(values) != len(row):
      continue
    line_subject = about(dict(zip(row, values, strict=True)))
    if line_subject and line_subject != subject:
      allowed = "a quotation mark at both ends of a field"
      remedy = f"One is missing: line {k} within it is a row of its own."
      _raise(f"{path}:{start}", lines[0], allowed, remedy)
    likely = likely or (k > start) * k
  if likely and len(first) >= len(row):
    message = (
      "%s:%d: a field that goes on to line %d: is a quotation mark missing?"
    )
    logging.warning(message, path, start, likely)


def _tsv(path: str, file: TextIO, about: Callable) -> Numbered:
  start = file.tell()
  first = file.readline().rstrip("\r\n").split("\t")
  file.seek(start)
  if all(_quoted(name) for name in first):  # Written with QUOTE_ALL.
    yield from _csv(path, file, about, delimiter="\t")
    return
  # Only a tab ends a field: captions may contain quotes.
  plain = _csv(path, file, about, delimiter="\t", quoting=csv.QUOTE_NONE)
  for number, row in plain:
    yield number, {k: _unquoted(v) for k, v in row.items()}


def _quoted(text: str) -> bool:
  return len(text) > 1 and text[0] == text[-1] == '"'


def _unquoted(text: str) -> str:
  """The text that pandas or Excel wrote as "6"" nail", with paired marks."""
  inner = text[1:-1]
  if not _quoted(text) or '"' in inner.replace('""', ""):
    return text
  return inner.replace('""', '"') if '"' in inner or not inner else text


def _raise(thing: str, value: str, allowed: str, remedy: str) -> None:
  raise errors.UserError(thing, value.strip()[:60], allowed, remedy)
