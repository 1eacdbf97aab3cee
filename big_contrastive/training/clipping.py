"""Gradients scaled down to a largest norm: of all, or of each tensor."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_contrastive.config import errors, rules

Arrays = dict[str, jax.Array]


def clipping(
  clip: float | None, clip_each: float | None
) -> list[optax.GradientTransformation]:
  """Returns the parts of an optimizer that clip gradients: one or none.

  Args:
    clip: largest norm of all gradients together.
    clip_each: largest norm of each tensor's, see `by_tensor`.
  """
  for name, limit in (("clip", clip), ("clip_each", clip_each)):
    if limit is not None and not 0 < limit < math.inf:
      allowed, remedy = "a finite number above 0", "None is for no clipping."
      raise errors.UserError(name, limit, allowed, remedy)
  if clip is None:
    return [] if clip_each is None else [by_tensor(clip_each)]
  if clip_each is not None:
    allowed = f"None beside clip = {clip}"
    raise errors.UserError("clip_each", clip_each, allowed, "Drop one of them.")
  return [optax.clip_by_global_norm(clip)]


def by_tensor(limit: float) -> optax.GradientTransformation:
  """Multiplies each tensor's gradient by min(1, limit / (norm + 1e-6)).

  A tensor is what it is in the ViTs of DINO and timm: each layer of a stack on
  its own, but the projections to query, key and value of one attention, which
  are one matrix and one bias there, together.
  """

  def clip(grads: Arrays, _: Any) -> Arrays:
    squares: Arrays = {}
    for name, g in grads.items():
      axes = tuple(range(int(rules.stacked(name)), g.ndim))
      square = jnp.sum(jnp.square(g), axes)
      squares[_tensor(name)] = squares.get(_tensor(name), 0.0) + square
    factors = {
      tensor: jnp.minimum(1.0, limit / (jnp.sqrt(square) + 1e-6))
      for tensor, square in squares.items()
    }
    return {k: _times(factors[_tensor(k)], g) for k, g in grads.items()}

  return optax.stateless(clip)


def _tensor(name: str) -> str:
  """Returns the name of the tensor that a parameter is a part of."""
  return re.sub(r"/(query|key|value)/(kernel|bias)$", r"/qkv/\2", name)


def _times(factor: jax.Array, g: jax.Array) -> jax.Array:
  """Returns factor * g, where factor is a number or one a layer."""
  return factor.reshape(*factor.shape, *[1] * (g.ndim - factor.ndim)) * g
