"""What all processes decide together: one of them must not save alone."""

import contextlib
import signal
import time
import types
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from big_contrastive.parallel import signals

# What a process may ask for: columns of an array of requests.
SAVE, STOP = 0, 1


def of_first(numbers: list[int]) -> list[int]:
  """Returns the numbers that process 0 has, on every process."""
  if jax.process_count() == 1:
    return numbers
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
  padded = np.array((numbers + [0] * length)[:length], np.int32)
  return [int(x) for x in multihost_utils.broadcast_one_to_all(padded)]


def on_any(flag: bool) -> bool:
  """Returns whether it is so on any process."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def all_have(text: str) -> bool:
  """Returns whether all processes have the text that process 0 has."""
  number = zlib.crc32(text.encode()) >> 1
  return not on_any(of_first([number]) != [number])


class Requests:
  """When to save and when to stop, besides the intervals in steps.

  Minutes pass and signals come at other moments on each process. So behind
  each step the requests of all processes are brought together on the devices,
  and read a step later, with that step's metrics: no clock is compared, and no
  process waits for another.

  JAX's own reached_preemption_sync_point hears SIGTERM alone, once, and in
  place of our handler; SIGINT and minutes would need this beside it.

  Args:
    minutes: between saves, by the clock of process 0; 0 for no such saves.
  """

  def __init__(self, minutes: float):
    self._seconds, self._stop = 60 * minutes, False
    self.heard = signal.SIGTERM  # Or another process did.
    self._since, self._asked = time.monotonic(), False
    self._several = jax.process_count() > 1
    if self._several:
      mesh = jax.make_mesh((jax.device_count(),), ("all",), (AxisType.Auto,))
      self._where = NamedSharding(mesh, PartitionSpec("all"))
      whole = NamedSharding(mesh, PartitionSpec())
      self._largest = jax.jit(lambda x: x.max(axis=0), out_shardings=whole)

  def now(self) -> np.ndarray:
    """Returns this process's requests, int32 [2]: SAVE, STOP."""
    due = (
      self._seconds > 0
      and jax.process_index() == 0
      and time.monotonic() - self._since >= self._seconds
      # Once: the next steps are on their way before all know of it.
      and not self._asked
    )
    self._asked |= due
    return np.array([due, self._stop], np.int32)

  def of_all(self) -> jax.Array | np.ndarray:
    """Returns what any process asks for now, int32 [2]; all must call it.

    It is on its way when this returns: to read it is to wait. Of a process
    alone it is nothing: ask `now`, which is sooner.
    """
    if not self._several:
      return np.zeros(2, np.int32)
    rows = np.tile(self.now(), (jax.local_device_count(), 1))
    return self._largest(
      jax.make_array_from_process_local_data(self._where, rows)
    )

  def stop(self) -> bool:
    """Returns whether any process is to stop; all must ask."""
    return on_any(self._stop)

  def saved(self) -> None:
    """Starts the clock anew."""
    self._since, self._asked = time.monotonic(), False

  def listening(self) -> contextlib.AbstractContextManager[None]:
    """Takes SIGTERM and SIGINT as requests to stop; a second ends at once."""
    return signals.handled(self._hear)

  def _hear(self, number: int, frame: types.FrameType | None) -> None:
    self._stop, self.heard = True, signal.Signals(number)
    signals.handle(signal.SIG_DFL)
    signals.say(
      f"{self.heard.name}: ends the step or the evaluation, saves, stops"
    )
