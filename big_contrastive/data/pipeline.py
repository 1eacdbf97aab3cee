"""From a source to batches: shuffle, read, augment, tokenize, batch.

The example at position p of the endless shuffled stream, and its random
crop, depend on the seed and p alone. Step s takes the positions from
s * batch_size on, whatever the number of processes, so the position in the
data is a number, and a run continues with the very next example.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from big_contrastive import errors
from big_contrastive.data import text

Source = Any  # len(source), source[i] -> record: see data/sources.
Batch = dict[str, np.ndarray]

# A record that can't be read is replaced by the one behind it; so many in a
# row mean that the data are not what they were said to be.
_TRIES = 20


@dataclasses.dataclass
class Examples:
  """Makes examples of records; a bad record is replaced by the next one.

  Args:
    source: random access to records.
    image: from image.parse: (bytes or uint8, rng) -> uint8 [h, w, 3].
    tokenizer: str -> int32 [l].
  """

  source: Source
  image: Callable[[Any, np.random.Generator | None], np.ndarray]
  tokenizer: text.Tokenizer

  def __call__(self, index: int, rng: np.random.Generator) -> Batch:
    """Returns "image", "text", "id", and "bad": records that were replaced.

    Of several captions one is drawn.
    """
    first_bad = -1
    for tries in range(_TRIES):
      at = (index + tries) % len(self.source)
      try:
        record = self.source[at]
        image = self.image(record["image"], rng)
      except (OSError, ValueError, SyntaxError) as e:
        logging.warning("record %d can't be read: %s", at, e)
        first_bad = at if first_bad < 0 else first_bad
        continue
      caption = record["text"]
      if not isinstance(caption, str):
        caption = caption[rng.integers(len(caption))]
      return {
        "image": image,
        "text": self.tokenizer(caption),
        "id": np.int32(record["id"]),
        "bad": np.int32(tries),
        "first_bad": np.int64(first_bad),
      }
    raise errors.UserError(
      f"records {first_bad} to {first_bad + _TRIES - 1} of the training data",
      "unreadable",
      "images that can be decoded",
      "See the log for what is wrong with each.",
    )


class _Rows:
  """The rows of the global batches from `start` to `stop` of one process."""

  def __init__(self, stream, rows, batch_size: int, start: int, stop: int):
    self.stream, self.rows = stream, rows
    self.batch_size, self.start, self.stop = batch_size, start, stop

  def __len__(self) -> int:
    return (self.stop - self.start) * len(self.rows)

  def __getitem__(self, k: int) -> Batch:
    step, row = divmod(k, len(self.rows))
    return self.stream[
      (self.start + step) * self.batch_size + int(self.rows[row])
    ]


@dataclasses.dataclass
class Training:
  """The stream of training batches, and how many records were bad.

  Args:
    examples: makes them.
    batch_size: of the global batch.
    rows: which rows of it this process loads, see sharding.local_rows.
    seed: of order, augmentation and choice of captions.
    max_bad: more bad records than that, on this process, stop the run.
    threads: that read and decode.
    workers: processes that do, instead; 0 for none.
  """

  examples: Examples
  batch_size: int
  rows: np.ndarray
  seed: int
  max_bad: int = 100
  threads: int = 8
  workers: int = 0
  bad: int = 0

  def batches(self, start: int, stop: int) -> Iterator[Batch]:
    """Yields this process's rows of the batches of steps start..stop-1."""
    stream = grain.MapDataset.range(len(self.examples.source))
    stream = stream.seed(self.seed).shuffle().repeat()
    stream = stream.random_map(self.examples)
    rows = _Rows(stream, self.rows, self.batch_size, start, stop)
    data = grain.MapDataset.source(rows).to_iter_dataset(
      grain.ReadOptions(self.threads, max(16, 2 * len(self.rows)))
    )
    data = data.batch(len(self.rows), drop_remainder=True)
    if self.workers:
      if not flags.FLAGS.is_parsed():  # Grain reads its own from absl.
        flags.FLAGS.mark_as_parsed()
      data = data.mp_prefetch(grain.MultiprocessingOptions(self.workers))
    for batch in data:
      bad, where = batch.pop("bad"), batch.pop("first_bad")
      self._count(int(bad.sum()), int(where.max()))
      yield batch

  def _count(self, bad: int, where: int) -> None:
    self.bad += bad
    if self.bad > self.max_bad:
      raise errors.UserError(
        "unreadable records",
        self.bad,
        f"at most config.loading.max_bad = {self.max_bad}",
        f"Mend the data (the last was record {where}) or raise the limit.",
      )


def evaluation(
  source: Source,
  image: Callable[[Any, None], np.ndarray],
  batch_size: int,
  rows: np.ndarray,
  threads: int,
) -> Iterator[tuple[Batch, int]]:
  """Yields (this process's rows, number of real rows in the global batch).

  Every record comes once, in order. The last batch is padded by repeating
  its last record: the caller cuts the padding off. A bad record is an error:
  a figure over fewer examples would be another figure.
  """
  size = len(source)
  batches = -(-size // batch_size)

  def example(index: int) -> Batch:
    index = min(index, size - 1)
    try:
      record = source[index]
      pixels = image(record["image"], None)
    except (OSError, ValueError, SyntaxError) as e:
      raise errors.UserError(
        f"record {index} of the evaluation data",
        "unreadable",
        "an image that can be decoded",
        f"{e}.",
      ) from e
    label = np.int32(record.get("label", -1))
    return {"image": pixels, "label": label, "id": np.int32(record["id"])}

  stream = grain.MapDataset.range(batches * batch_size).map(example)
  view = _Rows(stream, rows, batch_size, 0, batches)
  data = grain.MapDataset.source(view).to_iter_dataset(
    grain.ReadOptions(threads, max(16, 2 * len(rows)))
  )
  for i, batch in enumerate(data.batch(len(rows), drop_remainder=True)):
    yield batch, min(batch_size, size - i * batch_size)


def captions(source: Source) -> Iterator[list[str]]:
  """Yields each record's captions, as a list."""
  for i in range(len(source)):
    caption = source[i]["text"]
    yield [caption] if isinstance(caption, str) else list(caption)


def pad(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
  """Returns the rows stacked and padded to size by repeating the last."""
  return np.stack([rows[min(i, len(rows) - 1)] for i in range(size)])
