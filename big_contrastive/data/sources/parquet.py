"""Parquet, and Hugging Face data sets as Parquet, with random access.

An image is bytes, a path, or a struct of the two, {bytes, path}; a caption is
a string or a list of strings.
"""

import logging
import operator
import os
import posixpath
import threading
from concurrent import futures
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.files import (
  block_cache,
  class_names,
  fields,
  parquet_columns,
  parquet_files,
  paths,
  uids,
)
from big_contrastive.data.source import Source

_TRIED = 200  # First rows that are searched for repeated images.
_IMAGES = ("image", "img", "images", "jpg", "bytes")
_CAPTIONS = ("caption", "captions", "text", "texts", "sentence", "sentences")


class Rows(Source):
  """Random access to rows; keeps some row groups in memory.

  Args:
    files: their paths.
    groups: (file, row group) of each block of rows.
    blocks: int64, number of rows of each block.
    columns: the files' columns for "image", "text", "label", "id", "uid".
    root: the folder that image paths are relative to; None: their file's.
    classes: names by label.
    text_names: names by number where the captions are class numbers.
    cache: bytes of row groups to keep in memory.
    window: rows that fit into half of the cache: the order stays within that
      many for a while, see shuffle.Blocks.
    skipped: reason -> number of files that were left out.
    by_image: whether ids are derived from the images.
    places: int64, the index in `classes` of each class stored in the files,
      if they differ; or None.
    noted: the class names stored in the files.
    layout: from parquet_columns.layout, for a digest.
  """

  def __init__(
    self,
    files: list[str],
    groups: list[tuple[int, int]],
    blocks: np.ndarray,
    columns: dict[str, str],
    root: str | None,
    classes: list[str] | None,
    text_names: list[str] | None,
    cache: int,
    window: int,
    skipped: dict[str, int],
    by_image: bool,
    places: np.ndarray | None,
    noted: list[str] | None,
    layout: bytes,
  ):
    self.files, self.groups, self.blocks = files, groups, blocks
    self.columns, self.root, self.classes = columns, root, classes
    self.text_names, self.cache, self.window = text_names, cache, window
    self.skipped, self.by_image, self.layout = skipped, by_image, layout
    self.places, self.noted = places, noted
    self._ends = np.cumsum(blocks).tolist()
    self._begin()

  def _begin(self) -> None:
    self._open = threading.local()
    size = operator.attrgetter("nbytes")
    self._tables = block_cache.BlockCache(self._read, size, self.cache)

  def __getstate__(self) -> dict[str, Any]:
    left = ("_tables", "_open")
    return {k: v for k, v in vars(self).items() if k not in left}

  def __setstate__(self, state: dict[str, Any]) -> None:
    vars(self).update(state)
    self._begin()

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns "image" (encoded), "text", "id", and maybe "label"."""
    block, row = fields.place(index, self._ends)
    table = self._tables[block]
    cells = {k: table[c][row].as_py() for k, c in self.columns.items()}
    record: dict[str, Any] = {
      "image": self._image(cells["image"], self.groups[block][0]),
      "id": self._id(index, cells),
    }
    if "text" in cells:
      text = cells["text"]
      if self.text_names is not None:
        text = self.text_names[class_names.label(text, self.text_names)]
      record["text"] = fields.one_or_several(fields.caption(text))
    if "label" in cells:
      record["label"] = self._label(cells["label"])
    return record

  def _label(self, value: Any) -> int:
    if self.places is None:
      return class_names.label(value, self.classes)
    return int(self.places[class_names.label(value, self.noted)])

  def _id(self, index: int, cells: dict[str, Any]) -> int:
    if self.by_image:
      return fields.picture(parquet_columns.which_image(cells["image"]))
    return fields.number(cells.get("id") if "id" in cells else index)

  def name(self, index: int) -> str:
    """Returns a name by which a person can find it: "a.parquet:row 17"."""
    block, row = fields.place(index, self._ends)
    file, group = self.groups[block]
    first = sum(
      int(n)
      for (f, g), n in zip(self.groups, self.blocks)
      if f == file and g < group
    )
    return f"{self.files[file]}:row {first + row}"

  def uid(self, index: int) -> str | None:
    """Returns the row's uid; None if the source was not told of a column."""
    if "uid" not in self.columns:
      return None
    block, row = fields.place(index, self._ends)
    return uids.checked(self._tables[block][self.columns["uid"]][row].as_py())

  def outline(self) -> list[bytes]:
    """Returns the blocks and the layout, for a digest."""
    return [self.blocks.tobytes(), self.layout]

  def first_images(self) -> list[bytes]:
    """Returns what identifies each of the first images of a file."""
    column = self.columns["image"]
    cells = parquet_files.first(self.files, self.groups, column, _TRIED)
    return list(map(parquet_columns.which_image, cells))

  def _read(self, block: int) -> pa.Table:
    file, group = self.groups[block]
    try:
      opened = self._opened(file)
      names = sorted(set(self.columns.values()))
      table = opened.read_row_group(group, names, use_threads=False)
    except (pa.ArrowException, OSError) as e:
      message = " ".join(str(e).split())[:200]
      where = f"{self.files[file]}, row group {group}"
      raise bad_records.BadRecord("read", f"{where}: {message}") from e
    if len(table) != self.blocks[block]:
      raise bad_records.BadRecord("read", f"{self.files[file]} has changed")
    return parquet_columns.plain_times(table).combine_chunks()

  def _opened(self, file: int) -> pq.ParquetFile:
    """The file; each thread keeps the last one that it opened."""
    if getattr(self._open, "number", None) != file:
      self._open.file = parquet_files.opened(self.files[file])
      self._open.number = file
    return self._open.file

  def _image(self, value: Any, file: int) -> bytes:
    path = None
    if isinstance(value, dict):
      value, path = value.get("bytes"), fields.plain(value.get("path"))
    elif isinstance(value, str):
      value, path = None, fields.plain(value)
    if value is None and path is None:
      raise bad_records.BadRecord("missing", "no image: null")
    if isinstance(value, bytes):
      return value
    if value is not None or not isinstance(path, str):
      kind = type(value).__name__
      raise bad_records.BadRecord("type", f"an image of type {kind}")
    root = self.root or posixpath.dirname(self.files[file])
    full = posixpath.join(root, paths.below(path, root))
    with paths.open_file(full, "image") as opened:
      return opened.read()


def source(
  split: str | None = None,
  *,
  files: str,
  image: str | None = None,
  caption: str | None = None,
  label: str | None = None,
  id: str | None = None,
  uid: str | None = None,
  classes: str | list | None = None,
  root: str | None = None,
  cache_mb: int = 1024,
) -> Rows:
  """Returns the rows of Parquet files, in the order of the files' names.

  Row groups are read as a whole, so they should be small (Hugging Face writes
  100 rows with images), and the order of training stays for a while within as
  many as fit into half of cache_mb.

  Args:
    split: for a folder, selects the files "SPLIT-*" or "SPLIT/*", as `datasets`
      names them; otherwise replaces "{split}" in files.
    files: a folder, or paths and URLs with braces and globs; several with ","
      or "::" between them.
    image, caption, label, id: columns. An image column has bytes, paths or
      structs of the two; a caption column has strings, lists of them, or class
      numbers; caption="none" is for only images. By default the usual names;
      no label; an id per row, or per image if neighbors among the first rows
      have the same image. Rows with equal ids are not each other's negatives;
      id="image" derives ids from images. Other columns of the files may differ.
    uid: the column by which a filter.keep of DataComp's kind names rows.
    classes: names by label, as class_names.read takes them, in place of those
      that `datasets` stores; needed if labels are names.
    root: the folder that image paths are relative to, or that contains them if
      they begin with "/"; by default the file's.
    cache_mb: memory for row groups, in each process that reads.

  Raises:
    UserError: for a file that is missing, not Parquet or has other columns.
  """
  errors.at_least("cache_mb", cache_mb, 1)
  file_paths, others = parquet_files.find(files, split)
  with futures.ThreadPoolExecutor(8) as pool:
    heads = list(pool.map(parquet_files.head, file_paths))
  schemas = [head.schema.to_arrow_schema() for head in heads]
  column_of = parquet_columns.column
  chosen = {"image": column_of("image", image, _IMAGES, schemas[0])}
  if caption != fields.NO_CAPTION:
    chosen["text"] = column_of("caption", caption, _CAPTIONS, schemas[0])
  extra = {"label": label, "id": id, "uid": uid}
  chosen |= {k: column_of(k, v, (), schemas[0]) for k, v in extra.items() if v}
  if by_image := chosen.get("id") == chosen["image"]:
    del chosen["id"]
  names = parquet_columns.check_same(file_paths, schemas, chosen)
  groups = [
    (f, g) for f, h in enumerate(heads) for g in range(h.num_row_groups)
  ]
  rows = [heads[f].row_group(g).num_rows for f, g in groups]
  taken = [i for i, n in enumerate(rows) if n]
  blocks = np.array([rows[i] for i in taken], np.int64)
  if not len(blocks):
    raise errors.UserError("files", files, "files with rows", "They have none.")
  groups, cache = [groups[i] for i in taken], cache_mb * 2**20
  read = set(chosen.values())
  window = parquet_columns.rows_in(heads, groups, read, cache // 2)
  kind = schemas[0].field(chosen["image"]).type
  with_paths = parquet_columns.holds_paths(kind)
  noted, column = names.get(chosen.get("label", "")), chosen.get("label")
  label_names, places = parquet_columns.label_names(
    classes, noted, column,
    lambda name: parquet_files.first(file_paths, groups, name, _TRIED),
  )  # fmt: skip
  data = Rows(
    file_paths, groups, blocks, chosen, root and os.path.expanduser(root),
    label_names, names.get(chosen.get("text", "")), cache, window,
    parquet_files.unused(others, with_paths),
    by_image,
    places, noted, parquet_columns.layout(heads, groups, chosen),
  )  # fmt: skip
  if id is None and fields.repeat(data.first_images()):
    data.by_image = True
    logging.warning("%s: %s", files, fields.REPEATED)
  return data
