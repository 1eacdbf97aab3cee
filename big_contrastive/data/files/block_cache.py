"""Blocks of a data set in memory; of threads that need one, one reads it."""

import collections
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class BlockCache:
  """The blocks that were read last; pickled, it is empty.

  Args:
    read: the number of a block -> its content; may raise, and is then called
      again for the next reader.
    size: content -> bytes.
    capacity: bytes to keep; the block that was read last is always kept.
  """

  def __init__(
    self,
    read: Callable[[int], Any],
    size: Callable[[Any], int],
    capacity: int,
  ):
    self._read, self._size, self._capacity = read, size, capacity
    self._begin()

  def _begin(self) -> None:
    self._lock = threading.Lock()
    self._blocks: collections.OrderedDict[int, futures.Future] = (
      collections.OrderedDict()
    )

  def __getstate__(self) -> dict[str, Any]:
    return {
      k: v for k, v in vars(self).items() if k not in ("_lock", "_blocks")
    }

  def __setstate__(self, state: dict[str, Any]) -> None:
    vars(self).update(state)
    self._begin()

  def __getitem__(self, block: int) -> Any:
    """Returns a block; of threads that need the same one, one reads it."""
    with self._lock:
      future = self._blocks.get(block)
      if mine := future is None:
        future = self._blocks[block] = futures.Future()
      self._blocks.move_to_end(block)
    if not mine:
      return future.result()
    try:
      future.set_result(self._read(block))
    except BaseException as e:
      with self._lock:
        self._blocks.pop(block, None)
      future.set_exception(e)
      raise
    self._forget()
    return future.result()

  @property
  def nbytes(self) -> int:
    """The bytes of the blocks that are kept."""
    with self._lock:
      done = [f for f in self._blocks.values() if f.done()]
      return sum(self._size(f.result()) for f in done)

  def _forget(self) -> None:
    with self._lock:
      done = [(b, f) for b, f in self._blocks.items() if f.done()]
      total = sum(self._size(f.result()) for _, f in done)
      for block, future in done[:-1]:
        if total <= self._capacity:
          break
        total -= self._size(future.result())
        del self._blocks[block]
