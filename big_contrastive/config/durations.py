"""Durations in any unit: "1000 steps", "12.8B examples", "3 epochs", "2%"."""

import re

from big_contrastive.config import errors

Duration = int | str

_SCALE = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
_PATTERN = re.compile(
  r"(\d[\d_]*(?:\.\d+)?)\s*([kMB]?)\s*(steps?|examples?|epochs?|%)"
)


def in_epochs(duration: Duration) -> bool:
  """Returns whether a duration is a number of epochs."""
  match = _PATTERN.fullmatch(duration) if isinstance(duration, str) else None
  return match is not None and match[3].startswith("epoch")


def steps(
  duration: Duration,
  where: str,
  *,
  batch_size: int,
  epoch: int | None = None,
  total: int | None = None,
) -> int:
  """Returns a duration in steps, rounded up.

  Args:
    duration: steps as an int, or "NUMBER[k|M|B] UNIT" with the unit steps,
      examples, epochs or % (of the whole run).
    where: the config field, for the error.
    batch_size: examples per step.
    epoch: examples per epoch, if known.
    total: steps of the run; None if `duration` is the length of the run.
  """
  if type(duration) is int and duration >= 0:
    return duration
  match = _PATTERN.fullmatch(duration) if isinstance(duration, str) else None
  if match is None:
    remedy = 'Write it like "1000 steps", "12.8B examples" or "2%".'
    allowed = "a number of steps, examples, epochs or percent"
    raise errors.UserError(where, duration, allowed, remedy)
  number, scale, unit = match.groups()
  amount = float(number.replace("_", "")) * _SCALE[scale]
  unit = unit.rstrip("s")
  per_step = {"step": 1, "example": batch_size}.get(unit)
  if unit == "epoch" and epoch:
    amount, per_step = amount * epoch, batch_size
  elif unit == "%" and total is not None:
    amount, per_step = amount / 100 * total, 1
  if per_step is None:
    remedy = "Give it in steps or examples."
    allowed = f"a unit other than {unit}, whose length is unknown here"
    raise errors.UserError(where, duration, allowed, remedy)
  # Rounded first: 2% of 1,000 is 20.000000000000004 in floating point.
  return -int(-round(amount / per_step, 6) // 1)
