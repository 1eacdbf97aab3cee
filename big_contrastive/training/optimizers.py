"""Optimizers, schedules, and rules for what is trained, and how."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_contrastive.config import errors, rules
from big_contrastive.training.schedules import Schedule


def adamw(
  *,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  mu_dtype: Literal["float32", "bfloat16"] = "float32",
) -> optax.GradientTransformation:
  """Returns AdamW (arXiv:1711.05101) without decay, which `build` adds."""
  _within(b1=b1, b2=b2)
  _within(math.inf, eps=eps)
  return optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)


def adafactor(
  *,
  b1: float = 0.9,
  b2_cap: float = 0.999,
  decay_exponent: float = 0.8,
  eps: float = 1e-30,
  clip_rms: float = 1.0,
  mu_dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> optax.GradientTransformation:
  """Returns the Adafactor of Scaling ViT (arXiv:2106.04560, section 3.4).

  Second moments factored into rows and columns, no relative step size, b2
  capped so that it forgets, momentum in bfloat16: half the memory of Adam's
  first moment and next to none for the second. Each layer of stacked
  parameters is treated as a parameter of its own.
  """

  _within(b1=b1)
  _within(math.inf, eps=eps, clip_rms=clip_rms, decay_exponent=decay_exponent)

  def b2(step: jax.Array) -> jax.Array:
    t = jnp.asarray(step, jnp.float32) + 1
    return jnp.minimum(b2_cap, 1 - t**-decay_exponent)

  momentum = optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)
  return optax.chain(_factored_rms(b2, eps), _clip_rms(clip_rms), momentum)


# Moments are factored if both axes of the matrix have this many entries.
_MIN_FACTORED = 32


def _factored_rms(b2: Schedule, eps: float) -> optax.GradientTransformation:
  """Divides gradients by the square root of factored second moments.

  optax.scale_by_factored_rms takes the layer axis for an axis of the matrix.
  The state has its form: rows and columns, or the full moment; [1] if unused.

  Args:
    b2: steps so far -> decay of the second moments.
    eps: added to squares.
  """

  def init(params):
    unused = {k: jnp.zeros((1,), p.dtype) for k, p in params.items()}
    row, column, full = dict(unused), dict(unused), dict(unused)
    for name, p in params.items():
      if axes := _matrix(name, p.shape):
        row[name], column[name] = (jnp.zeros_like(p.sum(i)) for i in axes)
      else:
        full[name] = jnp.zeros_like(p)
    return optax.FactoredState(jnp.zeros((), jnp.int32), row, column, full)

  def update(grads, state, params=None):
    count, row, column, full = state[0], *map(dict, state[1:])
    decay, scaled = b2(count), {}
    for name, g in grads.items():
      square = jnp.square(g) + eps
      if axes := _matrix(name, g.shape):
        for mean, axis in zip((row, column), axes, strict=True):
          mean[name] = decay * mean[name] + (1 - decay) * square.mean(axis)
        r, c = (
          jnp.expand_dims(mean[name], axis)
          for mean, axis in zip((row, column), axes, strict=True)
        )
        r = r / r.mean(axes[1], keepdims=True)
        scaled[name] = g * r**-0.5 * c**-0.5
      else:
        full[name] = decay * full[name] + (1 - decay) * square
        scaled[name] = g * full[name] ** -0.5
    count = optax.safe_increment(count)
    return scaled, optax.FactoredState(count, row, column, full)

  return optax.GradientTransformation(init, update)


def _matrix(name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
  """Returns the two largest axes of a layer, the largest first, or None."""
  first = int(rules.stacked(name))
  axes = first + np.argsort(shape[first:])
  if len(axes) < 2 or shape[axes[-2]] < _MIN_FACTORED:
    return None
  return int(axes[-1]), int(axes[-2])


def _clip_rms(limit: float) -> optax.GradientTransformation:
  """Scales each layer's updates down to at most this RMS."""

  def clip(name: str, u: jax.Array) -> jax.Array:
    axes = tuple(range(int(rules.stacked(name)), u.ndim))
    rms = jnp.sqrt(jnp.mean(jnp.square(u), axes, keepdims=True))
    return u / jnp.maximum(1.0, rms / limit)

  return optax.stateless(
    lambda updates, _: {k: clip(k, u) for k, u in updates.items()}
  )


def _within(end: float = 1.0, **values: float) -> None:
  """Raises UserError for values that are not from 0 to just below `end`."""
  for name, value in values.items():
    if not 0 <= value < end:
      allowed = (
        "a finite number from 0 up"
        if end == math.inf
        else "a number from 0 to below 1"
      )
      where = f"config.optimizer.{name}"
      raise errors.UserError(where, value, allowed, "Leave it out.")


OPTIMIZERS = {"adamw": adamw, "adafactor": adafactor}


def build(
  direction: optax.GradientTransformation,
  rate: Schedule,
  *,
  weight_decay: float,
  decay: dict[str, float],
  lr_mult: dict[str, float],
  clip: float | None,
) -> optax.GradientTransformation:
  """Returns the full optimizer over a flat dict of trained parameters.

  Each step: p -= rate * lr_mult * (direction + weight_decay * decay * p).
  That is AdamW's decay as PyTorch has it: it scales with the learning rate.
  big_vision's does not (p -= schedule * (lr * direction + wd * p), with the
  schedule from 0 to 1): divide its wd by its lr to get ours.

  Args:
    direction: from `OPTIMIZERS`.
    rate: from `schedule`.
    weight_decay: times each parameter's own factor in `decay`.
    decay, lr_mult: factor by parameter name.
    clip: largest global norm of the gradients; None for no clipping.
  """

  _within(math.inf, weight_decay=weight_decay)
  if clip is not None and not 0 < clip < math.inf:
    allowed, remedy = "a finite number above 0", "None is for no clipping."
    raise errors.UserError("config.optimizer.clip", clip, allowed, remedy)
  for where, factors in (("decay", decay), ("lr_mult", lr_mult)):
    for name, value in factors.items():
      if type(value) not in (int, float) or not 0 <= value < math.inf:
        allowed = "finite factors from 0 up"
        remedy = f"Change the rule that matches {name}."
        raise errors.UserError(f"config.{where}", value, allowed, remedy)

  def add_decay(updates, params):
    return {
      k: u + weight_decay * decay[k] * params[k] for k, u in updates.items()
    }

  def multiply(updates, params):
    return {k: lr_mult[k] * u for k, u in updates.items()}

  clipping = [] if clip is None else [optax.clip_by_global_norm(clip)]
  return optax.chain(
    *clipping,
    direction,
    optax.stateless(add_decay),
    optax.stateless(multiply),
    optax.scale_by_learning_rate(rate),
  )


def skipped(before: Any, after: Any) -> Any:
  """Returns `build`'s state after a step that was skipped.

  Only the schedule advances: it counts the steps of the run.
  """

  def is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)

  return jax.tree.map(
    lambda old, new: new if is_schedule(new) else old,
    before,
    after,
    is_leaf=is_schedule,
  )
