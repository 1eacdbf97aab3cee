"""Files in folders and tars, and tables with a header."""

import csv
import glob
import json
import os
import pathlib
import tarfile
from typing import Any

from big_contrastive import errors

Row = dict[str, Any]


class Folder:
  """Files below a folder, by relative path."""

  def __init__(self, path: str):
    self._path = pathlib.Path(path)

  def __contains__(self, name: str) -> bool:
    return (self._path / name).is_file()

  def read(self, name: str) -> bytes:
    return (self._path / name).read_bytes()


class Tar:
  """Members of an uncompressed tar, by name; read from any thread.

  The index is made once; a copy in another process opens the file anew.
  """

  def __init__(self, path: str):
    self._path, self._file = path, None
    try:
      with tarfile.open(path, "r:") as tar:
        files = [m for m in tar if m.isfile()]
    except tarfile.ReadError as e:
      remedy = f"Unpack it, or decompress it with gunzip or unzstd ({e})."
      raise errors.UserError("images", path, "an uncompressed tar", remedy) from e
    self._index = {
      m.name.removeprefix("./"): (m.offset_data, m.size) for m in files
    }

  def __contains__(self, name: str) -> bool:
    return name in self._index

  def read(self, name: str) -> bytes:
    if self._file is None:
      self._file = os.open(self._path, os.O_RDONLY)
    offset, size = self._index[name]
    data = os.pread(self._file, size, offset)
    if len(data) != size:
      raise OSError(f"{self._path} ends within {name}")
    return data

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {"_file": None}


def roots(paths: str) -> list[Folder | Tar]:
  """Returns the folders and tars of "a.tar,photos,b*.tar", globs sorted.

  Raises:
    UserError: for a path that does not exist or is neither.
  """
  found: list[Folder | Tar] = []
  for pattern in paths.split(","):
    matches = sorted(glob.glob(pattern.strip()))
    if not matches:
      allowed = "folders and tars that exist, with commas between them"
      remedy = f"Nothing is found below {os.getcwd()}."
      raise errors.UserError("images", pattern, allowed, remedy)
    for path in matches:
      found.append(Folder(path) if os.path.isdir(path) else Tar(path))
  return found


def read_table(path: str, thing: str = "captions") -> list[Row]:
  """Returns the rows of a JSONL, CSV or TSV file by column name.

  Args:
    path: .csv and .tsv have a header line; JSONL values may be lists.
    thing: the argument that holds the path, for errors.

  Raises:
    UserError: for a file that is missing, empty or broken; names the line.
  """
  readers = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}
  reader = readers.get(pathlib.Path(path).suffix)
  if reader is None:
    allowed = "a file that ends in " + ", ".join(readers)
    raise errors.UserError(thing, path, allowed, "Convert or rename it.")
  if not pathlib.Path(path).is_file():
    remedy = f"It is not found below {os.getcwd()}."
    raise errors.UserError(thing, path, "a file that exists", remedy)
  with open(path, newline="", encoding="utf-8") as file:
    rows = list(reader(path, file))
  if not rows:
    remedy = "Check that it is the right file."
    raise errors.UserError(thing, path, "a table with rows", remedy)
  return rows


def column(rows: list[Row], name: str, thing: str) -> str:
  """Returns name if the rows have that column, else raises UserError."""
  return errors.choice(thing, name, rows[0])


def _jsonl(path: str, file: Any) -> Any:
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as e:
      row = e
    if not isinstance(row, dict):
      remedy = f"Mend the line: {row}." if isinstance(row, ValueError) else ""
      allowed = "one JSON object a line"
      raise errors.UserError(f"{path}:{number}", line[:60], allowed, remedy)
    yield row


def _csv(path: str, file: Any, **dialect: Any) -> Any:
  reader = csv.reader(file, **dialect)
  header = next(reader, [])
  for fields in reader:
    if len(fields) != len(header):
      raise errors.UserError(
        f"{path}:{reader.line_num}",
        f"{len(fields)} fields",
        f"{len(header)} fields, as the header has",
        "Mend the line: a quote or a separator may be missing.",
      )
    yield dict(zip(header, fields, strict=True))


def _tsv(path: str, file: Any) -> Any:
  # A tab ends a field, and nothing else: captions may hold quotes.
  return _csv(path, file, delimiter="\t", quoting=csv.QUOTE_NONE)
