"""Where figures go: metrics.jsonl, TensorBoard, the terminal; and MFU."""

import contextlib
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import PIL.Image
import tensorboardX

# Dense bfloat16 FLOP/s of one device, as its maker states them.
PEAK_FLOPS = {
  "TPU v3": 123e12 / 2,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU7x": 2307e12 / 2,
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns a device's peak FLOP/s in bfloat16, None if it isn't known."""
  known = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
  return PEAK_FLOPS[max(known, key=len)] if known else None


class Writer:
  """Writes metrics of a step as one JSON line and as TensorBoard events.

  Pictures become PNG files in the folder pictures/. Only process 0 writes.

  Args:
    workdir: where.
    step: the run begins or goes on here: lines of later steps, left by a
      run that was killed after its last checkpoint, are removed.
    evaluated: whether the evaluation of that step is over; if not, its lines
      are removed as well.

  `latest` has the last value of each name in the lines that stay.
  """

  def __init__(self, workdir: pathlib.Path, step: int, evaluated: bool = True):
    self.workdir, self._lines = workdir, None
    self.latest: dict[str, Any] = {}
    if jax.process_index():
      return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "metrics.jsonl"
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
      with _naming(self._lines.name):  # It tries again what didn't fit.
        self._lines.close()
      self._board.close()


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
  """Gives errors of writing, a full disk's, the name that they lack."""
  try:
    yield
  except OSError as e:
    e.filename = path
    raise


def _drop_after(
  path: pathlib.Path, step: int, evaluated: bool
) -> list[dict[str, Any]]:
  """Keeps a metrics file's lines up to a step, and no torn one."""
  kept = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      row = json.loads(line)
    except ValueError:
      logging.warning("dropped a torn line of %s: %r", path, line)
      continue
    undone = not evaluated and any(name[:5] == "eval/" for name in row)
    if row["step"] < step or (row["step"] == step and not undone):
      kept.append(row)
  replace(path, "".join(json.dumps(row) + "\n" for row in kept))
  return kept


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file so that a kill leaves the old or the new one."""
  new = path.with_name(path.name + ".new")
  with new.open("w") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  new.replace(path)


class Progress:
  """A bar that is redrawn on a terminal, plain lines in a log; process 0.

  Args:
    total: steps of the run.
    start: the first step.
  """

  def __init__(self, total: int, start: int):
    self._total, self._start, self._began = total, start, time.monotonic()
    self._quiet = jax.process_index() != 0
    self._bar = sys.stderr.isatty()

  def show(self, step: int, values: dict[str, float]) -> None:
    """Shows how far the run is, and some figures."""
    if self._quiet:
      return
    done = step - self._start
    eta = (self._total - step) * (time.monotonic() - self._began) / max(1, done)
    figures = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    percent = 100 * step / self._total
    line = f"step {step}/{self._total} {percent:3.0f}%  {figures}"
    line += f"  ETA {int(eta) // 60}:{int(eta) % 60:02d}"
    if self._bar:
      filled = int(20 * step / self._total)
      bar = "#" * filled + "." * (20 - filled)
      print(f"\r[{bar}] {line}\x1b[K", end="", file=sys.stderr, flush=True)
    else:
      print(line, file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """Prints a line of its own."""
    if not self._quiet:
      print(("\r\x1b[K" if self._bar else "") + text, file=sys.stderr)

  def close(self) -> None:
    if self._bar and not self._quiet:
      print(file=sys.stderr)


class Speed:
  """Images a second and MFU since the last reading, pauses left out.

  Args:
    batch_size: images a step, over all devices.
    flops: model FLOPs of training on one pair, from TwoTower.flops.
  """

  def __init__(self, batch_size: int, flops: float):
    self._batch_size, self._flops = batch_size, flops
    self._peak = peak_flops(jax.devices()[0].device_kind)
    self._began, self._steps = time.monotonic(), 0

  def step(self) -> None:
    self._steps += 1

  def restart(self) -> None:
    """Forgets what came before: after a compilation or a pause."""
    self._began, self._steps = time.monotonic(), 0

  def read(self) -> dict[str, float]:
    """Returns perf/images_per_s and, where the peak is known, perf/mfu."""
    seconds = time.monotonic() - self._began
    if not self._steps or not seconds:
      return {}
    rate = self._steps * self._batch_size / seconds
    self.restart()
    values = {"perf/images_per_s": rate}
    if self._peak:
      peak = self._peak * jax.device_count()
      values["perf/mfu"] = rate * self._flops / peak
    return values
