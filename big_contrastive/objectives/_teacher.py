"""A teacher: the exponential moving average of a student's weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.config.rules import flatten, unflatten
from big_contrastive.objectives import Objective, _base
from big_contrastive.objectives._views import TwoViews

Rate = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Teaching(Objective):
  """An objective with a teacher, which follows the trained weights.

  After each update teacher += rate (student - teacher), float32. Only trained
  parameters have a copy; they are sharded as those are. Running statistics are
  no parameters: the teacher normalizes by its own batches.

  Args:
    taught: the parts that the teacher has.
    rate: step -> 1 - momentum of the update of that step.
    other: whether the teacher begins with random weights of its own.
  """

  taught: tuple[str, ...] = ("img", "projector")
  rate: Rate = None
  other: bool = False

  def init_extra(self, params, key):
    first = self.setting.model.init(key) if self.other else params
    return super().init_extra(params, key) | {"teacher": self._copied(first)}

  def teacher(
    self, params: dict[str, Any], extra: dict[str, Any]
  ) -> _base.Applied:
    """Returns the model with the teacher's weights."""
    statistics = extra.get("statistics", {})
    return _base.Applied(self.setting, taught(params, extra), statistics)

  def after_update(self, params, extra, step):
    rate, new = self.rate(step), flatten(self._copied(params))
    teacher = {
      k: old + rate * (new[k] - old)
      for k, old in flatten(extra["teacher"]).items()
    }
    return params, extra | {"teacher": unflatten(teacher)}

  def _copied(self, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of which the teacher has its own."""
    flat = flatten({part: params[part] for part in self.taught})
    return unflatten({k: p for k, p in flat.items() if k not in self.frozen})


@dataclasses.dataclass(frozen=True)
class Taught(Teaching, TwoViews):
  """An objective over two views, with a teacher."""

  def flops(self):
    """Returns also those of the teacher's forward passes."""
    return super().flops() + 2 * self.setting.model.abstract.img.flops(True)


def taught(params: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
  """Returns the parameters with the teacher's, where it has its own."""
  return unflatten(flatten(params) | flatten(extra["teacher"]))


def rate(
  momentum: float,
  total: int,
  schedule: Literal["constant", "cosine"],
  first: int = 0,
) -> Rate:
  """Returns step -> 1 - momentum.

  With "cosine" (BYOL, MoCo v3, DINO) 1 - m(t) = (1 - m(0)) (1 + cos(pi t /
  total)) / 2, where t = step + first.

  Args:
    momentum: m(0).
    total: steps of the run.
    schedule: "cosine" rises to 1 at t = total, "constant" stays.
    first: t of the first update: 1 for a teacher that its paper updates before
      the forward pass of step t, which is this update of step t - 1.

  Raises:
    UserError: for a momentum that is not from 0 to below 1.
  """
  if not 0 <= momentum < 1:
    remedy = "0.996 and 0.99 are usual."
    allowed = "a number from 0 to below 1"
    raise errors.UserError("momentum", momentum, allowed, remedy)

  def at(step: jax.Array) -> jax.Array:
    if schedule == "constant":
      return jnp.float32(1 - momentum)
    done = (jnp.asarray(step, jnp.float32) + first) / total
    # (1 + cos x) / 2, without cancellation at the end of the run.
    return (1 - momentum) * jnp.square(jnp.cos(jnp.pi * done / 2))

  return at
