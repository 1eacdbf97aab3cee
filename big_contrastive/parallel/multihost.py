"""Decisions that all processes take together: none of them may save alone."""

import contextlib
import signal
import time
import types
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from big_contrastive.parallel import sharding, signals

# What a process may request: columns of an array of requests.
SAVE, STOP = 0, 1


def of_first(numbers: list[int]) -> list[int]:
  """Returns process 0's numbers on every process."""
  if jax.process_count() == 1:
    return numbers
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
  padded = np.array((numbers + [0] * length)[:length], np.int32)
  return [int(x) for x in multihost_utils.broadcast_one_to_all(padded)]


def on_any(flag: bool) -> bool:
  """Returns the logical OR of the flag over all processes."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def all_have(text: str) -> bool:
  """Returns whether all processes have the text that process 0 has."""
  number = zlib.crc32(text.encode()) >> 1
  return not on_any(of_first([number]) != [number])


class Requests:
  """Requests to save or to stop, besides the intervals in steps.

  Clocks differ between processes, and so do the moments of signals. So after
  each step the devices combine the requests of all processes, and the host
  reads them one step later, with that step's metrics: no clocks are compared,
  and no process waits for another.

  JAX's own reached_preemption_sync_point handles SIGTERM only, once, and in
  place of our handler; SIGINT and minutes would still need this class.

  Args:
    minutes: between saves, by the clock of process 0; 0 turns them off.
  """

  def __init__(self, minutes: float):
    self._seconds, self._stop = 60 * minutes, False
    self.heard = signal.SIGTERM  # The default, if another process heard one.
    self._last_save, self._requested = time.monotonic(), False
    self._distributed = jax.process_count() > 1
    if self._distributed:
      mesh = sharding.make_mesh()
      replicated = sharding.replicated(mesh)
      self._sharding = sharding.batch(mesh)
      self._maximum = jax.jit(lambda x: x.max(axis=0), out_shardings=replicated)

  def now(self) -> np.ndarray:
    """Returns this process's requests, int32 [2]: SAVE, STOP."""
    due = (
      self._seconds > 0
      and jax.process_index() == 0
      and time.monotonic() - self._last_save >= self._seconds
      # Only once: the next steps are dispatched before all processes know.
      and not self._requested
    )
    self._requested |= due
    return np.array([due, self._stop], np.int32)

  def of_all(self) -> jax.Array | np.ndarray:
    """Returns what any process requests, int32 [2]; all must call it.

    It returns before the result is computed: to read the result is to wait.
    A single process gets zeros: it asks `now`, which is sooner.
    """
    if not self._distributed:
      return np.zeros(2, np.int32)
    rows = np.tile(self.now(), (jax.local_device_count(), 1))
    return self._maximum(
      jax.make_array_from_process_local_data(self._sharding, rows)
    )

  def stop(self) -> bool:
    """Returns whether any process is to stop; all must call it."""
    return on_any(self._stop)

  def saved(self) -> None:
    """Restarts the clock after a save."""
    self._last_save, self._requested = time.monotonic(), False

  def listening(self) -> contextlib.AbstractContextManager[None]:
    """Treats SIGTERM and SIGINT as stop requests; a second one ends at once."""
    return signals.handled(self._on_signal)

  def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
    self._stop, self.heard = True, signal.Signals(number)
    signals.handle(signal.SIG_DFL)
    signals.say(
      f"{self.heard.name}: ends the step or the evaluation, saves, stops"
    )
