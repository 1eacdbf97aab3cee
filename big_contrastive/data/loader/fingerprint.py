"""Detects whether a data set is still the one that a run began with."""

import hashlib
import zlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np

from big_contrastive.data import bad_records
from big_contrastive.data.source import Source

_SAMPLED = 64  # How many records are read.
_BLOCKS = 4  # From how many blocks, for sources that read whole blocks.


def fingerprint(source: Source) -> dict[str, Any]:
  """Returns {"records": their number, "digest": of their content and order}.

  The digest covers what is known without reading images: names and captions of
  tables and folders, sizes of tar members and of Parquet row groups. And 64
  records as they are read, images included. So it is cheap, but does not see
  bytes that change in place in another record.
  """
  digest = hashlib.blake2b(digest_size=16)
  for part in _outline(source):
    digest.update(part)
  with futures.ThreadPoolExecutor(8) as pool:
    for content in pool.map(lambda i: _content(source, i), _sample(source)):
      digest.update(content)
  return {"records": len(source), "digest": digest.hexdigest()}


def _outline(source: Source) -> Iterator[bytes]:
  for inner in source.sources:
    yield b"part %d\n" % len(inner)
    yield from _outline(inner)
  for line in source.outline():
    yield (
      line
      if isinstance(line, bytes | memoryview)
      else f"{line}\n".encode("utf-8", "replace")
    )


def _sample(source: Source) -> list[int]:
  """Evenly spaced records; from a few blocks, if the source has blocks."""
  size, blocks = len(source), source.blocks
  if blocks is None:
    return np.unique(np.linspace(0, size - 1, _SAMPLED).astype(int)).tolist()
  ends = np.cumsum(blocks)
  chosen = np.unique(np.linspace(0, len(blocks) - 1, _BLOCKS).astype(int))
  indices = [
    np.linspace(ends[k] - blocks[k], ends[k] - 1, _SAMPLED // _BLOCKS)
    for k in chosen
  ]
  return np.unique(np.concatenate(indices).astype(int)).tolist()


def _content(source: Source, index: int) -> bytes:
  """A record with a checksum of its image; the kind of a bad record."""
  try:
    record = dict(source[index])
    image = record.pop("image")
    data = image if isinstance(image, bytes) else np.asarray(image).tobytes()
    fields = [(k, record[k]) for k in sorted(record)]
    return repr((fields, len(data), zlib.crc32(data))).encode(
      "utf-8", "replace"
    )
  except (OSError, ValueError, SyntaxError) as e:
    return bad_records.kind(e).encode()


def changed(before: dict[str, Any], now: dict[str, Any]) -> str | None:
  """Returns a message if a run resumes with other data; else None.

  Args:
    before, now: from `fingerprint`, of the run's checkpoint and of the present
      data; before is {} for checkpoints without one.
  """
  if not before or before == now:
    return None
  if before["records"] != now["records"]:
    return (
      f"{before['records']:,} records when the run began, {now['records']:,} "
      "now: from here on their order is another one, so of what this epoch has "
      "not had some comes again, and some does not come"
    )
  return (
    f"as many records as when the run began, {now['records']:,}, but others or "
    "in another order: the same positions go on with what is there now, so of "
    "this epoch some may come again, and some not come"
  )
