"""Where batches lie; and others after them, once nobody refers to them."""

import mmap
import os
import sys
import tempfile
import threading
from multiprocessing import util
from typing import Any

import numpy as np

from big_contrastive.data.source import Batch

_ALIGNED = 64  # Bytes; what JAX, on a CPU, takes as it is.
_FREE, _CLOSED = -1, -2  # Instead of a step.
_LONGEST_WAIT = 0.02  # Seconds.
# Of batches that nobody has, kept for the next ones; of batches, looked after.
_KEPT, _KNOWN = 3, 32

_probe = {"field": np.empty(0)}
# References to an array that only its batch has, and the one to count them.
_ALONE = sys.getrefcount(_probe["field"])


def unused(batch: Batch) -> bool:
  """Whether nobody but the batch refers to its arrays, or to parts of them.

  A part, or a copy to a device that is under way, refers to its array.
  """
  return all(sys.getrefcount(batch[field]) == _ALONE for field in batch)


class Own:
  """Memory of this process, for threads that write the rows of batches.

  Memory that is fresh for each batch costs the kernel's work to clear it.

  Args:
    size: rows of a batch.
  """

  def __init__(self, size: int):
    self._size, self._lock = size, threading.Lock()
    self._begun: dict[int, Batch] = {}
    self._made: list[Batch] = []

  def at(self, step: int, like: Batch) -> Batch:
    """Returns the batch of a step, whose rows are yet to be written.

    Args:
      step: of the batch.
      like: an example.
    """
    with self._lock:
      if step not in self._begun:
        self._begun[step] = self._another(like)
      return self._begun[step]

  def _another(self, like: Batch) -> Batch:
    begun = {id(batch) for batch in self._begun.values()}
    free = [b for b in self._made if id(b) not in begun and unused(b)]
    spare = {id(batch) for batch in free[_KEPT:]}
    # A batch that is forgotten here is gone when whoever has it lets it go.
    self._made = [b for b in self._made[-_KNOWN:] if id(b) not in spare]
    if free:
      return free[0]
    self._made.append({
      field: np.empty((self._size, *value.shape), value.dtype)
      for field, value in like.items()
    })  # fmt: skip
    return self._made[-1]

  def taken(self, step: int) -> Batch:
    """Returns the batch of a step, which is written."""
    with self._lock:
      return dict(self._begun.pop(step))

  def end(self) -> None:
    """Nobody waits."""

  def close(self) -> None:
    """There is nothing to give back."""


class Shared:
  """The same for worker processes, which write what their parent reads.

  The memory has places for a few batches. The parent says which step's batch
  lies where: a place is for the next step as soon as nobody refers to what
  was there. Who is ahead of that waits.

  It is nobody's file: containers have little of /dev/shm.

  Args:
    size: rows of a batch.
    like: an example.
    begun: batches that are written at a time.
    spare: more of them that there is room for: those that are in use.
    first: the first step.
  """

  def __init__(
    self, size: int, like: Batch, begun: int, spare: int, first: int
  ):
    places = begun + spare
    kinds = {k: ((size, *v.shape), v.dtype) for k, v in like.items()}
    self._layout, at = [], _ALIGNED * -(-8 * places // _ALIGNED)
    for _ in range(places):
      self._layout.append({})
      for field, (shape, dtype) in kinds.items():
        self._layout[-1][field] = at, shape, dtype
        length = int(np.prod(shape)) * dtype.itemsize
        at += _ALIGNED * -(-length // _ALIGNED)
    self._total = at
    self._file, self._path = _file(at)
    self._map(self._file)
    self._step[:] = _FREE
    self._step[:begun] = first + np.arange(begun)
    self._next = first + begun
    self._free, self._lent = list(range(begun, begun + spare)), list[int]()

  def _map(self, file: int) -> None:
    whole = mmap.mmap(file, self._total)
    self._step = np.ndarray(len(self._layout), np.int64, whole)
    self._batches = [
      {
        field: np.ndarray(shape, dtype, whole, start)
        for field, (start, shape, dtype) in fields.items()
      }
      for fields in self._layout
    ]

  def __getstate__(self) -> dict[str, Any]:
    return {k: vars(self)[k] for k in ("_layout", "_total", "_path")}

  def __setstate__(self, state: dict[str, Any]) -> None:
    vars(self).update(state)
    file = os.open(self._path, os.O_RDWR)
    self._map(file)
    os.close(file)
    # A worker that ends, whatever made it, first waits for its threads.
    self._ending = threading.Event()
    util.Finalize(None, self._ending.set, exitpriority=0)

  def at(self, step: int, like: Batch) -> Batch:
    """Returns the batch of a step, whose rows are yet to be written.

    Waits until there is a place for it.

    Args:
      step: of the batch.
      like: an example.

    Raises:
      RuntimeError: when the parent has ended the stream, or the worker ends.
    """
    del like  # They are all alike, see InPlace.
    wait = 0.001
    while True:
      steps = self._step.tolist()
      if step in steps:
        return self._batches[steps.index(step)]
      if _CLOSED in steps or self._ending.wait(wait):
        raise RuntimeError("the stream of batches has ended")
      wait = min(1.5 * wait, _LONGEST_WAIT)

  def taken(self, step: int) -> Batch:
    """Returns the batch of a step, which is written, to the parent."""
    place = self._step.tolist().index(step)
    batch = self._batches[place]
    back = [p for p in self._lent if unused(self._batches[p])]
    self._lent = [p for p in self._lent if p not in back]
    self._free += back
    if self._free:
      self._step[place] = _FREE
      self._lent.append(place)
      place = self._free.pop()  # The last one may be in a cache yet.
      batch = dict(batch)
    else:  # Somebody collects batches.
      batch = {field: values.copy() for field, values in batch.items()}
    self._step[place] = self._next
    self._next += 1
    return batch

  def end(self) -> None:
    """Ends the waiting of workers. Batches that were taken stay as they are."""
    self._step[:] = _CLOSED

  def close(self) -> None:
    """Lets nobody open the memory any more; for when the workers are gone."""
    if self._file is not None:
      os.close(self._file)
      self._file = None
      if not self._path.startswith("/proc/"):
        os.unlink(self._path)


def _file(length: int) -> tuple[int | None, str]:
  """A file of so many bytes: a descriptor, and the path others open it by."""
  if hasattr(os, "memfd_create"):  # Linux: in memory, gone with its users.
    file = os.memfd_create("batches")
    path = f"/proc/{os.getpid()}/fd/{file}"
  else:
    file, path = tempfile.mkstemp(prefix="batches")
  os.ftruncate(file, length)
  return file, path
