"""Reads every record of a source once, in order."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.loader.training import _read
from big_contrastive.data.source import Batch, Source


def evaluation(
  source: Source,
  image: Callable[[Any, None], np.ndarray],
  batch_size: int,
  rows: np.ndarray,
  threads: int,
  bad: Callable[[int, Exception], np.ndarray] | None = None,
) -> Iterator[tuple[Batch, int]]:
  """Yields (this process's rows, number of real rows in the global batch).

  Every record comes once, in order. The last batch is padded by repeating
  its last record: the caller cuts the padding off.

  Args:
    source: the records.
    image: preprocessing.
    batch_size: of the global batch.
    rows: of it, those that this process loads.
    threads: number of threads that read and decode.
    bad: the number of a bad record and its fault -> an image in its place. By
      default it is an error: a metric over fewer examples would be another.
  """
  size = len(source)
  batches = -(-size // batch_size)

  @functools.cache  # Padding repeats it, but decodes it only once.
  def last() -> Batch:
    return read(size - 1)

  def example(index: int) -> Batch:
    return read(int(index)) if index < size - 1 else last()

  def read(index: int) -> Batch:
    try:
      record = source[index]
      pixels = image(record["image"], None)
    except (OSError, ValueError, SyntaxError) as e:
      if bad:
        none = np.int32(-1)
        return {"image": bad(index, e), "label": none, "id": none}
      raise errors.UserError(
        f"{source.name(index)} of the evaluation data",
        "unreadable",
        "records that can all be read: a figure over fewer is another figure",
        f"{e}.",
      ) from e
    label = np.int32(record.get("label", -1))
    return {"image": pixels, "label": label, "id": np.int32(record["id"])}

  rows = np.asarray(rows)
  places = np.arange(batches)[:, None] * batch_size + rows
  stream = grain.MapDataset.source(places.ravel()).map(example)
  data = _read(stream, threads, 2 * len(rows))
  for i, batch in enumerate(data.batch(len(rows), drop_remainder=True)):
    yield batch, min(batch_size, size - i * batch_size)


def read_all(
  source: Source, skip_bad: bool = False
) -> Iterator[dict[str, Any]]:
  """Yields the records of a source, with "text" always a list.

  The list is empty for a record without captions.

  Args:
    source: random access to records.
    skip_bad: leave out records that can't be read; otherwise they are errors.
  """
  for i in range(len(source)):
    try:
      record = source[i]
    except (OSError, ValueError) as e:
      if skip_bad and bad_records.kind(e):
        continue
      thing, allowed = source.name(i), "a record with a caption"
      raise errors.UserError(thing, "unreadable", allowed, f"{e}.") from e
    text = record.get("text", ())
    yield record | {"text": [text] if isinstance(text, str) else list(text)}


def captions(source: Source, skip_bad: bool = False) -> Iterator[list[str]]:
  """Yields each record's captions, see `read_all`."""
  return (record["text"] for record in read_all(source, skip_bad))


def pad(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
  """Returns the rows stacked and padded to size by repeating the last."""
  return np.stack([rows[min(i, len(rows) - 1)] for i in range(size)])
