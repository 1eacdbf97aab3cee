"""What differs from parameter to parameter, and the steps that apply it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_contrastive.config import errors, rules
from big_contrastive.training.schedules import Schedule

# Flat dicts by parameter name.
Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class PerParameter:
  """Values by flat parameter name, and the parts of an optimizer they make.

  Args:
    decay: weight decay, times the parameter's own factor.
    lr_mult: factor on the learning rate; rules.PerLayer for one a layer.
    adapt: whether LARS adapts the learning rate.
    rates: step -> learning rate; parameters may share one.
    decay_at: step -> what `decay` is multiplied by; None for 1.
  """

  decay: dict[str, float]
  lr_mult: dict[str, float | rules.PerLayer]
  adapt: dict[str, bool]
  rates: dict[str, Schedule]
  decay_at: Schedule | None = None

  def add_decay(self) -> optax.GradientTransformation:
    """Adds decay * p, or that times decay_at of the step."""

    def add(updates: Arrays, params: Arrays) -> Arrays:
      return {k: u + self.decay[k] * params[k] for k, u in updates.items()}

    def add_at(step: jax.Array, updates: Arrays, params: Arrays) -> Arrays:
      times = self.decay_at(step)
      return add(updates, {k: times * p for k, p in params.items()})

    return optax.stateless(add) if self.decay_at is None else by_step(add_at)

  def scale(self) -> list[optax.GradientTransformation]:
    """Multiplies by lr_mult, then by the negative rate."""

    def multiply(updates: Arrays, _: Any) -> Arrays:
      return {k: self.factor(k, u) * u for k, u in updates.items()}

    def descend(updates: Arrays, rates: Arrays, _: Any) -> Arrays:
      # -1 * rate, as in optax: compiled, -rate rounds in another order.
      return {
        k: jnp.asarray(-1 * rates[k], u.dtype) * u for k, u in updates.items()
      }

    return [optax.stateless(multiply), self.with_rates(descend)]

  def factor(self, name: str, like: jax.Array) -> float | jax.Array:
    """Returns lr_mult: a number, or one a layer in an array of like's rank."""
    factor = self.lr_mult[name]
    if not isinstance(factor, rules.PerLayer):
      return factor
    return jnp.asarray(factor, like.dtype).reshape(-1, *[1] * (like.ndim - 1))

  def with_rates(
    self, update: Callable[[Arrays, Arrays, Arrays], Arrays]
  ) -> optax.GradientTransformation:
    """Returns (updates, rates, params) -> updates as a part of a chain."""

    def apply(step: jax.Array, updates: Arrays, params: Arrays) -> Arrays:
      # Each schedule once, in the order of names: it is the program's order.
      shared = dict.fromkeys(self.rates[name] for name in updates)
      now = {rate: rate(step) for rate in shared}
      rates = {name: now[self.rates[name]] for name in updates}
      return update(updates, rates, params)

    return by_step(apply)


def by_step(
  update: Callable[[jax.Array, Arrays, Arrays], Arrays],
) -> optax.GradientTransformation:
  """Returns (step, updates, params) -> updates as a part of a chain.

  Its state is the step of the run, from 0 on: it goes on where a step is
  skipped.
  """

  def init(params: Arrays) -> optax.ScaleByScheduleState:
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  def apply(updates, state, params=None):
    count = optax.safe_increment(state.count)
    new = optax.ScaleByScheduleState(count)
    return update(state.count, updates, params), new

  return optax.GradientTransformation(init, apply)


def skipped(before: Any, after: Any) -> Any:
  """Returns an optimizer's state after a step that was skipped.

  Only the parts that are `by_step` advance: they count the steps of the run.
  """

  def counts(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)

  return jax.tree.map(
    lambda old, new: new if counts(new) else old, before, after, is_leaf=counts
  )


def within(end: float = 1.0, **values: float) -> None:
  """Raises UserError for values that are not from 0 to just below `end`."""
  for name, value in values.items():
    if not 0 <= value < end:
      allowed = (
        "a finite number from 0 up"
        if end == math.inf
        else "a number from 0 to below 1"
      )
      raise errors.UserError(name, value, allowed, "Leave it out.")
