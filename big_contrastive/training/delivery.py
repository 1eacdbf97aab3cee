"""Hands metrics to a sink that may be slow, broken or away."""

import json
import logging
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import PIL.Image

from big_contrastive.parallel import signals
from big_contrastive.storage import atomic
from big_contrastive.training.sinks import Sink, Start

FILE = "sinks.json"  # By sink: its id, and the last line that it has.

_BOUND = 1000  # Lines that may wait for a sink.
_AGAIN = 60.0  # Seconds before a sink that could not begin tries again.


class Line(NamedTuple):
  """What is written at once.

  Attributes:
    at: its step, and its number among the lines of that step.
  """

  at: tuple[int, int]
  numbers: dict[str, float]
  pictures: dict[str, PIL.Image.Image]


class Deliveries:
  """Sinks by name, each with a thread and a queue of its own.

  A line is dropped where the queue is full, or where the sink raises: the
  first is said at once, and their number at the end.

  Args:
    sinks: by their names in the config.
    start: where the run begins; each sink's id comes from FILE.
    say: prints a line; thread-safe.
  """

  def __init__(
    self, sinks: Mapping[str, Sink], start: Start, say: Callable[[str], object]
  ):
    self._path, self._lock = start.workdir / FILE, threading.Lock()
    self._kept = _read(self._path) if sinks else {}
    with signals.unheard():
      self._all = [
        _Delivery(name, sink, start, self._kept.get(name, {}), say, self._keep)
        for name, sink in sinks.items()
      ]

  def put(self, line: Line) -> None:
    """Hands a line to all sinks; doesn't wait."""
    for delivery in self._all:
      delivery.put(line)

  def close(self, seconds: float = 10.0) -> None:
    """Waits that long at most for what is left, and says what is lost."""
    until = time.monotonic() + seconds
    for delivery in self._all:
      delivery.end()
    for delivery in self._all:
      delivery.join(until - time.monotonic())

  def _keep(self, name: str, about: dict[str, Any]) -> None:
    """Stores what a sink needs to go on after a kill; in its thread."""
    with self._lock:
      self._kept[name] = self._kept.get(name, {}) | about
      atomic.replace(self._path, json.dumps(self._kept) + "\n")


class _Delivery:
  """One of them."""

  def __init__(
    self,
    name: str,
    sink: Sink,
    start: Start,
    kept: dict[str, Any],
    say: Callable[[str], object],
    keep: Callable[[str, dict[str, Any]], None],
  ):
    self._name, self._sink, self._say, self._keep = name, sink, say, keep
    self._start = start._replace(id=kept.get("id"))
    self._last = () if sink.rewinds else tuple(kept.get("at", ()))
    if self._last and self._last[0] > start.step:
      say(f"sink {name} goes on after step {self._last[0]}, which it has")
    self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
    self._given = self._written = 0
    self._ending, self._why = threading.Event(), ""
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def put(self, line: Line) -> None:
    if self._last and line.at <= self._last:
      return  # A run before this one wrote it.
    self._given += 1
    if self._lines.qsize() < _BOUND:
      self._lines.put(line)
    else:
      self._failed(f"{_BOUND} lines wait for it")

  def end(self) -> None:
    self._ending.set()
    self._lines.put(None)

  def join(self, seconds: float) -> None:
    self._thread.join(max(0.0, seconds))
    if lost := self._given - self._written:
      self._say(
        f"warning: sink {self._name}: {lost} of {self._given} lines are not "
        f"there: {self._why or 'it took too long'}. metrics.jsonl has them."
      )

  def _run(self) -> None:
    while not self._tried(self._begin):
      if self._ending.wait(_AGAIN):
        return
    while (line := self._lines.get()) is not None:
      self._written += self._tried(self._write, line)
      if not self._sink.rewinds:
        self._tried(self._keep, self._name, {"at": line.at})
    self._tried(self._sink.close)

  def _begin(self) -> None:
    found = self._sink.begin(self._start)
    if found is not None:
      self._keep(self._name, {"id": found})

  def _write(self, line: Line) -> None:
    if line.numbers:
      self._sink.write(line.at[0], line.numbers)
    for name, picture in line.pictures.items():
      self._sink.picture(line.at[0], name, picture)

  def _tried(self, do: Callable[..., object], *args: Any) -> bool:
    """Whether it worked; it may be any code."""
    try:
      do(*args)
    except BaseException as e:  # A library may even ask Python to exit.
      first = next(iter(str(e).strip().splitlines()), "")
      self._failed(f"{type(e).__name__}: {first[:200]}")
      return False
    return True

  def _failed(self, why: str) -> None:
    if not self._why:
      self._why = why
      self._say(
        f"warning: sink {self._name}: {why}. Training goes on; metrics.jsonl "
        "has all."
      )


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except ValueError:
    logging.warning("%s is damaged: sinks begin new runs", path)
    return {}
