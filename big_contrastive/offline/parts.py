"""A shard's output: a Parquet file that says what made it and of what.

The metadata of its schema has, under "big_contrastive", JSON with `made`, what
the work depends on; `records`, the range and a digest of its names; and what
the work adds. Every page has a checksum, which pyarrow and others can verify.
"""

import hashlib
import json
import os
import time
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.checkpoints import checksums
from big_contrastive.data.files import embedded
from big_contrastive.data.source import Source
from big_contrastive.parallel import signals
from big_contrastive.storage import atomic, urls
from big_contrastive.storage.paths import Path

_ROWS = 1000  # Of a row group: what a reader of one row reads.
_ABANDONED = 3600  # Seconds after which a half-written file has no writer.


def write(path: Path, table: pa.Table, about: dict[str, Any]) -> None:
  """Writes a part, which appears complete or not at all.

  Args:
    path: the file.
    table: its rows.
    about: what the function `about` returns; JSON.
  """
  note = json.dumps(about, sort_keys=True, allow_nan=False)
  table = table.replace_schema_metadata({embedded.NOTE: note})
  if urls.remote(path):
    content = pa.BufferOutputStream()
    _write(table, content)
    atomic.write_bytes(path, content.getvalue().to_pybytes())
    return
  for left in path.parent.glob(f".{path.name}.*"):
    if time.time() - left.stat().st_mtime > _ABANDONED:
      left.unlink(missing_ok=True)
  # A name of its own: an earlier worker may not have ended yet.
  new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")

  def remove(*_: object) -> None:
    new.unlink(missing_ok=True)

  try:
    with signals.removing(remove), new.open("wb") as file:
      _write(table, file)
      file.flush()
      os.fsync(file.fileno())
      new.replace(path)
  except BaseException:
    remove()
    raise
  checksums.sync_folder(path.parent)


def _write(table: pa.Table, file: Any) -> None:
  pq.write_table(
    table, file, row_group_size=_ROWS, compression="zstd",
    use_dictionary=False, write_page_checksum=True,
  )  # fmt: skip


def about(path: Path) -> dict[str, Any]:
  """Returns what `write` was told; {} for a file that is no part.

  Raises:
    OSError, pa.ArrowInvalid: for a file that is not whole.
  """
  return embedded.note(embedded.using(path, lambda part: part.schema_arrow))


def damage(path: Path) -> str | None:
  """Returns what is wrong with the file of a part; None if nothing is.

  A bucket checks its files itself: of one there only the end is read.

  Raises:
    OSError: if a bucket can't be reached.
  """

  def read(part: pq.ParquetFile) -> None:
    for _ in () if urls.remote(path) else part.iter_batches():
      pass

  try:
    embedded.using(path, read)
  except pa.ArrowException as e:
    return str(e).splitlines()[0]
  except OSError as e:
    if urls.remote(path):
      raise
    return str(e).splitlines()[0]
  return None


def digest(source: Source, start: int, stop: int) -> str:
  """Returns a digest of the names of records start..stop-1."""
  names = hashlib.blake2b(digest_size=16)
  for i in range(start, stop):
    names.update(source.name(i).encode("utf-8", "surrogatepass") + b"\n")
  return names.hexdigest()
