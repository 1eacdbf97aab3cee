"""The records of a shard, read once; what is bad is noted, not raised."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_contrastive.data import bad_records
from big_contrastive.data.files import fields
from big_contrastive.data.loader.draws import DRAWS
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import decode, pipeline
from big_contrastive.offline.tasks import Task


class Shard(Source):
  """A range of a source; notes what else than images its records have.

  Attributes:
    captions: of each record, a list.
    id, label: int32, of each record; -1 for none.
    sides: int32 [n, 2], width and height of the images; -1 where not known.
    digest: of the bytes of each record's image, 16 bytes.
    bad: kind of fault by record.
  """

  def __init__(self, source: Source, task: Task):
    self._source, self._task = source, task
    n = len(task)
    self.captions: list[list[str]] = [[] for _ in range(n)]
    self.id, self.label = np.full((2, n), -1, np.int32)
    self.sides = np.full((n, 2), -1, np.int32)
    self.digest: list[bytes | None] = [None] * n
    self.bad: dict[int, str] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._task)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._source[self._task.start + index]
    text = record.get("text", ())
    several = [text] if isinstance(text, str) else list(text)
    for one in several:
      if not isinstance(one, str):
        kind = type(one).__name__
        raise bad_records.BadRecord("type", f"a caption is a {kind}")
    self.sides[index] = decode.size(record["image"])
    self.digest[index] = _digest(record["image"])
    self.captions[index] = [fields.clean(one) for one in several]
    self.id[index] = record["id"]
    self.label[index] = record.get("label", -1)
    return record

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    return self._source.name(self._task.start + index)

  def fault(self, index: int, error: Exception) -> None:
    """Notes a bad record.

    Raises:
      UserError: the error itself, if it is one.
    """
    kind = bad_records.kind(error)
    with self._lock:
      self.bad[index] = kind

  def counts(self) -> dict[str, int]:
    """Returns the number of bad records by kind."""
    kinds = list(self.bad.values())
    return {k: kinds.count(k) for k in sorted(set(kinds))}


def _digest(image: Any) -> bytes:
  """16 bytes of an image's bytes, or of its pixels if it has none."""
  if isinstance(image, bytes | bytearray | memoryview):
    return hashlib.blake2b(image, digest_size=16).digest()
  pixels = np.ascontiguousarray(image)
  kind = f"{pixels.dtype} {pixels.shape}".encode()
  return hashlib.blake2b(kind + pixels.tobytes(), digest_size=16).digest()


class Views(Source):
  """A shard whose images are views [k, h, w, 3] of what it has.

  A view's random numbers are those of the seed, the number of the record among
  all, and the view.

  Args:
    shard: the records.
    start: the number of its first record among all.
    pipelines: training preprocessing, one a view.
    seed: of the random numbers.
  """

  def __init__(
    self,
    shard: Shard,
    start: int,
    pipelines: Sequence[pipeline.Pipeline],
    seed: int,
  ):
    self._shard, self._start = shard, start
    self._pipelines, self._seed = pipelines, seed

  def __len__(self) -> int:
    return len(self._shard)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._shard[index]
    at = self._start + index
    # Each is a function of its own numbers: the views before it change nothing.
    views = [
      ops(record["image"], DRAWS.at(self._seed, at, block=view))
      for view, ops in enumerate(self._pipelines)
    ]
    return record | {"image": np.stack(views)}

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    return self._shard.name(index)
