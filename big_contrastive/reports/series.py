"""One metric of one run: its values by step, and fewer of them."""

import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Series:
  """Values by step, or along another axis.

  Attributes:
    steps: int64 [n], ascending, none twice; float64 of hours.
    values: float64 [n]; NaN for what was not finite.
  """

  steps: np.ndarray
  values: np.ndarray

  @property
  def finite(self) -> "Series":
    """What remains without the values that are not finite."""
    keep = np.isfinite(self.values)
    return Series(self.steps[keep], self.values[keep])

  @property
  def last(self) -> float:
    """The value of the last step, NaN if there is none."""
    return float(self.values[-1]) if len(self.values) else float("nan")

  @property
  def constant(self) -> bool:
    """Whether one number is all there is to say."""
    return len(self.steps) > 0 and bool((self.values == self.values[0]).all())


def of(rows: list[tuple[int, float]]) -> Series:
  """Returns the series of (step, value); the later of equal steps counts."""
  values = dict(rows)
  steps = sorted(values)
  # Those of devices are float32; differences of larger ones would overflow.
  found = [v if abs(v) < 1e300 else np.nan for v in map(values.get, steps)]
  return Series(np.array(steps, np.int64), np.array(found, np.float64))


class Thinned(NamedTuple):
  """What draws like a whole series, with few points of it.

  Attributes:
    line: for each part of the axis the step with its median value, and one that
      is not finite, if there is one; and the first and the last step.
    extremes: the same with the least and the largest value: no spike is lost.
    least, most: float64 [n], of the part of each finite point of `line`.
  """

  line: Series
  extremes: Series
  least: np.ndarray
  most: np.ndarray


def thinned(
  series: Series, low: float, high: float, parts: int
) -> Thinned | None:
  """Returns fewer points of a series; None if it has few.

  Args:
    series: the whole.
    low, high: steps at the ends of the axis.
    parts: into how many the axis is divided.
  """
  n = len(series.steps)
  if n <= 2 * parts:
    return None
  share = (series.steps - low) / (high - low)
  part = np.clip((share * parts).astype(int), 0, parts - 1)
  starts = np.flatnonzero(np.diff(part, prepend=-1))
  line, extremes = {0, n - 1}, {0, n - 1}
  least, most = np.full((2, parts), np.nan)
  for a, b in zip(starts, [*starts[1:], n], strict=True):
    order = a + np.argsort(series.values[a:b], kind="stable")  # NaN is last.
    wrong = np.isnan(series.values[order])
    known = order[~wrong]
    if len(known):
      line.add(known[(len(known) - 1) // 2])
      extremes |= {known[0], known[-1]}
      least[part[a]] = series.values[known[0]]
      most[part[a]] = series.values[known[-1]]
    if wrong.any():
      line.add(order[wrong][0])
      extremes.add(order[wrong][0])
  rows = np.array(sorted(line))
  finite = part[rows[np.isfinite(series.values[rows])]]
  return Thinned(
    _chosen(series, rows),
    _chosen(series, np.array(sorted(extremes))),
    least[finite],
    most[finite],
  )


def _chosen(series: Series, rows: np.ndarray) -> Series:
  return Series(series.steps[rows], series.values[rows])
