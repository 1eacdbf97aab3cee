"""Records of array_record files by number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from big_contrastive.data.files import fields


class ArrayRecords:
  """Random access to the records of files, or of parts of them.

  One record is read as a range: the time that array_record's own data source
  takes grows with the records of a file, 0.2 ms where there are 200,000.

  Args:
    parts: of tfds, in order: filename, and how many records to skip and take.
  """

  def __init__(self, parts: Sequence[Any]):
    self._parts = parts
    self._ends = np.cumsum([part.take for part in parts]).tolist()
    self._readers: dict[str, Any] = {}

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> bytes:
    """Returns a record, as it was written."""
    k, row = fields.place(index, self._ends)
    part = self._parts[k]
    row += part.skip
    # Two threads that come first may both open it, which does no harm.
    if (reader := self._readers.get(part.filename)) is None:
      reader = array_record_module.ArrayRecordReader(
        part.filename, options="readahead_buffer_size:0"
      )
      self._readers[part.filename] = reader
    return reader.read(row, row + 1)[0]
