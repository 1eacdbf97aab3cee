"""Traces of steps for xprof: those that a config names, and at a signal."""

import contextlib
import pathlib
import signal
import types
from collections.abc import Callable

import jax

from big_contrastive.config import errors
from big_contrastive.parallel import signals

SIGNAL = signal.SIGUSR1
_STEPS = 5  # At a signal.


class Window:
  """The steps that config.profile traces.

  Args:
    first: the first of them, counted from 1.
    steps: how many.
  """

  def __init__(self, first: int = 10, steps: int = 5):
    errors.at_least("first", first, 1)
    errors.at_least("steps", steps, 1)
    self.first, self.steps = first, steps

  def check(self, total: int, where: str) -> None:
    """Raises UserError if the run has not all of these steps."""
    if self.first + self.steps - 1 > total:
      allowed = f"steps of the run, which has {total}"
      value = f"steps {self.first} to {self.first + self.steps - 1}"
      raise errors.UserError(where, value, allowed, "Begin earlier.")


class Tracer:
  """Traces steps of this process to FOLDER/STEP, the first step.

  The window is traced by process 0 alone; a signal is for the process that it
  is sent to. A trace that fails is a line: training goes on.

  Args:
    folder: what xprof is to be shown.
    window: from the config; None for none.
    named: returns where a user finds a file of that folder.
    say: prints a line.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    window: Window | None,
    named: Callable[[pathlib.Path], str],
    say: Callable[[str], object],
  ):
    self._folder, self._named, self._say = folder, named, say
    self._window = None if jax.process_index() else window
    self._asked, self._last = False, 0
    self._path: pathlib.Path | None = None

  def listening(self) -> contextlib.AbstractContextManager[None]:
    """Traces the next steps when SIGNAL comes."""
    return signals.handled(self._on_signal, (SIGNAL,))

  def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
    self._asked = True

  def due(self, step: int) -> bool:
    """Returns whether a trace is to begin with this step."""
    wanted = self._window is not None and step == self._window.first
    return self._path is None and (wanted or self._asked)

  def begin(self, step: int) -> None:
    """Begins a trace before this step."""
    steps = (
      _STEPS if self._window is None or self._asked else self._window.steps
    )
    self._asked = False
    process = jax.process_index()
    name = f"{step}_process_{process}" if process else str(step)
    self._path, self._last = self._folder / name, step + steps - 1
    self._tried(lambda: jax.profiler.start_trace(str(self._path)))

  def over(self, done: int) -> bool:
    """Returns whether the last step of a trace is through."""
    return self._path is not None and done >= self._last

  def end(self) -> None:
    """Ends a trace that is under way, with the steps that it has."""
    if self._path is not None and self._tried(jax.profiler.stop_trace):
      self._say(f"trace: xprof {self._named(self._path)}")
    self._path = None

  def _tried(self, do: Callable[[], object]) -> bool:
    try:
      do()
    except Exception as e:  # Of a full disk; or another profiler is at work.
      self._path = None
      self._say(f"warning: no trace: {type(e).__name__}: {e}")
      return False
    return True
