"""Images as the vectors that `embed` has made of them, with their captions.

A locked image tower (LiT) needs no pictures: a training step reads a vector of
some kilobytes. Row groups are read as a whole, one after another.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from big_contrastive.config import errors
from big_contrastive.data import filters
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import block_cache, embedded, fields
from big_contrastive.data.source import Source
from big_contrastive.storage import paths


class Vectors(Source):
  """Random access to embedded records, bad ones among them.

  Args:
    folder: that `embed` has written.
    cache: bytes of row groups to keep in memory.
  """

  def __init__(self, folder: embedded.Folder, cache: int):
    self._folder = folder
    self.blocks = np.array([n for _, _, n in folder.groups], np.int64)
    self._ends = np.cumsum(self.blocks).tolist()
    row = 4 * folder.width * len(folder.columns)
    largest = int(self.blocks.max())
    self.window = largest * max(1, cache // (2 * row * largest))
    self._read = block_cache.BlockCache(folder.read, _bytes, cache)

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns "image" float32 [views, d], "text", "id", and maybe "label"."""
    block, row = fields.place(index, self._ends)
    vectors, table = self._read[block]
    cells = {k: table[k][row].as_py() for k in table.column_names}
    if cells["bad"]:
      raise BadRecord(cells["bad"], "it could not be embedded")
    record = {"image": vectors[row], "id": cells["id"]}
    record["text"] = fields.one_or_several(cells["captions"])
    if cells["label"] is not None:
      record["label"] = cells["label"]
    return record

  def name(self, index: int) -> str:
    """Returns a name by which a person can find it: "part-00000.parquet:7"."""
    block, row = fields.place(index, self._ends)
    return self._folder.name(block, row)

  def outline(self) -> list[str]:
    """Returns what made the vectors, and of what, for a digest."""
    return self._folder.outline()


def _bytes(block: tuple[np.ndarray, pa.Table]) -> int:
  return block[0].nbytes + block[1].nbytes


def source(
  split: str | None = None, *, parts: str, cache_mb: int = 1024
) -> filters.Filtered:
  """Returns the records that `embed` could read, in their order.

  Args:
    split: replaces "{split}" in parts.
    parts: a folder that `embed` has written, with vectors, also in a bucket;
      of `embed --views k`, training draws one of k views, and evaluation takes
      the first.
    cache_mb: memory for row groups, in each process that reads.

  Raises:
    UserError: if parts are missing, damaged or not all of one model and one
      preprocessing; if there are no vectors, or no record is good.
  """
  errors.at_least("cache_mb", cache_mb, 1)
  path = paths.at(parts.replace("{split}", split or ""), "parts")
  folder = embedded.Folder(path, "parts")
  good = folder.good()
  if not len(good):
    allowed = "parts with a record that could be read"
    raise errors.UserError("parts", str(path), allowed, "Look at column bad.")
  data = Vectors(folder, cache_mb * 2**20)
  skipped = {"could not be embedded": len(data) - len(good)}
  every = filters.Length(0, 10**9)
  return filters.Filtered(
    data, good, every, {k: n for k, n in skipped.items() if n}
  )
