"""Writes metrics to metrics.jsonl and TensorBoard, and pictures to files."""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import PIL.Image
import tensorboardX

from big_contrastive.storage import atomic
from big_contrastive.training import events

FILE = "metrics.jsonl"
CONTINUED = (FILE, events.FILE)  # What a run that resumes goes on with.


class Writer:
  """Writes metrics of a step as one JSON line and as TensorBoard events.

  Pictures become PNG files in the folder pictures/. Only process 0 writes.

  Args:
    workdir: the run's folder.
    step: where the run begins or resumes. Lines of later steps, left by a run
      that was killed after its last checkpoint, are removed.
    evaluated: whether the evaluation of that step is over; if not, its lines
      are removed as well.

  `latest` has the last value of each name in the lines that remain.
  """

  def __init__(self, workdir: pathlib.Path, step: int, evaluated: bool = True):
    self.workdir, self._lines = workdir, None
    self.latest: dict[str, Any] = {}
    if jax.process_index():
      return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / FILE
    for row in _drop_after(path, step, evaluated):
      self.latest |= row
    self.latest.pop("step", None)
    self._lines = path.open("a")
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step + 1 if step else None
    )

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes numbers and pictures under the names "group/name"."""
    if self._lines is None:
      return
    numbers = {"step": step}
    for name, value in values.items():
      if isinstance(value, PIL.Image.Image):
        self._picture(step, name, value)
      else:
        number = float(value)
        # JSON has no NaN.
        numbers[name] = number if np.isfinite(number) else None
        self._board.add_scalar(name, number, step)
    if len(numbers) > 1:
      with _naming(self._lines.name):
        self._lines.write(json.dumps(numbers) + "\n")
        self._lines.flush()

  def sync(self) -> None:
    """Forces the lines to disk: a checkpoint must not outlive them."""
    if self._lines is not None:
      os.fsync(self._lines.fileno())

  def picture_path(self, name: str) -> pathlib.Path:
    """Returns the file of the picture of that name."""
    return self.workdir / "pictures" / f"{name}.png"

  def _picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
    path = self.picture_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    self._board.add_image(name, np.asarray(image), step, dataformats="HWC")

  def close(self) -> None:
    if self._lines is not None:
      with _naming(self._lines.name):  # It retries a failed write.
        self._lines.close()
      self._board.close()


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
