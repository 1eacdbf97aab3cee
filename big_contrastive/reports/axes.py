"""Horizontal axes of charts: steps, examples, or hours of training."""

import dataclasses

import numpy as np

from big_contrastive.reports.runs import Run
from big_contrastive.reports.series import Series
from big_contrastive.training import clock

AXES = ("step", "examples", "hours")
# What a run must have for it.
MISSING = {"examples": "the batch size", "hours": clock.HOURS}


def along(run: Run, axis: str) -> Run | None:
  """Returns the run with its metrics along an axis; None if it isn't known.

  Args:
    run: along steps.
    axis: one of AXES.
  """
  if axis == "step":
    return run
  moved = _by_examples(run) if axis == "examples" else _by_hours(run)
  return None if moved is None else dataclasses.replace(run, metrics=moved)


def _by_examples(run: Run) -> dict[str, Series] | None:
  size = (run.config or {}).get("batch_size")
  if not isinstance(size, int):
    return None
  return {
    name: Series(s.steps * size, s.values) for name, s in run.metrics.items()
  }


def _by_hours(run: Run) -> dict[str, Series] | None:
  """Steps without a time, as of evaluations, lie between those around them.

  What comes after the last time is left out.
  """
  if run.hours is None or not len(run.hours.finite.steps):
    return None
  steps, hours = run.hours.finite.steps, run.hours.finite.values
  # A run whose goodput.json was lost begins again from 0.
  passed = np.diff(hours, prepend=0.0)
  hours = np.where(passed < 0, hours, passed).cumsum()
  steps, hours = np.append(0, steps), np.append(0.0, hours)
  moved = {}
  for name, s in run.metrics.items():
    known = s.steps <= steps[-1]
    at = np.interp(s.steps[known], steps, hours)
    moved[name] = Series(at, s.values[known])
  return moved
