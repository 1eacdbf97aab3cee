"""Writes metrics to metrics.jsonl, and pictures to files."""

import contextlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import PIL.Image

from big_contrastive.storage import atomic
from big_contrastive.training import clock, delivery, events

FILE = "metrics.jsonl"

# What a run that resumes goes on with.
CONTINUED = (FILE, events.FILE, delivery.FILE, clock.FILE)


class Writer:
  """Writes metrics of a step as one JSON line, and hands them to the sinks.

  Pictures become PNG files in the folder pictures/. Only process 0 writes.

  Args:
    workdir: the run's folder.
    step: where the run begins or resumes. Lines of later steps, left by a run
      that was killed after its last checkpoint, are removed.
    evaluated: whether the evaluation of that step is over; if not, its lines
      are removed as well.
    put: takes each line for the sinks.

  `latest` has the last value of each name in the lines that remain.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    evaluated: bool = True,
    put: Callable[[delivery.Line], object] = lambda line: None,
  ):
    self.workdir, self._lines, self._put = workdir, None, put
    self._at = 0, 0  # Of the last line: its step, its number in that.
    self.latest: dict[str, Any] = {}
    if jax.process_index():
      return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / FILE
    for row in _drop_after(path, step, evaluated):
      self.latest |= row
      self._at = self._next(row["step"])
    self.latest.pop("step", None)
    self._lines = path.open("a")

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes numbers and pictures under the names "group/name"."""
    if self._lines is None:
      return
    pictures = {
      name: value
      for name, value in values.items()
      if isinstance(value, PIL.Image.Image)
    }
    numbers = {k: float(v) for k, v in values.items() if k not in pictures}
    if numbers:
      # JSON has no NaN.
      row = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
      with _naming(self._lines.name):
        self._lines.write(json.dumps({"step": step} | row) + "\n")
        self._lines.flush()
    for name, picture in pictures.items():
      path = self.picture_path(name)
      path.parent.mkdir(parents=True, exist_ok=True)
      picture.save(path)
    self._at = self._next(step)
    self._put(delivery.Line(self._at, numbers, pictures))

  def _next(self, step: int) -> tuple[int, int]:
    """Of the next line of that step."""
    return step, self._at[1] + 1 if step == self._at[0] else 0

  def sync(self) -> None:
    """Forces the lines to disk: a checkpoint must not outlive them."""
    if self._lines is not None:
      os.fsync(self._lines.fileno())

  def picture_path(self, name: str) -> pathlib.Path:
    """Returns the file of the picture of that name."""
    return self.workdir / "pictures" / f"{name}.png"

  def close(self) -> None:
    if self._lines is not None:
      with _naming(self._lines.name):  # It retries a failed write.
        self._lines.close()


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
  """Adds the file's name to write errors that lack it, as of a full disk."""
  try:
    yield
  except OSError as e:
    e.filename = path
    raise


def _drop_after(
  path: pathlib.Path, step: int, evaluated: bool
) -> list[dict[str, Any]]:
  """Drops later and torn lines of a metrics file; returns the others."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      row = json.loads(line)
    except ValueError:
      logging.warning("dropped a torn line of %s: %r", path, line)
      continue
    undone = not evaluated and any(name[:5] == "eval/" for name in row)
    if row["step"] < step or (row["step"] == step and not undone):
      rows.append(row)
  atomic.replace(path, "".join(json.dumps(row) + "\n" for row in rows))
  return rows
