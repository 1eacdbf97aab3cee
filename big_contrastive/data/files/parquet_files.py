"""Parquet files: finds them, and reads their metadata and first values."""

import collections
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data.files import paths
from big_contrastive.data.transforms.decode import ENDINGS
from big_contrastive.storage import urls

THING = "files"  # The argument that holds them, for errors.


def opened(path: str) -> pq.ParquetFile:
  """Opens a file; raises OSError or ArrowException if it is not Parquet."""
  if not urls.remote(path):
    # Reading ahead takes a third more time where there is no latency.
    return pq.ParquetFile(path, pre_buffer=False)
  return pq.ParquetFile(paths.open_file(path, THING))


def find(files: str, split: str | None) -> tuple[list[str], list[str]]:
  """Returns the Parquet files, and the other files in their folder.

  Args:
    files, split: see sources/parquet.py.

  Raises:
    UserError: if there are no Parquet files.
  """
  pattern = files.replace("{split}", split or "")
  folder = os.path.expanduser(pattern)
  if urls.remote(pattern) or not os.path.isdir(folder):
    return paths.find(pattern, THING), []
  every: list[str] = []
  others: list[str] = []
  for parent, inner, names in os.walk(folder, followlinks=True):
    hidden = [n for n in inner if n.startswith(".")]
    others += [os.path.join(parent, n) for n in hidden]
    inner[:] = sorted(set(inner) - set(hidden))
    for name in sorted(names):
      good = name.lower().endswith((".parquet", ".pq")) and name[0] != "."
      (every if good else others).append(os.path.join(parent, name))
  every.sort()
  if not every:
    remedy = "Check the path."
    if any(path.endswith(".arrow") for path in others):
      remedy = (
        "It has Arrow files, as save_to_disk of `datasets` writes them. Write "
        "Parquet, of each split: datasets.load_from_disk(FOLDER).to_parquet("
        "'train.parquet')."
      )
    raise errors.UserError(
      THING, pattern, "a folder with Parquet files", remedy
    )
  if split is None:
    return every, others
  splits: dict[str, list[str]] = collections.defaultdict(list)
  for path in every:
    parent, file = os.path.split(os.path.relpath(path, folder))
    for name in {os.path.basename(parent), file.split("-")[0].split(".")[0]}:
      splits[name].append(path)
  return splits[errors.choice("split", split, splits)], others


def head(path: str) -> pq.FileMetaData:
  """Returns a file's metadata; raises UserError if it is not Parquet."""
  try:
    file = opened(path)
  except (pa.ArrowException, OSError) as e:
    message = " ".join(str(e).split())[:200]
    raise errors.UserError(THING, path, "Parquet files", f"{message}.") from e
  with file:
    return file.metadata


def first(
  files: list[str], groups: list[tuple[int, int]], column: str, count: int
) -> list[Any]:
  """Returns a column's first values in the first file, up to any damage.

  Args:
    files: their paths.
    groups: (file, row group) of each block of rows.
    column: its name.
    count: the largest number of values.
  """
  values: list[Any] = []
  try:
    with opened(files[groups[0][0]]) as file:
      for number, group in groups:
        if len(values) >= count or number != groups[0][0]:
          break
        # A batch may end before its row group does.
        rows = file.iter_batches(count, row_groups=[group], columns=[column])
        values += next(rows).column(0).to_pylist()
  except (pa.ArrowException, OSError, StopIteration):
    pass
  return values[:count]


def unused(others: list[str], with_paths: bool) -> dict[str, int]:
  """Returns how many of the other files in a folder are unused, by ending.

  Args:
    others: from `find`.
    with_paths: whether rows may hold paths of images in the folder.
  """
  counts: collections.Counter[str] = collections.Counter()
  for path in others:
    name = path.rpartition("/")[2]
    ending = name.rpartition(".")[2].lower()
    if not with_paths or name[0] == "." or ending not in ENDINGS:
      counts[f"no Parquet: .{'*, hidden' if name[0] == '.' else ending}"] += 1
  return dict(counts)
