"""The rows of a batch: which, with which random numbers, and where they lie."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from big_contrastive.data import order
from big_contrastive.data.examples import Examples


class _Draws(threading.local):
  """A thread's random numbers, which begin anew at each example."""

  def __init__(self):
    self._rng = np.random.Generator(np.random.Philox(key=0))
    self._state: Any = self._rng.bit_generator.state

  def at(self, seed: int, position: int) -> np.random.Generator:
    """Returns the generator of a position, valid until the next call."""
    # A new generator takes six times as long.
    key = np.array([seed % 2**64, position], np.uint64)
    self._state["state"]["key"] = key
    self._rng.bit_generator.state = self._state
    return self._rng


_DRAWS = _Draws()


class Parts:
  """The rows of a process in the batches of steps, in parts of a few rows.

  Args:
    examples, batch_size, rows, seed: see pipeline.Training.
    start, stop: steps.
    most: rows in a part.
  """

  def __init__(
    self,
    examples: Examples,
    batch_size: int,
    rows: np.ndarray,
    seed: int,
    start: int,
    stop: int,
    most: int = 8,
  ):
    self.examples, self.rows = examples, np.asarray(rows)
    self.batch_size, self.seed = batch_size, seed
    self.order = order.stream(examples.source, seed)
    self.start, self.stop = start, stop
    self.per_batch = -(-len(self.rows) // most)
    self._steps: dict[int, tuple[list[int], list[int]]] = {}

  def __len__(self) -> int:
    return (self.stop - self.start) * self.per_batch

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    _obey_parent()

  def __getitem__(self, k: int) -> order.Batch:
    """Returns the examples of a part, stacked."""
    made = [example for _, example in self.made(k)]
    return {field: np.stack([m[field] for m in made]) for field in made[0]}

  def made(self, k: int) -> Iterator[tuple[int, order.Batch]]:
    """Yields the examples of a part and their rows in this process's batch."""
    step, part = divmod(k, self.per_batch)
    positions, numbers = self._ordered(step)
    size = len(self.rows)
    first, last = (p * size // self.per_batch for p in (part, part + 1))
    for row in range(first, last):
      rng = _DRAWS.at(self.seed, positions[row])
      yield row, self.examples(numbers[row], rng)

  def _ordered(self, step: int) -> tuple[list[int], list[int]]:
    """Positions in the stream, and numbers of records, of a step's rows."""
    if (found := self._steps.get(step)) is None:
      positions = (self.start + step) * self.batch_size + self.rows
      found = positions.tolist(), self.order(positions).tolist()
      # Replaced, not changed: other threads may be reading it.
      newer = {k: v for k, v in self._steps.items() if k > step - 3}
      self._steps = newer | {step: found}
    return found


def _obey_parent() -> None:
  """In a worker of Grain's: SIGTERM, sent to all, is for its parent to hear.

  Which ends it in time. And what has lost its parent ends by itself.
  """
  parent = multiprocessing.parent_process()
  own = multiprocessing.current_process().name
  if parent is None or not own.startswith("grain-process-prefetch"):
    return
  if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

  def follow() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=follow, daemon=True).start()


class InPlace:
  """The same for threads, which write the rows of a batch where they stay."""

  def __init__(self, parts: Parts):
    self.parts, self._lock = parts, threading.Lock()
    self._begun: dict[int, order.Batch] = {}

  def __len__(self) -> int:
    return len(self.parts)

  def __getitem__(self, k: int) -> int:
    """Writes the examples of a part; returns its step."""
    step, batch = k // self.parts.per_batch, None
    for row, example in self.parts.made(k):
      if batch is None:
        batch = self._batch(step, example)
        places = [(f, b, b.dtype, b.shape[1:]) for f, b in batch.items()]
      for field, to, dtype, shape in places:
        own = example[field]
        # NumPy would repeat or round what is to lie there.
        if own.shape != shape or own.dtype != dtype:
          kinds = f"{own.dtype}{own.shape} and {dtype}{shape}"
          raise ValueError(f"{field}s of kinds {kinds} in a batch")
        to[row] = own
    return step

  def _batch(self, step: int, like: order.Batch) -> order.Batch:
    with self._lock:
      if step not in self._begun:
        size = len(self.parts.rows)
        self._begun[step] = {
          field: np.empty((size, *value.shape), value.dtype)
          for field, value in like.items()
        }
      return self._begun[step]

  def taken(self, steps: Sequence[int]) -> order.Batch:
    """Returns the batch that was written, and forgets it."""
    return self._begun.pop(steps[0])


def join(parts: Sequence[order.Batch]) -> order.Batch:
  """Returns the batch of its parts."""
  return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
