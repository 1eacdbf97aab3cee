"""The training loader: shuffles, reads, augments, tokenizes and batches.

The example at position p of the endless shuffled stream, and its random
crop, depend on the seed and p alone. Step s takes the positions from
s * batch_size on, whatever the number of processes, so the position in the
data is a number, and a run resumes with the very next example.
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
  """The elements in order, read by threads, some of them ahead of time."""
  options = grain.ReadOptions(threads, max(2 * threads, ahead))
  return grain.MapDataset.source(source).to_iter_dataset(options)


@dataclasses.dataclass
class Training:
  """The stream of training batches, and the counts of bad records.

  Args:
    examples: makes the examples.
    batch_size: of the global batch.
    rows: the rows of it that this process loads, see sharding.local_rows.
    seed: of order, augmentation and choice of captions.
    max_bad: the fraction of examples that may be bad; more stop the run.
    bad_floor: up to this many bad records never stop it.
    threads: number of threads that read and decode.
    workers: number of processes that do so instead; 0 for none.
    ahead: batches that are assembled and put on devices ahead of time.
    gather: counts of this process -> sums over all processes.
    reuse: whether threads write again into the memory of a batch that `put`
      has copied to devices; not on CPUs, whose arrays may share host memory.
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
        allowed = f"a number from {low} to {high}"
        remedy = "max_bad is a fraction of all examples." * (field == "max_bad")
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
      put: applied to each batch ahead of time, to copy it to devices.

    With workers, and with reuse and `put`, the memory of a batch is written
    again: host arrays are valid until the batch after the next is requested.
    Copy what you keep longer. Arrays on devices are never overwritten.
    """
    try:
      yield from self._batches(start, stop, put)
    finally:
      if self.workers:
        # Grain leaves semaphores of its workers in reference cycles. If they
        # are collected while Python starts its resource tracker, they leak.
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
          stream.get_state()  # Creates the iterator, then all workers start.
          stream.start_prefetch()
      if self.ahead:
        stream = grain.experimental.ThreadPrefetchDatasetIterator(
          stream, prefetch_buffer_size=self.ahead
        )
      closing.callback(chunks.memory.end)  # Runs first: workers may wait.
      seen = start * self.batch_size
      for step, (kinds, index, batch) in enumerate(stream, start):
        seen += len(kinds)
        self._count(step, seen, kinds, index)
        yield batch
        # The next request means that the batch before this one is done with.
        chunks.memory.release(step - 1)

  def _put(self, batch: Batch, put: Callable[[Batch], Any] | None) -> Any:
    """Copies a batch to devices, and returns when they hold it."""
    if put is None:
      return batch
    if not self.workers and not self.reuse:
      return put(batch)
    # On CPUs, device arrays may share the host's memory.
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
      like: Batch = {}
      switches = [s for s in self.examples.later if start < s < stop]
      for step in (start, *switches):
        first = (step - start) * chunks.per_batch
        like |= next(chunks.examples_of(first))[1]
      written = 2 + -(-self.workers // chunks.per_batch)
      # Besides those ahead, one is being copied to devices, two are in use.
      places = written + self.ahead + 3
      chunks.memory = buffers.Shared(size, like, places, start)
    return chunks

  def _per_batch(self, size: int) -> int:
    """Chunks of a batch of `size` rows: few, but enough work for all."""
    if not self.workers:
      return -(-size // max(8, min(64, -(-size // self.threads))))
    if shuffle.in_blocks(self.examples.source):
      # A worker then has the same chunk of each batch, see Chunks.
      return min(size, self.workers * -(-size // (256 * self.workers)))
    # A chunk has more overhead for a worker, but at most four batches should
    # be in progress.
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
    """The fingerprint of the data, see fingerprint.fingerprint; read once."""
    return fingerprint.fingerprint(self.examples.source)

  def counts(self, done: int) -> dict[str, int]:
    """Returns the number of bad records in the first steps, by kind.

    With several processes all of them must call it.

    Args:
      done: number of steps, not fewer than in the previous call.
    """
    return self._tally.upto(done, self.gather)

  def restore(self, counts: dict[str, int] | int) -> None:
    """Restores the counts of a checkpoint.

    Args:
      counts: by kind; older checkpoints have only their sum.
    """
    self._tally.restore(counts)

  def _count(
    self, step: int, seen: int, kinds: np.ndarray, index: np.ndarray
  ) -> None:
    """Counts and logs the bad records of a batch; raises if there are many."""
    if not kinds.any():
      return
    for kind, at in self._tally.add(
      step, kinds, index, self.examples.source.after
    ):
      details = kind, self.examples.source.name(at), self.examples.why(at)
      logging.warning("bad record (%s): %s: %s", *details)
    counts = self._tally.all()
    total = sum(counts.values())
    if total > max(self.bad_floor, self.max_bad * seen):
      last = int(index[kinds.any(-1)][-1])
      message = f"{self.examples.source.name(last)}: {self.examples.why(last)}"
      raise errors.UserError(
        f"bad records among {seen:,}",
        total,
        f"config.loading.max_bad = {self.max_bad} of them",
        f"They are {counts}, the last is {message}. Fix the data or raise it.",
      )
