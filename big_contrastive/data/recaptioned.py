"""A source with the captions that `caption` has told and scored (CapFilt)."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import block_cache, captioned, fields
from big_contrastive.data.loader import fingerprint
from big_contrastive.data.source import Preprocess, Source
from big_contrastive.storage import paths

_CACHE = 256 * 2**20  # Bytes of row groups to keep, in each process.


@dataclasses.dataclass
class Recaptioned(Source):
  """The records of a source, with other captions.

  Row groups of captions are read as a whole, as their records are asked for,
  and some stay in memory.

  Args:
    source: the records.
    folder: their captions.
    threshold: the least score of a caption.

  Attributes:
    kept: int64, the numbers of the records that have captions, ascending.
  """

  source: Source
  folder: captioned.Folder
  threshold: float

  def __post_init__(self):
    self.classes = self.source.classes
    self.blocks, self.window = self.source.blocks, self.source.window
    self.kept, bad = self.folder.good(self.threshold)
    left = len(self.source) - len(self.kept) - bad
    reasons = {"could not be captioned": bad}
    reasons[f"no caption that scores {self.threshold:g}"] = left
    self.skipped = {k: n for k, n in reasons.items() if n}
    self._ends = np.cumsum([n for _, _, n in self.folder.groups]).tolist()
    self._read = block_cache.BlockCache(self.folder.read, _bytes, _CACHE)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns the record, with a list of captions.

    Raises:
      BadRecord: if it has none.
    """
    block, row = fields.place(index, self._ends)
    told = self._read[block]["captions"][row].as_py()
    texts = [c["text"] for c in told if _scores(c["score"], self.threshold)]
    if not texts:
      reason = f"no caption that scores {self.threshold:g}"
      raise BadRecord("caption", reason)
    return self.source[index] | {"text": texts}

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    return self.source.name(index)

  def true(self, index: int, caption: str) -> bool | None:
    """Whether a caption says what is so of an image; None: nobody knows."""
    return self.source.true(index, caption)

  def uid(self, index: int) -> str | None:
    """Returns the record's uid, if the source has uids."""
    return self.source.uid(index)

  def preprocess(self, index: int) -> Preprocess | None:
    """Returns a record's own training preprocessing; None for the config's."""
    return self.source.preprocess(index)

  def outline(self) -> list[str | bytes | memoryview]:
    """Returns what made the captions, and the source's outline."""
    made = [*self.folder.outline(), f"threshold {self.threshold}"]
    return [*made, *self.source.outline()]


def _scores(score: float | None, threshold: float) -> bool:
  return score is not None and score >= threshold


def _bytes(block: pa.Table) -> int:
  return block.nbytes


def read(source: Source, captions: str, threshold: float | None) -> Recaptioned:
  """Returns a source with the captions of a folder, web and synthetic ones.

  Memory is that of a number a record, and a cache.

  Args:
    source: what was captioned.
    captions: a folder that big_contrastive.caption has written.
    threshold: the least score of a caption; None for 0.5, of a match.

  Raises:
    UserError: for a folder of other data, one that is not complete, and a
      threshold that no score can have.
  """
  where = "filter.captions"
  folder = captioned.Folder(paths.at(captions, where), where)
  least = folder.threshold(threshold, "filter.threshold", where)
  made, now = folder.about["records"], fingerprint.fingerprint(source)
  if made != now:
    value = f"{captions}: of {made['records']:,} records"
    if made["records"] == now["records"]:
      value = f"{captions}: of other data"
    allowed = f"captions of this source, {now['records']:,} records"
    remedy = "Its about.json says of which; give caption's --data here."
    raise errors.UserError(where, value, allowed, remedy)
  return Recaptioned(source, folder, least)
