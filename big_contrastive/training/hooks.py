"""What the loop calls between steps: evaluation, saving, metrics, stopping."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from big_contrastive.checkpoints.checkpointer import Checkpoints
from big_contrastive.config import errors
from big_contrastive.parallel import multihost, sharding, signals
from big_contrastive.storage import atomic, mirror
from big_contrastive.training import events, health, summary, watch
from big_contrastive.training.experiment import Begin, Experiment
from big_contrastive.training.state import State


def _due(done: int, every: int, last: bool) -> bool:
  """Returns whether an action is due: at each multiple, and at the end."""
  return last or (every > 0 and done > 0 and done % every == 0)


class _Stopped(Exception):
  """A signal came during an evaluation."""


class _Pending(NamedTuple):
  """A step whose metrics have not been read yet."""

  step: int
  values: dict[str, jax.Array]
  batch: dict[str, np.ndarray]
  requests: Any  # Of all processes, after this step.


class Run:
  """One run's evaluations, checkpoints and metrics."""

  def __init__(self, experiment: Experiment, files: mirror.Here, begin: Begin):
    self.experiment, self.begin = experiment, begin
    self.every = experiment.intervals
    self.files, workdir = files, files.folder
    self.watch = watch.Watch(experiment, files, begin)
    self.say = self.watch.progress.say
    self.health = health.Health(
      experiment.limits,
      experiment.placed.checked,
      workdir / "nonfinite",
      files.named,
      begin.skipped,
    )
    self.requests = multihost.Requests(self.every.save_minutes)
    self.requested = np.zeros(2, np.int32)
    self.pending: _Pending | None = None
    self.paused = 0  # The step before a trace began or ended.
    self.events = events.Events(workdir)
    if begin.step < self.every.total:
      self.events.add(
        begin.step,
        "resumed" if begin.step else "began",
        total=self.every.total,
        chances=experiment.objective.chances,
      )
    if jax.process_index() == 0:
      config = json.dumps(experiment.config, indent=2)
      atomic.replace(workdir / "config.json", config + "\n")
    if not begin.step:
      self.say(experiment.table)
      if chances := experiment.objective.chances:
        told = "  ".join(f"{k} {v:.4g}" for k, v in sorted(chances.items()))
        self.say(f"of guessing: {told}")

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Hears the signals to stop, and the one that asks for a trace."""
    with self.requests.listening(), self.watch.tracer.listening():
      yield

  def place(
    self, local: dict[str, np.ndarray]
  ) -> tuple[dict[str, np.ndarray], dict[str, jax.Array]]:
    """Returns this process's rows and the global batch; thread-safe."""
    mesh, size = self.experiment.placed.mesh, self.experiment.batch_size
    return local, sharding.to_global(local, size, mesh)

  def between(self, done: int, state: State, checkpoints: Checkpoints) -> None:
    """Evaluates and saves, each if it is due after `done` steps.

    Raises:
      RunError: after saving, if the run was asked to stop.
    """
    checkpoints.check()
    if jax.process_count() == 1:
      self.requested = np.maximum(self.requested, self.requests.now())
    begin, last = self.begin, done == self.every.total
    if self.watch.tracer.over(done):
      self._trace(self.watch.tracer.end)
    stop = bool(self.requested[multihost.STOP]) and not last
    here = done == begin.step
    if here:  # The state is saved already, or nothing is done yet.
      self._saved()
    evaluate = _due(done, self.every.eval_every, last)
    evaluate = evaluate and (not here or not begin.evaluated)
    if evaluate and not stop:
      with self.watch.clock.of("evaluation"):
        stop = not self.evaluate(done, state)
    save = _due(done, self.every.save_every, last) or self.requested.any()
    if (save or stop) and not here:
      with self.watch.clock.of("save"):
        self.save(done, state, checkpoints, evaluated=not (evaluate and stop))
    if stop:
      self.stop(done, checkpoints)
    if not last and self.watch.tracer.due(done + 1):
      self._trace(lambda: self.watch.tracer.begin(done + 1))

  def _trace(self, change: Callable[[], object]) -> None:
    """Begins or ends a trace, while no step is under way.

    The last one is waited for, but not read: to read is to meet the other
    processes, which may trace nothing.
    """
    self.paused = self.pending.step if self.pending else 0
    if self.pending:
      jax.block_until_ready(self.pending.values)
    with self.watch.clock.of("profile"):
      change()
    self.watch.speed.restart()

  def save(
    self,
    done: int,
    state: State,
    checkpoints: Checkpoints,
    evaluated: bool,
  ) -> None:
    """Saves the state, once its last step is known to be finite."""
    self.settle()
    self.watch.saved(done)
    self._publish()
    run = {"evaluated": evaluated, "skipped": self.health.skipped}
    meta = self.experiment.meta(done) | {"run": run}
    checkpoints.save(done, state.items(), meta, self.experiment.blob)
    self._saved()

  def _publish(self) -> None:
    """Copies metrics to a bucket: a checkpoint must not outlive them."""
    try:
      self.files.publish()
    except OSError as e:
      allowed = "a bucket that can be written to"
      remedy = "Run again: it goes on from the last checkpoint."
      raise errors.UserError("--workdir", str(e), allowed, remedy) from e

  def _saved(self) -> None:
    self.requests.saved()
    self.requested[multihost.SAVE] = 0

  def stop(self, done: int, checkpoints: Checkpoints) -> None:
    """Raises RunError, once the checkpoint is on disk."""
    began = time.monotonic()
    self._wait(done, checkpoints)
    # A launcher ends all processes when one ends: so wait for process 0.
    multihost.on_any(False)
    seconds = time.monotonic() - began
    where = f"saved at step {done}, in {seconds:.1f} s" if done else "at step 0"
    number = self.requests.heard
    self.events.add(done, "stopped", f"stopped by {number.name}")
    raise errors.RunError(
      f"stopped by {number.name}: {where}. The same command goes on from "
      "there.",
      signals.CODES[number],
    )

  def _wait(self, done: int, checkpoints: Checkpoints) -> None:
    with self.watch.clock.of("save"):
      checkpoints.wait()
    if done:
      self.watch.clock.saved(done)

  def log(
    self, done: int, values: dict[str, jax.Array], local: dict[str, np.ndarray]
  ) -> None:
    """Queues a step's metrics, and reads those of the step before."""
    self.watch.clock.device.give(values["finite"])
    before, requests = self.pending, self.requests.of_all()
    self.pending = _Pending(done, values, local, requests)
    if before:
      self._read(before)

  def settle(self) -> None:
    """Waits for the last step, and reads its metrics."""
    before, self.pending = self.pending, None
    if before:
      with self.watch.clock.of("step"):
        self._read(before)

  def _read(self, at: _Pending) -> None:
    """Checks that a step is finite, and writes its metrics if due."""
    values = dict(at.values)
    checks = values.pop("finite"), values["param_norm"]
    (finite, norm), requests = jax.device_get((checks, at.requests))
    self.watch.speed.step()
    # The first step's time is the compiler's, and some wait for a trace. Beside
    # a switch, one before or after it has that of another program.
    speed, near = self.watch.speed, {at.step, at.step - 1}
    if switched := near & {*self.watch.switches}:
      speed.flops = self.experiment.flops(at.step)
    if switched or at.step in (self.begin.step + 1, self.paused):
      speed.restart()
    self.requested = np.maximum(self.requested, requests)
    first = (at.step - 1) * self.experiment.batch_size
    position = first + self.experiment.training.rows
    batch = at.batch | {"position": position}
    skipped = self.health.check(at.step, finite, norm, batch)
    if skipped:
      self.events.add(at.step, "skipped", skipped)
      self.say(skipped)
    # Whatever step it resumed from, a run writes the same lines.
    at_end = at.step in (1, self.every.total)
    if at_end or at.step % self.every.log_every == 0:
      self._write(at, values)

  def _write(self, at: _Pending, values: dict[str, jax.Array]) -> None:
    host = jax.device_get(values)
    scalars = {f"train/{k}": float(v) for k, v in host.items()}
    if self.experiment.limits.skip_nonfinite:
      scalars["train/skipped"] = float(self.health.skipped)
    for line in self.health.warnings(at.step, scalars, at.batch):
      self.events.add(at.step, "warning", line)
      self.say(line)
    scalars |= self.watch.perf()
    bad = self.experiment.training.counts(at.step)
    scalars |= {f"data/bad/{kind}": float(n) for kind, n in bad.items()}
    scalars["data/bad_records"] = float(sum(bad.values()))
    self.watch.record(at.step, scalars)
    names = ("train/loss", "perf/images_per_s", "perf/mfu")
    self.watch.progress.show(
      at.step, {k: scalars[k] for k in names if k in scalars}
    )

  def evaluate(self, done: int, state: State) -> bool:
    """Runs all evaluators; returns False if a signal cuts them short.

    Raises:
      RunError: if a metric or an embedding is not finite.
    """
    self.settle()

    def check() -> None:
      if self.requests.stop():
        raise _Stopped

    weights = self.experiment.weights(state)
    embed = self.experiment.embedder.bound(weights, check)
    try:
      for name, run in self.experiment.evaluators.items():
        with _of_step(done, name):
          results = run(embed)
          values = {f"eval/{name}/{key}": value for key, value in results}
        self.watch.record(done, values)
        self.say(f"step {done}  {summary.line(name, values)}")
    except _Stopped:
      return False
    self.watch.speed.restart()
    return True

  def finish(self, checkpoints: Checkpoints) -> None:
    """Waits for the last checkpoint, and prints the results."""
    self._wait(self.every.total, checkpoints)
    self.watch.finish()


@contextlib.contextmanager
def _of_step(done: int, name: str) -> Iterator[None]:
  """Adds to an error of bad numbers its step, evaluator and remedy."""
  try:
    yield
  except errors.RunError as e:
    if e.code != errors.BAD_NUMBERS:
      raise
    raise errors.RunError(
      f"step {done}, evaluation {name}: {e} Checkpoints of steps before are "
      "intact. Lower the learning rate, or set config.model.dtype = 'float32'.",
      e.code,
    ) from e
