"""The loop: evaluate, save, next batch, step, log the step before."""

import contextlib
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import PIL.Image

from big_contrastive import errors, metrics, sharding, step
from big_contrastive.checkpoint import Checkpoints
from big_contrastive.experiment import Experiment


def fit(experiment: Experiment, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains to the end, from the newest checkpoint in workdir if there is one.

  In each turn the order is: evaluate, save, next batch, step. So a checkpoint
  and the position in the data agree. A step's metrics are read one step
  later, when the device is busy with the next: the host never makes it wait.

  Args:
    experiment: from experiment.build.
    workdir: for checkpoints/, metrics.jsonl, tensorboard/, pictures/.

  Returns:
    The last metrics by name, those of the last evaluation included.
  """
  workdir, every = pathlib.Path(workdir), experiment.intervals
  with contextlib.ExitStack() as stack:
    # Whatever ends the run, a checkpoint that is being written is finished.
    checkpoints = Checkpoints(
      workdir, keep=every.keep, keep_every=every.keep_every
    )
    stack.callback(checkpoints.close)
    state, start = _begin(experiment, checkpoints)
    run = _Run(experiment, workdir, start)
    stack.callback(run.close)
    batches = experiment.training.batches(start, every.total)
    for done in range(start, every.total + 1):
      last = done == every.total
      if _due(done, every.eval_every, last, start):
        run.evaluate(done, state)
      if done > start and _due(done, every.save_every, last, start):
        run.read()  # A state that is not finite is never saved.
        meta = experiment.meta(done)
        checkpoints.save(done, state, meta, experiment.tokenizer.blob)
      if last:
        break
      local = next(batches)
      mesh = experiment.placed.mesh
      batch = sharding.to_global(local, experiment.batch_size, mesh)
      state, values = experiment.placed.update(state, batch)
      run.log(done + 1, values)
    checkpoints.wait()
    run.summarise(every.total)
  return run.latest


def _due(done: int, every: int, last: bool, start: int) -> bool:
  """Whether it is time: at each multiple, and once at the end."""
  return last or (every > 0 and done > start and done % every == 0)


def _begin(
  experiment: Experiment, checkpoints: Checkpoints
) -> tuple[step.State, int]:
  """The state to begin with, and its step."""
  newest = checkpoints.newest()
  if newest is None:
    return experiment.load(experiment.placed.init()), 0
  state, meta, blob = checkpoints.restore(newest, experiment.placed.abstract)
  check_resume(experiment, meta, blob)
  experiment.training.bad = meta["position"]["bad"]
  logging.info("resumed from step %d", newest)
  return state, newest


def check_resume(
  experiment: Experiment, meta: dict[str, Any], blob: bytes
) -> None:
  """Raises UserError where going on would be another experiment.

  Args:
    experiment: as the config says now.
    meta: of the checkpoint.
    blob: its tokenizer's vocabulary file.
  """
  if blob != experiment.tokenizer.blob:
    raise errors.UserError(
      "config.tokenizer",
      "another vocabulary",
      "that of the checkpoint in this workdir",
      "Were the captions changed that it was trained on? Put them back, set "
      'it to {"kind": "checkpoint", "path": WORKDIR}, or begin in another.',
    )
  now = experiment.meta(0)
  changes = {
    "config.tokenizer": (meta["tokenizer"], now["tokenizer"]),
    "config.batch_size": (
      meta["config"]["batch_size"],
      now["config"]["batch_size"],
    ),
    "config.seed": (
      meta["config"].get("seed", 0),
      now["config"].get("seed", 0),
    ),
  }
  for name, (before, after) in changes.items():
    if before != after:
      allowed = f"{before!r}, as the checkpoint in this workdir has it"
      remedy = "Change it back, or begin in another workdir."
      raise errors.UserError(name, after, allowed, remedy)


class _Run:
  """What one run tells: metrics, progress, speed."""

  def __init__(self, experiment: Experiment, workdir: pathlib.Path, start: int):
    self.experiment, self.latest = experiment, {}
    self.writer = metrics.Writer(workdir, start)
    self.progress = metrics.Progress(experiment.intervals.total, start)
    self.speed = metrics.Speed(experiment.batch_size, experiment.flops)
    self.intervals, self.start = experiment.intervals, start
    self.pending: tuple[int, dict[str, jax.Array]] | None = None
    if jax.process_index() == 0:
      config = json.dumps(experiment.config, indent=2)
      (workdir / "config.json").write_text(config + "\n")
    if not start:
      self.progress.say(experiment.table)

  def log(self, done: int, values: dict[str, jax.Array]) -> None:
    """Takes a step's metrics, and writes those of the step before if due."""
    every, total = self.intervals.log_every, self.intervals.total
    if self.pending:
      before = self.pending[0]
      if before in (self.start + 1, total) or before % every == 0:
        self.read()
      else:
        self.speed.step()
    self.pending = (done, values)

  def read(self) -> None:
    """Writes the last step's metrics, which waits for it."""
    if self.pending is None:
      return
    (done, values), self.pending = self.pending, None
    read = {f"train/{k}": float(v) for k, v in jax.device_get(values).items()}
    self.speed.step()
    if done == self.start + 1:
      self.speed.restart()  # The first step's time is the compiler's.
    read |= self.speed.read()
    read["data/bad_records"] = float(self.experiment.training.bad)
    self._tell(done, read)
    shown = ("train/loss", "perf/images_per_s", "perf/mfu")
    self.progress.show(done, {k: read[k] for k in shown if k in read})
    if not np.isfinite(read["train/loss"]):
      remedy = "Lower the learning rate or look at the data."
      raise FloatingPointError(f"step {done}: the loss is not finite. {remedy}")

  def evaluate(self, done: int, state: step.State) -> None:
    """Runs all evaluators."""
    self.read()
    embedder = self.experiment.embedder
    for name, run in self.experiment.evaluators.items():
      results = run(
        lambda source: embedder.images(state.params, source),
        lambda texts: embedder.texts(state.params, texts),
      )
      values = {f"eval/{name}/{key}": value for key, value in results}
      self._tell(done, values)
      self.progress.say(f"step {done}  {_line(name, values)}")
    self.speed.restart()

  def _tell(self, done: int, values: dict[str, Any]) -> None:
    self.writer.write(done, values)
    self.latest |= values

  def close(self) -> None:
    self.writer.close()

  def summarise(self, done: int) -> None:
    """Prints what came out, on one screen."""
    self.progress.close()
    pairs = done * self.experiment.batch_size
    say = self.progress.say
    loss = self.latest.get("train/loss")
    say(f"\nfinished {done} steps of {pairs:,} pairs in all, loss {loss}")
    for name in self.experiment.evaluators:
      begin = f"eval/{name}/"
      found = {k: v for k, v in self.latest.items() if k.startswith(begin)}
      say(_line(name, found))
      for key, value in found.items():
        if isinstance(value, PIL.Image.Image):
          say(f"{'':34}{self.writer.picture_path(key)}")
    say(f"everything else is in {self.writer.workdir}")


def _line(name: str, values: dict[str, Any]) -> str:
  """One evaluator's figures on one line."""
  figures = [
    f"{key.rpartition('/')[2]} {value:.4f}"
    for key, value in values.items()
    if isinstance(value, float)
  ]
  return f"{name:34}" + "  ".join(figures)
