"""Parquet files: where they are, and how they begin."""

import collections
import glob
import os

import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive import errors
from big_contrastive.data import paths

THING = "files"  # The argument that holds them, for errors.


def opened(path: str) -> pq.ParquetFile:
  """Returns a file; raises OSError or ArrowException for what is no Parquet."""
  if not paths.remote(path):
    # A buffer for reading ahead takes a third more time where there is no wait.
    return pq.ParquetFile(path, pre_buffer=False)
  return pq.ParquetFile(paths.open_file(path, THING))


def find(files: str, split: str | None) -> tuple[list[str], list[str]]:
  """Returns the Parquet files, and what else lies in a folder.

  Args:
    files, split: see sources/parquet.py.

  Raises:
    UserError: where there are none.
  """
  whole = files.replace("{split}", split or "")
  folder = os.path.expanduser(whole)
  if paths.remote(whole) or not os.path.isdir(folder):
    return paths.find(whole, THING), []
  # Its name may hold what a pattern means something by.
  inside = glob.glob(f"{glob.escape(folder)}/**/*", recursive=True)
  inside = sorted(path for path in inside if os.path.isfile(path))
  every = [path for path in inside if path.endswith(".parquet")]
  others = [path for path in inside if not path.endswith(".parquet")]
  if not every:
    remedy = "Check the path."
    if any(path.endswith(".arrow") for path in others):
      remedy = (
        "It has Arrow files, as save_to_disk of `datasets` writes them. Write "
        "Parquet, of each split: datasets.load_from_disk(FOLDER).to_parquet("
        "'train.parquet')."
      )
    raise errors.UserError(THING, whole, "a folder with Parquet files", remedy)
  if split is None:
    return every, others
  splits: dict[str, list[str]] = collections.defaultdict(list)
  for path in every:
    own, file = os.path.split(os.path.relpath(path, folder))
    for name in {os.path.basename(own), file.split("-")[0].split(".")[0]}:
      splits[name].append(path)
  return splits[errors.choice("split", split, splits)], others


def head(path: str) -> pq.FileMetaData:
  """Returns what a file says of itself; UserError for what is no Parquet."""
  try:
    file = opened(path)
  except (pa.ArrowException, OSError) as e:
    said = " ".join(str(e).split())[:200]
    raise errors.UserError(THING, path, "Parquet files", f"{said}.") from e
  with file:
    return file.metadata


def first(
  path: str, groups: list[int], column: str, count: int
) -> list[object]:
  """Returns a column's first values in row groups; up to what is broken."""
  found: list[object] = []
  try:
    with opened(path) as file:
      for group in groups:
        if len(found) >= count:
          break
        # A batch may end before its row group does.
        rows = file.iter_batches(count, row_groups=[group], columns=[column])
        found += next(rows).column(0).to_pylist()
  except (pa.ArrowException, OSError, StopIteration):
    pass
  return found[:count]
