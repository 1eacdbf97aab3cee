"""The folder of Parquet parts that `embed` writes, as a reader sees it."""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.storage import urls
from big_contrastive.storage.paths import Path

T = TypeVar("T")

ABOUT = "about.json"
NOTE = b"big_contrastive"  # In the metadata of a part's schema.


def using(path: Path, action: Callable[[pq.ParquetFile], T]) -> T:
  """Returns what `action` does with a part, whose pages are checked.

  In a bucket it is tried for a minute.

  Raises:
    OSError: for a file that can't be read.
    pa.ArrowInvalid: for one that is not whole.
  """

  def act() -> T:
    with contextlib.ExitStack() as stack:
      raw = stack.enter_context(path.open("rb")) if away else path
      part = pq.ParquetFile(raw, page_checksum_verification=True)
      return action(stack.enter_context(part))

  away = urls.remote(path)
  return urls.patiently(act, str(path)) if away else act()


def parts(folder: Path) -> list[Path]:
  """Returns the parts of a folder, by their numbers."""
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  found = (re.fullmatch(r"part-(\d{5,})\.parquet", name) for name in names)
  return [
    folder / m[0] for m in sorted(filter(None, found), key=lambda m: int(m[1]))
  ]


def about(folder: Path, flag: str, command: str = "embed") -> dict[str, Any]:
  """Returns the content of a folder's about.json.

  Args:
    folder: its path.
    flag: its name in errors.
    command: what writes such folders.

  Raises:
    UserError: if there is none, or it is no JSON.
  """
  try:
    return json.loads((folder / ABOUT).read_text())
  except Exception as e:  # Of a bucket, each library has kinds of its own.
    allowed = f"a folder that {command} has written"
    remedy = f"{command} writes it: {e}."
    raise errors.UserError(flag, str(folder), allowed, remedy) from e


def _rows(part: pq.ParquetFile) -> list[int]:
  """The rows of each row group."""
  head = part.metadata
  return [head.row_group(g).num_rows for g in range(head.num_row_groups)]


def note(schema: pa.Schema) -> dict[str, Any]:
  """Returns what a part says of itself; {} for another file."""
  text = (schema.metadata or {}).get(NOTE)
  return json.loads(text) if text else {}


def floats(column: Any, dtype: str) -> np.ndarray:
  """Returns lists of d numbers as float32 [n, d], null ones left out.

  Args:
    column: a column of fixed-size lists.
    dtype: of the numbers; bfloat16 is stored as its bits, uint16.
  """
  if isinstance(column, pa.ChunkedArray):
    column = column.combine_chunks()
  flat = np.asarray(column.flatten())
  if dtype == "bfloat16":
    flat = (flat.astype(np.uint32) << 16).view(np.float32)
  return flat.astype(np.float32).reshape(-1, column.type.list_size)


class Whole:
  """All parts of a folder, of one work.

  Args:
    path: the folder.
    flag: its name in errors.
    command: what has written it.

  Attributes:
    about: the content of about.json.
    groups: (file, row group, rows) of each block.
    schema: of the parts.

  Raises:
    UserError: if there is none, parts are missing, or they differ in what made
      them.
  """

  def __init__(self, path: Path, flag: str, command: str = "embed"):
    self.path, self.files = path, parts(path)
    self.about = about(path, flag, command)
    self.groups: list[tuple[int, int, int]] = []
    self.schema = pa.schema([])
    for i, file in enumerate(self.files):
      self.schema, rows = using(file, lambda p: (p.schema_arrow, _rows(p)))
      self.groups += [(i, g, n) for g, n in enumerate(rows)]
      if note(self.schema).get("made") != self.about["made"]:
        value = f"{file.name}: made with another model or other flags"
        remedy = f"Give {command} another folder."
        raise errors.UserError(flag, value, "parts of one work", remedy)
    records = self.about["records"]["records"]
    rows = sum(n for _, _, n in self.groups)
    if not rows or rows != records:
      value = f"{path}: {rows:,} of {records:,} records"
      remedy = f"Give the command of {command} again: it does what is missing."
      raise errors.UserError(flag, value, "all of them", remedy)

  def table(self, block: int, columns: list[str]) -> pa.Table:
    """Returns columns of a block.

    Raises:
      BadRecord: if it can't be read.
    """
    file, group, _ = self.groups[block]
    try:
      return using(
        self.files[file],
        lambda p: p.read_row_group(group, columns, use_threads=False),
      ).combine_chunks()
    except (pa.ArrowException, OSError) as e:
      message = f"{self.files[file]}, row group {group}: {e}"
      raise BadRecord("read", " ".join(message.split())[:200]) from e

  def outline(self) -> list[str]:
    """Returns what made the parts, and of which records."""
    return [
      json.dumps(self.about[k], sort_keys=True) for k in ("made", "records")
    ]


class Folder(Whole):
  """A folder of `embed`, of one model and one preprocessing; see Whole.

  Attributes:
    columns: of the vectors: "image", or "view_0" and so on.
    width: of the vectors.

  Raises:
    UserError: also without vectors.
  """

  def __init__(self, path: Path, flag: str):
    super().__init__(path, flag)
    names = self.schema.names
    self.columns = [k for k in names if re.fullmatch(r"image|view_\d+", k)]
    if not self.columns:
      remedy = "Run embed without --dtype none."
      raise errors.UserError(flag, str(path), "parts with vectors", remedy)
    self.width = self.schema.field(self.columns[0]).type.list_size

  def good(self) -> np.ndarray:
    """Returns the numbers of the records that are not bad, int64."""
    bad = [using(f, lambda p: p.read(["bad"])["bad"]) for f in self.files]
    null = [column.is_null().to_numpy() for column in bad]
    return np.flatnonzero(np.concatenate(null))

  def read(self, block: int) -> tuple[np.ndarray, pa.Table]:
    """Returns a block's vectors float32 [rows, views, d], and other columns.

    Raises:
      BadRecord: if it can't be read.
    """
    others = ["bad", "id", "label", "captions"]
    table, rows = (
      self.table(block, [*others, *self.columns]),
      self.groups[block][2],
    )
    vectors = np.zeros((rows, len(self.columns), self.width), np.float32)
    valid = table[self.columns[0]].combine_chunks().is_valid()
    for k, name in enumerate(self.columns):
      found = floats(table[name], self.about["made"]["dtype"])
      vectors[np.asarray(valid), k] = found
    return vectors, table.select(others)

  def name(self, block: int, row: int) -> str:
    """Returns "part-00000.parquet:1007" for a row of a block."""
    file, group, _ = self.groups[block]
    before = (n for f, g, n in self.groups[:block] if f == file and g < group)
    return f"{self.files[file].name}:{sum(before) + row}"
