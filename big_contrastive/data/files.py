"""Files in folders and tars, and tables with a header."""

import csv
import glob
import json
import logging
import os
import pathlib
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from big_contrastive import errors
from big_contrastive.data import tars

Row = dict[str, Any]

csv.field_size_limit(2**31 - 1)  # Captions may be longer than 128 KiB.


class Folder:
  """Files below a folder, by relative path."""

  def __init__(self, path: str):
    self.path = path

  def __contains__(self, name: str) -> bool:
    root = os.path.abspath(self.path)
    full = os.path.normpath(os.path.join(root, name))
    # A table from elsewhere must not lead out of the folder.
    inside = os.path.commonpath([root, full]) == root and "\0" not in name
    return inside and os.path.isfile(full)

  def read(self, name: str) -> bytes:
    return pathlib.Path(self.path, name).read_bytes()

  def example(self) -> str | None:
    """Returns the name of a file that is there, None if there is none."""
    for folder, _, names in os.walk(self.path):
      if names:
        return os.path.relpath(os.path.join(folder, min(names)), self.path)
    return None


class Tar:
  """Members of an uncompressed tar, by name; read from any thread.

  The index is made once; a copy in another process opens the file anew.

  Of a damaged one it has what comes before the damage, and says so.

  Raises:
    UserError: for a file that is no tar or is compressed.
  """

  def __init__(self, path: str):
    self.path, self._file = path, -1
    with open(path, "rb") as file:
      members = tars.Members(file, path, "images", os.path.getsize(path))
      self._index = {
        posixpath.normpath(m.name): (m.offset_data, m.size) for m in members
      }
    if members.damage:
      logging.warning("%s is damaged: %s", path, members.damage)
    self._file = os.open(path, os.O_RDONLY)

  def __contains__(self, name: str) -> bool:
    return name in self._index

  def read(self, name: str) -> bytes:
    offset, size = self._index[name]
    data = os.pread(self._file, size, offset)
    if len(data) != size:
      raise OSError(f"{self.path} ends within {name}")
    return data

  def example(self) -> str | None:
    """Returns the name of a file that is there, None if there is none."""
    return next(iter(self._index), None)

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {"_file": -1}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._file = os.open(self.path, os.O_RDONLY)

  def __del__(self) -> None:
    if self._file >= 0:
      os.close(self._file)


def roots(paths: str) -> list[Folder | Tar]:
  """Returns the folders and tars of "a.tar,photos,b*.tar", globs sorted.

  Raises:
    UserError: for a path that does not exist or is neither.
  """
  found: dict[str, Folder | Tar] = {}
  for pattern in paths.split(","):
    path = os.path.expanduser(pattern.strip())
    matches = [path] if os.path.exists(path) else sorted(glob.glob(path))
    if not matches:
      allowed = "folders and tars that exist, with commas between them"
      remedy = f"Nothing is found below {os.getcwd()}."
      raise errors.UserError("images", pattern, allowed, remedy)
    for match in matches:
      if match not in found:
        found[match] = Folder(match) if os.path.isdir(match) else Tar(match)
  return list(found.values())


def read_table(path: str, thing: str = "captions") -> list[Row]:
  """Returns the rows of a JSONL, CSV or TSV file by column name.

  Every row has every column; what a JSONL line lacks, or null, is "".

  Args:
    path: .csv and .tsv have a header line; JSONL values may be lists.
    thing: the argument that holds the path, for errors.

  Raises:
    UserError: for a file that is missing, empty or broken; names the line.
  """
  readers: dict[str, Callable[[str, TextIO], Iterable[Row]]] = {
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
      rows = list(reader(path, file))
  except UnicodeDecodeError as e:
    remedy = f"Convert it to UTF-8: {e}."
    raise errors.UserError(thing, path, "text in UTF-8", remedy) from e
  if not rows:
    remedy = "Check that it is the right file."
    raise errors.UserError(thing, path, "a table with rows", remedy)
  return rows


def column(rows: list[Row], name: str, thing: str) -> str:
  """Returns name if the rows have that column, else raises UserError."""
  return errors.choice(thing, name, rows[0])


def _jsonl(path: str, file: TextIO) -> list[Row]:
  rows = []
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      row, remedy = json.loads(line), 'Write it like {"image": "a.jpg"}.'
    except ValueError as e:
      row, remedy = None, f"Mend the line: {e}."
    if not isinstance(row, dict):
      where, allowed = f"{path}:{number}", "one JSON object a line"
      raise errors.UserError(where, line.strip()[:60], allowed, remedy)
    rows.append(row)
  empty = dict.fromkeys((name for row in rows for name in row), "")
  return [
    empty | {k: v for k, v in row.items() if v is not None} for row in rows
  ]


def _csv(path: str, file: TextIO, **dialect: Any) -> Iterator[Row]:
  reader = csv.reader(file, **dialect)
  header = next(reader, [])
  for name in header:
    if header.count(name) > 1:
      allowed = "columns with different names"
      raise errors.UserError(f"{path}:1", name, allowed, "Rename one of them.")
  for fields in reader:
    if not fields:  # A blank line.
      continue
    if len(fields) != len(header):
      raise errors.UserError(
        f"{path}:{reader.line_num}",
        f"{len(fields)} fields",
        f"{len(header)} fields, as the header has",
        "Mend the line: a quote or a separator may be missing.",
      )
    yield dict(zip(header, fields, strict=True))


def _tsv(path: str, file: TextIO) -> Iterator[Row]:
  # A tab ends a field, and nothing else: captions may hold quotes.
  return _csv(path, file, delimiter="\t", quoting=csv.QUOTE_NONE)
