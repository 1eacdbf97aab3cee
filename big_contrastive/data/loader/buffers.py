"""Memory of batches: of this process, or shared with its workers.

A buffer is written again only after `release` has returned it.
"""

import mmap
import os
import tempfile
import threading
from multiprocessing import util
from typing import Any

import numpy as np

from big_contrastive.data.source import Batch

_ALIGNED = 64  # Bytes.
_CLOSED = -(2**62)  # In place of a step, once the stream has ended.
_LONGEST_WAIT = 0.02  # Seconds.


class Own:
  """Batches in the memory of this process, written by its threads.

  Args:
    size: rows of a batch.
    reuse: whether released batches are written again; otherwise each batch
      gets fresh memory, which the kernel must clear.
  """

  def __init__(self, size: int, reuse: bool = False):
    self._size, self._reuse = size, reuse
    self._lock = threading.Lock()
    self._begun: dict[int, Batch] = {}
    self._taken: dict[int, Batch] = {}
    self._free: list[Batch] = []

  def at(self, step: int, like: Batch) -> Batch:
    """Returns the batch of a step, into which rows are to be written.

    Args:
      step: of the batch.
      like: an example.
    """
    with self._lock:
      if step not in self._begun:
        # After a switch, those of other fields are of no use.
        self._free = [b for b in self._free if b.keys() == like.keys()]
        self._begun[step] = (
          self._free.pop()
          if self._free
          else {
            field: np.empty((self._size, *value.shape), value.dtype)
            for field, value in like.items()
          }
        )
      return self._begun[step]

  def take(self, step: int) -> Batch:
    """Returns the batch of a step, all of whose rows have been written."""
    with self._lock:
      batch = self._begun.pop(step)
      if self._reuse:
        self._taken[step] = batch
      return dict(batch)

  def release(self, step: int) -> None:
    """Takes back the batches up to a step: nobody uses them any more."""
    with self._lock:
      for over in [taken for taken in self._taken if taken <= step]:
        self._free.append(self._taken.pop(over))

  def end(self) -> None:
    """Does nothing: no thread waits for memory."""

  def close(self) -> None:
    """Does nothing: there is nothing to free."""


class Shared:
  """Batches in memory that worker processes write and their parent reads.

  The batch of a step is in slot `step % places`. Workers wait for the release
  of a slot that is still in use.

  The memory is not a file in /dev/shm, which is small in containers.

  Args:
    size: rows of a batch.
    like: an example, with the fields of all steps.
    places: number of slots: for the batches in use, and those that are being
      written.
    first: the first step.
  """

  def __init__(self, size: int, like: Batch, places: int, first: int):
    kinds = {k: ((size, *v.shape), v.dtype) for k, v in like.items()}
    self._layout, at = [], _ALIGNED
    for _ in range(places):
      self._layout.append({})
      for field, (shape, dtype) in kinds.items():
        self._layout[-1][field] = at, shape, dtype
        length = int(np.prod(shape)) * dtype.itemsize
        at += _ALIGNED * -(-length // _ALIGNED)
    self._total = at
    self._file, self._path = _file(at)
    self._map(self._file)
    self._limit[0] = first + places
    self._lock = threading.Lock()

  def _map(self, file: int) -> None:
    memory = mmap.mmap(file, self._total)
    # The first step that has no slot yet.
    self._limit = np.ndarray(1, np.int64, memory)
    self._batches = [
      {
        field: np.ndarray(shape, dtype, memory, start)
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
    # Wakes waiting threads when the worker exits, since it joins them first.
    self._ending = threading.Event()
    util.Finalize(None, self._ending.set, exitpriority=0)

  def at(self, step: int, like: Batch) -> Batch:
    """Returns the batch of a step, into which rows are to be written.

    Waits until its slot is free.

    Args:
      step: of the batch.
      like: an example.

    Raises:
      RuntimeError: if the parent has ended the stream, or the worker exits.
    """
    del like  # A slot has all fields that examples may have.
    wait = 0.001
    while (limit := int(self._limit[0])) <= step:
      if limit == _CLOSED or self._ending.wait(wait):
        raise RuntimeError("the stream of batches has ended")
      wait = min(1.5 * wait, _LONGEST_WAIT)
    return self._batches[step % len(self._batches)]

  def take(self, step: int) -> Batch:
    """Returns the batch of a step, all of whose rows have been written.

    The parent calls it. The batch does not change until `release`.
    """
    return dict(self._batches[step % len(self._batches)])

  def release(self, step: int) -> None:
    """Takes back the batches up to a step: nobody uses them any more."""
    with self._lock:
      limit = int(self._limit[0])
      if limit != _CLOSED:
        self._limit[0] = max(limit, step + 1 + len(self._batches))

  def end(self) -> None:
    """Stops workers that wait. Batches that were taken don't change."""
    with self._lock:
      self._limit[0] = _CLOSED

  def close(self) -> None:
    """Closes the memory to other processes; call it after workers ended."""
    if self._file is not None:
      os.close(self._file)
      self._file = None
      if not self._path.startswith("/proc/"):
        os.unlink(self._path)


def _file(length: int) -> tuple[int | None, str]:
  """A file of `length` bytes: its descriptor, and a path for workers."""
  if hasattr(os, "memfd_create"):  # Linux: in memory, freed with its users.
    file = os.memfd_create("batches")
    path = f"/proc/{os.getpid()}/fd/{file}"
  else:
    file, path = tempfile.mkstemp(prefix="batches")
  os.ftruncate(file, length)
  return file, path
