"""SGD with momentum and LARS, whose weight decay is part of the gradient.

They need to know each parameter's decay and rate before the momentum, so each
returns PerParameter -> the parts of a chain, see optimizers.build.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from big_contrastive.config import rules
from big_contrastive.training.per_parameter import (
  Arrays,
  PerParameter,
  within,
)

Coupled = Callable[[PerParameter], list[optax.GradientTransformation]]


def sgd(*, momentum: float = 0.9, nesterov: bool = False) -> Coupled:
  """Returns SGD with momentum, as torch.optim.SGD.

  Each step: d = g + decay * p; m = momentum * m + d; p -= rate * lr_mult * m,
  or of d + momentum * m with Nesterov's momentum.
  """
  within(momentum=momentum)
  trace = optax.trace(momentum, nesterov)
  return lambda each: [each.add_decay(), trace, *each.scale()]


def lars(
  *,
  variant: Literal["byol", "simclr", "larc", "solo"] = "byol",
  momentum: float = 0.9,
  nesterov: bool = False,
  eta: float | None = None,
  eps: float = 1e-8,
) -> Coupled:
  """Returns LARS (arXiv:1708.03888) as one of four published codes has it.

  The norms |.| are those of a parameter; each layer of stacked parameters is a
  parameter of its own. For one that is adapted:

    byol: d = q * (g + decay * p), q = eta * |p| / |g + decay * p|;
      m = momentum * m + d; p -= rate * m. Also MoCo v3, DINO and MAE.
    simclr: m = momentum * m + rate * d; p -= m, with the same d: the rate of a
      step stays with its gradient. Also optax.lars.
    larc: as byol with q = eta * |p| / (|g| + decay * |p| + eps). NVIDIA's apex
      without clipping: SwAV, where all parameters are adapted and decayed.
    solo: as larc with min(q, rate) / rate for q. apex with clipping, and
      solo-learn.

  The others have q = 1. So have those where a norm in q is 0; with larc and
  solo they aren't decayed then either.

  Args:
    variant: see above.
    momentum, nesterov: as in `sgd`.
    eta: trust coefficient; None: 0.02 for solo, 0.001 for the others.
    eps: with larc and solo.
  """
  within(momentum=momentum)
  eta = (0.02 if variant == "solo" else 0.001) if eta is None else eta
  within(math.inf, eta=eta, eps=eps)
  trace = optax.trace(momentum, nesterov)

  def parts(each: PerParameter) -> list[optax.GradientTransformation]:
    if variant == "simclr":
      return [_adapted(each, eta), *each.scale(), trace]
    if variant == "byol":
      return [_adapted(each, eta), trace, *each.scale()]
    adapted = _larc(each, eta, eps, clipped=variant == "solo")
    return [adapted, trace, *each.scale()]

  return parts


def _adapted(each: PerParameter, eta: float) -> optax.GradientTransformation:
  """Adds the decay and multiplies by eta * |p| / |g + decay * p|."""

  def adapt(name: str, g: jax.Array, p: jax.Array) -> jax.Array:
    g = g + each.decay[name] * p
    if not each.adapt[name]:
      return g
    return _ratio(eta, _norm(name, p), _norm(name, g)) * g

  return optax.stateless(
    lambda grads, params: {k: adapt(k, g, params[k]) for k, g in grads.items()}
  )


def _larc(
  each: PerParameter, eta: float, eps: float, clipped: bool
) -> optax.GradientTransformation:
  """Adds the decay and multiplies by eta * |p| / (|g| + decay * |p| + eps)."""

  def adapt(
    name: str, g: jax.Array, p: jax.Array, rate: jax.Array | None
  ) -> jax.Array:
    decay = each.decay[name]
    if not each.adapt[name]:
      return g + decay * p
    p_norm, g_norm = _norm(name, p), _norm(name, g)
    q = _ratio(eta, p_norm, g_norm + decay * p_norm + eps)
    if rate is not None:
      # A rate of 0 clips nothing: it is no quotient of 0 and 0.
      rate = rate * each.factor(name, p)
      q = jnp.where(q < rate, q / jnp.where(rate > 0, rate, 1.0), 1.0)
    return jnp.where((p_norm > 0) & (g_norm > 0), q * (g + decay * p), g)

  def adapt_all(grads: Arrays, rates: Arrays, params: Arrays) -> Arrays:
    return {k: adapt(k, g, params[k], rates.get(k)) for k, g in grads.items()}

  if clipped:
    return each.with_rates(adapt_all)
  return optax.stateless(lambda grads, params: adapt_all(grads, {}, params))


def _ratio(eta: float, p_norm: jax.Array, total: jax.Array) -> jax.Array:
  """Returns eta * p_norm / total; 1 where either is 0."""
  both = (p_norm > 0) & (total > 0)
  return jnp.where(both, eta * p_norm / jnp.where(both, total, 1.0), 1.0)


def _norm(name: str, x: jax.Array) -> jax.Array:
  """Returns the norm of a parameter, or of each layer; of x's rank."""
  axes = tuple(range(int(rules.stacked(name)), x.ndim))
  return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
