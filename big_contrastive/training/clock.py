"""Goodput: what the wall time of a run went to, restarts included."""

import contextlib
import json
import logging
import os
import pathlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from big_contrastive.parallel import signals

FILE = "goodput.json"
HOURS = "perf/hours"

# What the main thread is in, one at a time, so that they add up to the wall
# time. `input` is the time in which the device had nothing to do because its
# batch was not there; `lost` that of steps that were not saved before a kill,
# and from then to the restart; `step` all that is none of the others.
PHASES = (
  "step", "input", "evaluation", "save", "compile", "start", "profile", "lost",
)  # fmt: skip

_EVERY = 1.0  # Seconds between writes of FILE.
_SNAPSHOTS = 8  # Saved steps whose times are kept.


class Clock:
  """Divides the wall time of a run among PHASES; for one thread.

  FILE has the times so far, and those at the last saved steps: a run that
  resumes from one of them counts what came after it as lost.

  Args:
    file: where they are kept; None for a process that keeps none.
    step: where the run begins or resumes.

  Attributes:
    seconds: of each phase, restarts included.
    device: knows when the device waits for a batch.
    finished: whether the run is through: what comes then is no downtime.
  """

  def __init__(self, file: pathlib.Path | None, step: int):
    self._file, self._phase = file, "start"
    self._since, self._kept = time.monotonic(), 0.0
    self.seconds, self._saved = _resumed(file, step)
    self.device, self.finished = Device(), False
    self._keep()

  @contextlib.contextmanager
  def of(self, phase: str) -> Iterator[None]:
    """What happens inside is of that phase, and not of the one outside."""
    before = self.enter(phase)
    try:
      yield
    finally:
      self.enter(before)

  def enter(self, phase: str) -> str:
    """Begins a phase; returns the one before."""
    now = time.monotonic()
    self.seconds[self._phase] += now - self._since
    before, self._phase, self._since = self._phase, phase, now
    return before

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """For the next batch: the device may still be busy with a step."""
    began = time.monotonic()
    yield
    idle = self.device.idle(began, time.monotonic())
    if self._phase == "step":
      self.seconds["step"] -= idle
      self.seconds["input"] += idle

  def saved(self, step: int) -> None:
    """Remembers the times at a step that is saved."""
    self.enter(self._phase)
    row = {"step": step, "seconds": dict(self.seconds)}
    self._saved = [*self._saved, row][-_SNAPSHOTS:]
    self._keep()

  def read(self) -> dict[str, float]:
    """Returns what a line of metrics says of the time so far.

    HOURS are those of steps, and of waiting for their batches: what a kill
    undid counts once, and pauses, evaluations and compiling don't count.
    perf/goodput is the share of steps in the wall time.
    """
    self.enter(self._phase)
    if self._since - self._kept > _EVERY:
      self._keep()
    whole = sum(self.seconds.values())
    hours = (self.seconds["step"] + self.seconds["input"]) / 3600
    goodput = {"perf/goodput": self.seconds["step"] / whole} if whole else {}
    return goodput | {HOURS: hours}

  def table(self) -> list[str]:
    """Returns a line for the whole, and one for each phase that took time."""
    self.enter(self._phase)
    whole = sum(self.seconds.values())
    rows = sorted(self.seconds.items(), key=lambda row: -row[1])
    return [f"wall time {whole:,.1f} s"] + [
      f"  {name:12}{100 * seconds / whole:5.1f} %{seconds:12,.1f} s"
      for name, seconds in rows
      if seconds > 0
    ]

  def close(self) -> None:
    """Writes the times for the last time."""
    self.enter(self._phase)
    self._keep()
    self.device.close()

  def _keep(self) -> None:
    self._kept = self._since
    if self._file is None:
      return
    now = None if self.finished else time.time()
    about = {"time": now, "seconds": self.seconds, "saved": self._saved}
    new = self._file.with_name(f".{FILE}")
    try:
      # Without forcing it to disk: a kill spares what the system has.
      new.write_text(json.dumps(about) + "\n")
      os.replace(new, self._file)
    except OSError as e:  # Not worth a run; the next may work.
      logging.warning("%s: %s", self._file, e)


def _resumed(
  file: pathlib.Path | None, step: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
  """The times so far, all after `step` as lost; and those at saved steps."""
  seconds = dict.fromkeys(PHASES, 0.0)
  try:
    before = json.loads(file.read_text()) if file else {}
  except (FileNotFoundError, ValueError):
    before = {}
  if not before:
    return seconds, []
  saved = [row for row in before["saved"] if row["step"] <= step]
  if saved:
    seconds |= saved[-1]["seconds"]
  elapsed = sum(before["seconds"].values()) - sum(seconds.values())
  if before["time"] is not None:  # Else it had finished.
    elapsed += max(0.0, time.time() - before["time"])
  seconds["lost"] += elapsed
  return seconds, saved


class Device:
  """When the device finished what it was given: a thread waits for that."""

  def __init__(self) -> None:
    self._given = self._done = 0
    self._last = time.monotonic()
    self._queue: queue.SimpleQueue[jax.Array | None] = queue.SimpleQueue()
    with signals.unheard():
      threading.Thread(target=self._watch, daemon=True).start()

  def give(self, result: jax.Array) -> None:
    """Takes an array of a step that was dispatched."""
    self._given += 1
    self._queue.put(result)

  def idle(self, begin: float, end: float) -> float:
    """Returns for how long, between two moments, all was finished."""
    if self._done < self._given:
      return 0.0
    return max(0.0, end - max(begin, self._last))

  def close(self) -> None:
    self._queue.put(None)

  def _watch(self) -> None:
    while (result := self._queue.get()) is not None:
      with contextlib.suppress(Exception):  # The main thread gets it, too.
        result.block_until_ready()
      self._last = time.monotonic()
      self._done += 1
