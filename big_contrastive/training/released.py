"""Parameters that are trained from a later step of the run on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from big_contrastive.training.per_parameter import Arrays, skipped


class Released(NamedTuple):
  """The state of `released`."""

  step: optax.ScaleByScheduleState  # Of the run.
  groups: tuple[Any, ...]  # The optimizer's, in ascending order of start.


def released(
  tx: optax.GradientTransformation, start: Mapping[str, int]
) -> optax.GradientTransformation:
  """Returns an optimizer in which a parameter takes part from its start on.

  Before that it stays as it is, weight decay included, and for it all steps are
  skipped ones: its moments stand still, and Adam's count too, so that its first
  update is corrected for its bias as a first one. torch does so where a
  parameter's grad is None. Schedules go on.

  Args:
    tx: of a flat dict; parameters of one start share its state's counts.
    start: the number of a parameter's first step, from 0, by name.
  """
  starts = sorted({*start.values()})

  def grouped(flat: Arrays) -> list[Arrays]:
    return [
      {k: x for k, x in flat.items() if start[k] == first} for first in starts
    ]

  def init(params: Arrays) -> Released:
    step = optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))
    return Released(step, tuple(map(tx.init, grouped(params))))

  def update(grads, state, params=None):
    updates, groups, now = {}, [], state.step.count
    for first, g, old, p in zip(
      starts, grouped(grads), state.groups, grouped(params), strict=True
    ):
      found, new = tx.update(g, old, p)
      on = first == 0 or now >= first
      updates |= {k: jnp.where(on, u, 0) for k, u in found.items()}
      groups.append(_where(on, new, skipped(old, new)))
    step = optax.ScaleByScheduleState(optax.safe_increment(now))
    # In the order of the gradients, which is the program's.
    return {k: updates[k] for k in grads}, Released(step, tuple(groups))

  return optax.GradientTransformation(init, update)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
