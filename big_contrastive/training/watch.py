"""What a run shows of itself: figures, pictures, speed, times, traces."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from big_contrastive.storage import mirror
from big_contrastive.training import (
  clock,
  delivery,
  flops,
  memory,
  metrics,
  progress,
  summary,
  trace,
)
from big_contrastive.training.experiment import Begin, Experiment
from big_contrastive.training.sinks import Start


class Watch:
  """Writes a run's metrics, its progress, and what its time went to.

  Args:
    experiment: gives the sinks, and the steps to trace.
    files: where the files of a run go.
    begin: where it begins.

  Attributes:
    latest: the last value of each name.
    clock: what the time goes to.
    speed: images per second.
    switches: the steps after which the program changes.
  """

  def __init__(self, experiment: Experiment, files: mirror.Here, begin: Begin):
    self._experiment, self._files, self._begin = experiment, files, begin
    self.progress = progress.Progress(experiment.intervals.total, begin.step)
    self._sinks = _sinks(experiment, files, begin.step, self.progress)
    self._writer = metrics.Writer(
      files.folder, begin.step, begin.evaluated, self._sinks.put
    )
    self.latest: dict[str, Any] = self._writer.latest
    kept = None if jax.process_index() else files.folder / clock.FILE
    self.clock = clock.Clock(kept, begin.step)
    work = experiment.flops(begin.step)
    self.speed = flops.Speed(experiment.batch_size, work)
    self.switches = experiment.objective.switches
    folder, say = files.folder / "profile", self.progress.say
    self.tracer = trace.Tracer(folder, experiment.window, files.named, say)

  @contextlib.contextmanager
  def stepping(self, step: int) -> Iterator[None]:
    """For the call that dispatches a step; the first one compiles it."""
    before = step - 1
    if before == self._begin.step or before in self.switches:
      self.clock.enter("compile")
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      yield
    self.clock.enter("step")

  def perf(self) -> dict[str, float]:
    """Returns speed, memory and goodput, all under perf/."""
    return self.speed.read() | memory.used() | self.clock.read()

  def record(self, done: int, values: dict[str, Any]) -> None:
    """Writes numbers and pictures by name."""
    self._writer.write(done, values)
    self.latest |= values

  def saved(self, done: int) -> None:
    """Forces all lines to disk: a checkpoint must not outlive them."""
    self._writer.sync()
    self.clock.saved(done)

  def finish(self) -> None:
    """Prints the results, on one screen."""
    total = self._experiment.intervals.total
    with self.clock.of("profile"):
      self.tracer.end()  # One that a signal began too late.
    self.clock.finished = True
    self.progress.close()
    for line in summary.lines(
      total, self._experiment, self.latest, self._picture
    ):
      self.progress.say(line)
    for line in self.clock.table():
      self.progress.say(line)
    named = self._files.named(self._files.folder)
    self.progress.say(f"everything else is in {named}")

  def _picture(self, name: str) -> str:
    return self._files.named(self._writer.picture_path(name))

  def close(self) -> None:
    """Ends a trace, waits a little for the sinks, and closes the files."""
    self.tracer.end()
    self.clock.close()
    self._sinks.close()
    self._writer.close()


def _sinks(
  experiment: Experiment,
  files: mirror.Here,
  step: int,
  shown: progress.Progress,
) -> delivery.Deliveries:
  """Those of the config; only process 0 has any."""
  sinks = {} if jax.process_index() else experiment.sinks
  # A bucket's workdir has another name than its folder on this machine.
  *_, name, _ = ["run", *files.named(files.folder / metrics.FILE).split("/")]
  start = Start(files.folder, name, experiment.config, step, None)
  return delivery.Deliveries(sinks, start, shown.say)
