"""Learning rates by step."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from big_contrastive.config import errors

Schedule = Callable[[Any], jax.Array]


def schedule(
  peak: float,
  total: int,
  *,
  decay: Literal["cosine", "rsqrt", "linear", "constant", "steps"],
  warmup: int,
  warmup_from: float = 0.0,
  warmup_includes: Literal["peak", "start", "both"] = "peak",
  cooldown: int = 0,
  timescale: int = 10_000,
  end: float = 0.0,
  milestones: list | None = None,
  factor: float = 0.1,
  every: int = 1,
) -> Schedule:
  """Returns step -> learning rate.

  Linear warm-up to `peak`, then the decay, then a linear cool-down to 0 over
  the last steps.

  Args:
    peak: the highest learning rate.
    total: steps of the run.
    decay: "cosine" or "linear" to `end` at `total`; "rsqrt": 1/sqrt of the
      steps since warm-up over `timescale`; "constant"; "steps": times `factor`
      at each of `milestones`.
    warmup, cooldown, timescale: in steps.
    warmup_from: where the warm-up starts, as a fraction of the peak.
    warmup_includes: which ends of the line the `warmup` steps have: its "peak"
      in their last step, its "start" in their first, or "both".
    end: the last rate as a fraction of the peak.
    milestones: steps, in ascending order.
    factor: of the rate at each of them.
    every: steps for which the rate stays that of the first of them.

  Raises:
    UserError: for a value out of its range.
  """
  fractions = {"warmup_from": warmup_from, "end": end, "factor": factor}
  _check(total, warmup, cooldown, fractions, every)
  marks = _milestones(milestones, decay)
  warming = _warmup(warmup, warmup_from, warmup_includes)

  def decayed(step: jax.Array) -> jax.Array:
    done = jnp.clip((step - warmup) / max(1, total - warmup), 0, 1)
    if decay == "cosine":
      return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    if decay == "linear":
      return end + (1 - end) * (1 - done)
    if decay == "rsqrt":
      since = jnp.maximum(step - warmup, 0)
      return jnp.sqrt(timescale / (timescale + since))
    passed = [jnp.where(step >= mark, factor, 1.0) for mark in marks]
    return math.prod(passed, start=jnp.ones(()))

  def rate(step: Any) -> jax.Array:
    if every > 1:
      # Of whole numbers: a quotient of floats may be just below its integer.
      step = jnp.asarray(step) // every * every
    step = jnp.asarray(step, jnp.float32)
    fraction = decayed(step)
    if warmup:
      fraction *= warming(step)
    if cooldown:
      fraction *= jnp.clip((total - step) / cooldown, 0, 1)
    return peak * fraction

  return rate


def cosine(first: float, last: float, total: int) -> Schedule:
  """Returns step -> value: half a cosine from first to last, at step `total`.

  That is DINO's table of weight decays (arXiv:2104.14294).
  """

  def value(step: Any) -> jax.Array:
    done = jnp.clip(jnp.asarray(step, jnp.float32) / total, 0, 1)
    return last + 0.5 * (first - last) * (1 + jnp.cos(jnp.pi * done))

  return value


def _warmup(steps: int, start: float, includes: str) -> Schedule:
  """Returns step -> fraction of the peak; 1 once the warm-up is over."""
  first = 1 if includes == "peak" else 0
  # A single step that should be both is the start, as in numpy.linspace.
  length = max(1, steps - 1 if includes == "both" else steps)

  def fraction(step: jax.Array) -> jax.Array:
    line = jnp.minimum(1, (step + first) / length)
    return start + (1 - start) * line

  return fraction


def _check(
  total: int,
  warmup: int,
  cooldown: int,
  fractions: dict[str, float],
  every: int,
) -> None:
  if warmup + cooldown > total:
    raise errors.UserError(
      "warmup",
      warmup,
      f"warm-up and cool-down ({cooldown}) within the run of {total} steps",
      "Shorten them or lengthen config.total.",
    )
  for name, value in fractions.items():
    if not 0 <= value <= 1:
      remedy = "It is a fraction of the highest rate."
      if name == "factor":
        remedy = "It multiplies the rate at each milestone."
      raise errors.UserError(name, value, "a number from 0 to 1", remedy)
  if every < 1:
    remedy = "1 changes the rate at every step."
    raise errors.UserError("every", every, "one step or more", remedy)


def _milestones(milestones: Sequence[int] | None, decay: str) -> list[int]:
  """Returns the milestones of the decay "steps"; other decays have none."""
  marks = list(milestones or [])
  if decay == "steps" and not marks:
    remedy = 'Set them: ["60%", "80%"].'
    value = None if milestones is None else marks
    raise errors.UserError("milestones", value, "one or more durations", remedy)
  if decay != "steps" and marks:
    allowed = f'None with decay = "{decay}"'
    remedy = 'Drop them, or set decay = "steps".'
    raise errors.UserError("milestones", marks, allowed, remedy)
  if any(type(mark) is not int for mark in marks) or marks != sorted(marks):
    remedy = "Sort them; here they are in steps."
    raise errors.UserError("milestones", marks, "ascending durations", remedy)
  return marks
