"""Chunks of batches: their records, random numbers and memory."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from big_contrastive.data.loader import buffers, shuffle
from big_contrastive.data.loader.draws import DRAWS
from big_contrastive.data.loader.examples import Examples
from big_contrastive.data.source import Batch


class Chunks:
  """A process's rows of the batches of steps, in chunks of a few rows.

  Element k is the step of the batch that chunk k belongs to. Reading it writes
  the chunk's examples into the memory of the batch, which is cheaper than
  passing examples on.

  Args:
    examples, batch_size, rows, seed: see training.Training.
    start, stop: steps.
    per_batch: chunks per batch.
  """

  memory: buffers.Own | buffers.Shared  # Holds the batches.

  def __init__(
    self,
    examples: Examples,
    batch_size: int,
    rows: np.ndarray,
    seed: int,
    start: int,
    stop: int,
    per_batch: int,
  ):
    self.examples, self.rows = examples, np.asarray(rows)
    self.batch_size, self.seed = batch_size, seed
    self.order = shuffle.stream(examples.source, seed)
    self.start, self.stop = start, stop
    self.per_batch = per_batch
    self.memory = buffers.Own(len(self.rows))
    self._steps: dict[int, list[tuple[int, int, int]]] = {}

  def __len__(self) -> int:
    return (self.stop - self.start) * self.per_batch

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    _follow_parent()

  def __getitem__(self, k: int) -> int:
    """Writes the examples of a chunk; returns its step."""
    step, batch = self.start + k // self.per_batch, None
    for row, example in self.examples_of(k):
      if batch is None:
        slot = self.memory.at(step, example)
        batch = {field: slot[field] for field in example}
        places = [(f, b, b.dtype, b.shape[1:]) for f, b in batch.items()]
      for field, to, dtype, shape in places:
        value = example[field]
        # NumPy would broadcast or cast silently.
        if value.shape != shape or value.dtype != dtype:
          kinds = f"{value.dtype}{value.shape} and {dtype}{shape}"
          raise ValueError(f"{field}s of kinds {kinds} in a batch")
        to[row] = value
    return step

  def batch(self, steps: Sequence[int]) -> Batch:
    """Returns the batch of a step, given the step once for each chunk."""
    made = self.examples.at(steps[0])
    batch = self.memory.take(steps[0])
    return {field: x for field, x in batch.items() if made.has(field)}

  def examples_of(self, k: int) -> Iterator[tuple[int, Batch]]:
    """Yields the examples of a chunk and their rows in this process's batch.

    The records of a chunk are near each other in the source: where records are
    read in blocks, a single worker reads a block, not all of them.
    """
    step, chunk = divmod(k, self.per_batch)
    taken, seed = self._taken(step), self.seed % 2**64
    make = self.examples.at(self.start + step)
    first, last = (c * len(taken) // self.per_batch for c in (chunk, chunk + 1))
    for number, row, position in taken[first:last]:
      at = seed, position
      yield row, make(number, DRAWS.at(*at), at)

  def _taken(self, step: int) -> list[tuple[int, int, int]]:
    """The records of a step, ascending, with their rows and positions."""
    if (records := self._steps.get(step)) is None:
      positions = (self.start + step) * self.batch_size + self.rows
      numbers, rows = self.order(positions).tolist(), range(len(positions))
      records = sorted(zip(numbers, rows, positions.tolist(), strict=True))
      # Replaced, not changed: other threads may be reading it.
      newer = {k: v for k, v in self._steps.items() if k > step - 3}
      self._steps = newer | {step: records}
    return records


def _follow_parent() -> None:
  """If this process is a worker of Grain, ends it when its parent ends."""
  parent = multiprocessing.parent_process()
  name = multiprocessing.current_process().name
  if parent is None or not name.startswith("grain-process-prefetch"):
    return

  def follow() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=follow, daemon=True).start()
