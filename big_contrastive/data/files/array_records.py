"""Random access to the records of array_record files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from big_contrastive.data.files import fields


class ArrayRecords:
  """Random access to the records of files, or of parts of them.

  A record is read as a range of one: the time of array_record's own data
  source grows with the records of a file, to 0.2 ms for 200,000.

  Args:
    parts: tfds's file instructions, in order: filename, and how many records
      to skip and to take.
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
    # Two threads may both open a file at first, which does no harm.
    if (reader := self._readers.get(part.filename)) is None:
      reader = array_record_module.ArrayRecordReader(
        part.filename, options="readahead_buffer_size:0"
      )
      self._readers[part.filename] = reader
    return reader.read(row, row + 1)[0]
