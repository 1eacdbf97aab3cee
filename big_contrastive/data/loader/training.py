"""From a source to batches: shuffle, read, augment, tokenize, batch.

The example at position p of the endless shuffled stream, and its random
crop, depend on the seed and p alone. Step s takes the positions from
s * batch_size on, whatever the number of processes, so the position in the
data is a number, and a run continues with the very next example.
"""

import contextlib
import dataclasses
import functools
import gc
import logging
from collections.abc import Callable, Generator
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.loader import buffers, fingerprint, shuffle
from big_contrastive.data.loader.batches import Chunks
from big_contrastive.data.loader.examples import Examples
from big_contrastive.data.source import Batch
from big_contrastive.parallel import signals


def _read(source: Any, threads: int, ahead: int) -> grain.IterDataset:
  """Elements in order, made by threads, some ahead of time."""
  options = grain.ReadOptions(threads, max(2 * threads, ahead))
  return grain.MapDataset.source(source).to_iter_dataset(options)


@dataclasses.dataclass
class Training:
  """The stream of training batches, and how many records were bad.

  Args:
    examples: makes them.
    batch_size: of the global batch.
    rows: which rows of it this process loads, see sharding.local_rows.
    seed: of order, augmentation and choice of captions.
    max_bad: the part of all examples that may be bad; more stops the run.
    bad_floor: so many bad records never stop it.
    threads: that read and decode.
    workers: processes that do, instead; 0 for none.
    ahead: batches that are put together, and put in place, ahead of time.
    gather: counts of this process -> of all processes, summed.
    reuse: whether threads write again where a batch lay that `put` has laid on
      devices; not on CPUs, whose arrays may be the host's.
  """

  examples: Examples
  batch_size: int
  rows: np.ndarray
  seed: int
  max_bad: float = 0.01
  bad_floor: int = 20
  threads: int = 8
  workers: int = 0
  ahead: int = 2
  gather: Callable[[np.ndarray], np.ndarray] = np.asarray
  reuse: bool = dataclasses.field(
    default_factory=lambda: jax.default_backend() != "cpu"
  )

  def __post_init__(self):
    for field, low, high in (
      ("max_bad", 0, 1), ("bad_floor", 0, 2**31), ("threads", 1, 4096),
      ("workers", 0, 4096), ("ahead", 0, 4096),
    ):  # fmt: skip
      value = getattr(self, field)
      if not low <= value <= high:
        allowed = f"from {low} to {high}"
        remedy = "max_bad is a part of all examples." * (field == "max_bad")
        thing = f"config.loading.{field}"
        raise errors.UserError(thing, value, allowed, remedy)
    self._tally = bad_records.Tally()

  def batches(
    self,
    start: int,
    stop: int,
    put: Callable[[Batch], Any] | None = None,
  ) -> Generator[Any, None, None]:
    """Yields this process's rows of the batches of steps start..stop-1.

    Args:
      start, stop: steps.
      put: what is done to each batch ahead of time: to lay it on devices.

    With workers, and with reuse and `put`, a batch lies in memory that is
    written again: host arrays are valid until the batch after the next is
    asked for. Copy what is kept longer. Arrays on devices are never written
    over.
    """
    try:
      yield from self._batches(start, stop, put)
    finally:
      if self.workers:
        # Grain leaves semaphores of its workers in cycles. Collected while
        # Python starts its resource tracker, they could not be given back.
        gc.collect()

  def _batches(
    self, start: int, stop: int, put: Callable[[Batch], Any] | None
  ) -> Generator[Any, None, None]:
    with contextlib.ExitStack() as closing:
      chunks = self._chunks(start, stop, self.reuse and put is not None)
      closing.callback(chunks.memory.close)

      def place(batch: Batch) -> tuple[np.ndarray, np.ndarray, Any]:
        kinds, index = batch.pop("bad").copy(), batch.pop("index").copy()
        return kinds, index, self._put(batch, put)

      stream = iter(self._dataset(chunks).map(place))
      closing.callback(lambda: stream.close())
      if self.workers:
        with signals.unheard():
          stream.get_state()  # Makes what is started: all workers at once.
          stream.start_prefetch()
      if self.ahead:
        stream = grain.experimental.ThreadPrefetchDatasetIterator(
          stream, prefetch_buffer_size=self.ahead
        )
      closing.callback(chunks.memory.end)  # The first: workers may wait.
      seen = start * self.batch_size
      for step, (kinds, index, batch) in enumerate(stream, start):
        seen += len(kinds)
        self._count(step, seen, kinds, index)
        yield batch
        # What asks for a batch has done with the one before the last.
        chunks.memory.release(step - 1)

  def _put(self, batch: Batch, put: Callable[[Batch], Any] | None) -> Any:
    """Lays a batch on devices, which hold it when this returns."""
    if put is None:
      return batch
    if not self.workers and not self.reuse:
      return put(batch)
    # The arrays of a CPU may be the host's.
    if self.workers and jax.default_backend() == "cpu":
      batch = {field: values.copy() for field, values in batch.items()}
    return jax.block_until_ready(put(batch))

  def _chunks(self, start: int, stop: int, reuse: bool) -> Chunks:
    size = len(self.rows)
    chunks = Chunks(
      self.examples, self.batch_size, self.rows, self.seed, start, stop,
      self._per_batch(size),
    )  # fmt: skip
    if not self.workers:
      chunks.memory = buffers.Own(size, reuse)
    elif len(chunks):
      _, example = next(chunks.examples_of(0))
      written = 2 + -(-self.workers // chunks.per_batch)
      # Besides those ahead one is being put in place, and two are in use.
      places = written + self.ahead + 3
      chunks.memory = buffers.Shared(size, example, places, start)
    return chunks

  def _per_batch(self, size: int) -> int:
    """Chunks of a batch of so many rows: few, and enough work for all."""
    if not self.workers:
      return -(-size // max(8, min(64, -(-size // self.threads))))
    if shuffle.in_blocks(self.examples.source):
      # So that a worker has the same chunk of each batch, see Chunks.
      return min(size, self.workers * -(-size // (256 * self.workers)))
    # A chunk costs a worker more, but four batches at most should be begun.
    return -(-size // max(8, min(256, 4 * size // self.workers)))

  def _dataset(self, chunks: Chunks) -> grain.IterDataset:
    """Batches with "bad" and "index"."""
    per_batch = chunks.per_batch
    data = _read(chunks, self.threads, 2 * per_batch)
    if self.workers and len(chunks):
      if not flags.FLAGS.is_parsed():  # Grain reads its own from absl.
        flags.FLAGS.mark_as_parsed()
      data = data.mp_prefetch(grain.MultiprocessingOptions(self.workers))
    return data.batch(per_batch, drop_remainder=True, batch_fn=chunks.batch)

  @functools.cached_property
  def data(self) -> dict[str, Any]:
    """What the data are, see fingerprint.fingerprint; read once."""
    return fingerprint.fingerprint(self.examples.source)

  def counts(self, done: int) -> dict[str, int]:
    """Returns how many records were bad, by kind, in the first steps.

    With several processes all of them must call it.

    Args:
      done: steps, not fewer than in the call before.
    """
    return self._tally.upto(done, self.gather)

  def restore(self, counts: dict[str, int] | int) -> None:
    """Takes up the counts of a checkpoint.

    Args:
      counts: by kind; older checkpoints have their sum alone.
    """
    self._tally.restore(counts)

  def _count(
    self, step: int, seen: int, kinds: np.ndarray, index: np.ndarray
  ) -> None:
    """Counts, names and limits what was bad in a batch."""
    if not kinds.any():
      return
    for kind, at in self._tally.add(
      step, kinds, index, self.examples.source.after
    ):
      said = kind, self.examples.source.name(at), self.examples.why(at)
      logging.warning("bad record (%s): %s: %s", *said)
    found = self._tally.all()
    total = sum(found.values())
    if total > max(self.bad_floor, self.max_bad * seen):
      last = int(index[kinds.any(-1)][-1])
      said = f"{self.examples.source.name(last)}: {self.examples.why(last)}"
      raise errors.UserError(
        f"bad records among {seen:,}",
        total,
        f"config.loading.max_bad = {self.max_bad} of them",
        f"They are {found}, the last is {said}. Mend the data or raise it.",
      )
