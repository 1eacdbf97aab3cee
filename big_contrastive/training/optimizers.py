"""Optimizers, schedules, and rules for what is trained, and how."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_contrastive.config import errors, rules
from big_contrastive.training.clipping import clipping
from big_contrastive.training.layer_decay import times
from big_contrastive.training.per_parameter import PerParameter, within
from big_contrastive.training.released import released
from big_contrastive.training.schedules import Schedule, cosine
from big_contrastive.training.sgd import Coupled, lars, sgd


def adamw(
  *,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  mu_dtype: Literal["float32", "bfloat16"] = "float32",
) -> optax.GradientTransformation:
  """Returns AdamW (arXiv:1711.05101) without decay, which `build` adds."""
  within(b1=b1, b2=b2)
  within(math.inf, eps=eps)
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

  within(b1=b1)
  within(math.inf, eps=eps, clip_rms=clip_rms, decay_exponent=decay_exponent)

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


OPTIMIZERS = {
  "adamw": adamw, "adafactor": adafactor, "sgd": sgd, "lars": lars,
}  # fmt: skip


def build(
  direction: optax.GradientTransformation | Coupled,
  rate: Schedule,
  *,
  weight_decay: float,
  decay: dict[str, float],
  lr_mult: dict[str, float | rules.PerLayer],
  clip: float | None,
  clip_each: float | None = None,
  final_weight_decay: float | None = None,
  total: int | None = None,
  adapt: dict[str, bool] | None = None,
  start: Mapping[str, int] | None = None,
  rates: dict[str, Schedule] | None = None,
  trained: Iterable[str] | None = None,
  layer_factors: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
  """Returns the full optimizer over a flat dict of trained parameters.

  Each step: p -= rate * lr_mult * (direction + weight_decay * decay * p).
  That is AdamW's decay as PyTorch has it: it scales with the learning rate.
  big_vision's does not (p -= schedule * (lr * direction + wd * p), with the
  schedule from 0 to 1): divide its wd by its lr to get ours. sgd and lars add
  it to the gradient instead, before momentum.

  Args:
    direction: from `OPTIMIZERS`.
    rate: from `schedule`.
    weight_decay: times each parameter's own factor in `decay`.
    decay, lr_mult: factor by parameter name; lr_mult may be rules.PerLayer.
    clip, clip_each: see clipping.
    final_weight_decay: where the weight decay's cosine ends at `total`, the
      steps of the run; None: it stays as it is.
    adapt: whether lars adapts a parameter's rate, by name; None: where it has
      a decay factor, as in all published recipes.
    start: by name, the step before which a parameter isn't trained: see
      released; None: all from the first step on.
    rates: by name, for parameters that have another schedule than `rate`.
    trained: names of the flat dict, where some are of pieces of stacked
      parameters (rules.piece); None: those of `decay`.
    layer_factors: by name, what lr_mult is multiplied by; see layer_decay.
  """
  within(math.inf, weight_decay=weight_decay)
  decay_at = None
  if final_weight_decay is not None:
    within(math.inf, final_weight_decay=final_weight_decay)
    decay_at = cosine(weight_decay, final_weight_decay, total)
  _check_rules(adapt or {}, decay=decay, lr_mult=lr_mult)
  for name, factor in (layer_factors or {}).items():
    lr_mult = lr_mult | {name: times(lr_mult[name], factor)}

  def of(values: dict[str, Any]) -> dict[str, Any]:
    return rules.of_pieces(values, decay if trained is None else trained)

  constant = weight_decay if decay_at is None else 1.0
  each = PerParameter(
    decay=of({k: constant * factor for k, factor in decay.items()}),
    lr_mult=of(lr_mult),
    adapt=of({k: factor > 0 for k, factor in decay.items()} | (adapt or {})),
    rates=of(dict.fromkeys(decay, rate) | (rates or {})),
    decay_at=decay_at,
  )
  if callable(direction):
    parts = direction(each)
  else:
    parts = [direction, each.add_decay(), *each.scale()]
  if any((start or {}).values()):
    parts = [released(optax.chain(*parts), of(start))]
  return optax.chain(*clipping(clip, clip_each), *parts)


def _check_rules(adapt: dict[str, bool], **factors: dict[str, Any]) -> None:
  """Raises UserError for a rule whose value is no factor, or no bool."""
  for where, by_name in factors.items():
    for name, value in rules.pieces(by_name):
      if type(value) not in (int, float) or not 0 <= value < math.inf:
        allowed = "finite factors from 0 up"
        remedy = f"Change the rule that matches {name}."
        raise errors.UserError(f"config.{where}", value, allowed, remedy)
  for name, value in adapt.items():
    if type(value) is not bool:
      remedy = f"Change the rule that matches {name}."
      raise errors.UserError("config.adapt", value, "True or False", remedy)
