"""Axes: where a value lies, and where the ticks are."""

import dataclasses
import math

import numpy as np

# The largest value over the median, from which on a logarithm shows more.
_SPREAD = 20.0


@dataclasses.dataclass(frozen=True)
class Scale:
  """Maps values from low to high to pixels, or the logarithm of values.

  Attributes:
    low, high: values at the ends.
    start, end: the pixels there.
    log: whether the scale is logarithmic.
  """

  low: float
  high: float
  start: float
  end: float
  log: bool = False

  def __call__(self, value: np.ndarray | float) -> np.ndarray:
    """Returns the pixels of values."""
    low, high, at = self.low, self.high, np.asarray(value, np.float64)
    if self.log:
      low, high, at = math.log10(low), math.log10(high), np.log10(at)
    share = (at - low) / (high - low)
    return self.start + share * (self.end - self.start)

  def ticks(self, most: int) -> list[float]:
    """Returns round values between the ends, about `most` of them."""
    found = _powers(self.low, self.high, most) if self.log else []
    return found if len(found) > 1 else _steps(self.low, self.high, most)


def _steps(low: float, high: float, most: int) -> list[float]:
  """Multiples of 1, 2 or 5 times a power of ten."""
  rough = (high - low) / most
  power = 10.0 ** math.floor(math.log10(rough))
  unit = next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
  step = unit * power
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  # Without what floating point adds: 0.30000000000000004.
  return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _powers(low: float, high: float, most: int) -> list[float]:
  """Powers of ten, some left out if there are many."""
  first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
  every = max(1, math.ceil((last - first + 1) / most))
  found = [10.0**i for i in range(first, last + 1, every)]
  if len(found) < 3:
    found = [m * 10.0**i for i in range(first - 1, last + 1) for m in (1, 2, 5)]
  return [float(f"{t:.12g}") for t in found if low <= t <= high]


def vertical(
  values: np.ndarray, beside: np.ndarray, start: float, end: float, log: bool
) -> Scale:
  """Returns the scale of a chart's values.

  Args:
    values: finite, all that are drawn.
    beside: finite: levels that must be on the chart as well.
    start, end: pixels of the lowest and of the highest value.
    log: whether the scale may be logarithmic; it is if it shows more.
  """
  every = np.concatenate([values, beside])
  low, high = float(every.min()), float(every.max())
  if log and low > 0 and high > _SPREAD * float(np.median(values)):
    margin = (high / low) ** 0.04
    return Scale(low / margin, high * margin, start, end, log=True)
  margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
  # No room for what can't be: less than nothing, more than all.
  bottom = low - margin if low < 0 else max(0.0, low - margin)
  top = min(1.0, high + margin) if high <= 1 and low >= 0 else high + margin
  if bottom == top:
    bottom, top = bottom - 1, top + 1
  return Scale(bottom, top, start, end)


def horizontal(low: float, high: float, start: float, end: float) -> Scale:
  """Returns the scale of steps: from 0, unless all of them are far from it."""
  low = 0 if low < 0.9 * high else low
  return Scale(low, high if high > low else low + 1, start, end)
