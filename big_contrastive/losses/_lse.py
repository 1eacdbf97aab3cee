"""A running log-sum-exp, so that nothing overflows at any scale."""

import jax
import jax.numpy as jnp

# The logit of entries that are left out. Not -inf, whose differences are NaN.
LEFT_OUT = -1e30

Lse = tuple[jax.Array, jax.Array]  # maximum, sum of exp(logit - maximum)


def nothing(like: jax.Array) -> Lse:
  """Returns that of no logits, in the shape of an array."""
  return jnp.full_like(like, LEFT_OUT), jnp.zeros_like(like)


def of(logits: jax.Array, dim: int) -> Lse:
  """Returns that of logits along a dimension."""
  maximum = logits.max(axis=dim)
  return maximum, jnp.exp(logits - jnp.expand_dims(maximum, dim)).sum(axis=dim)


def merge(a: Lse, b: Lse) -> Lse:
  """Returns that of two sets of logits together."""
  maximum = jnp.maximum(a[0], b[0])
  return maximum, a[1] * jnp.exp(a[0] - maximum) + b[1] * jnp.exp(
    b[0] - maximum
  )


def minus(lse: Lse, positive: jax.Array) -> jax.Array:
  """Returns the log-sum-exp minus the logit of each row's own pair.

  The logit is subtracted before the logarithm is added: so a small loss under
  large logits is not a difference of large numbers. Where all entries are left
  out, the sum counts exp(LEFT_OUT - LEFT_OUT). It does no harm: LEFT_OUT + log
  of any count is LEFT_OUT.
  """
  maximum, total = lse
  return (maximum - positive) + jnp.log(total)
