"""Equal shares of prototypes: Sinkhorn-Knopp (1306.0895) as in SwAV."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def codes(
  scores: Float[Array, "*n k"],
  *,
  epsilon: float,
  iterations: int,
  valid: Bool[Array, "*n"] | None = None,
) -> Float[Array, "*n k"]:
  """Returns each sample's distribution over the prototypes, float32.

  exp(scores / epsilon), of which `iterations` times first each prototype's
  values are divided by their sum over the samples, then each sample's by its
  sum over the prototypes (arXiv:2006.09882, section 3.1). So samples sum to 1,
  and prototypes have about equal shares. In the logarithm: no epsilon
  overflows. It has no gradient.

  Args:
    scores: [..., K], float32: in bfloat16 they would move codes by some
      percent. All leading axes are samples.
    epsilon: temperature; a higher one makes codes more even.
    iterations: one or more.
    valid: samples that count among a prototype's; None for all. The others get
      codes nevertheless.
  """
  chex.assert_type(scores, jnp.float32)
  logits = jax.lax.stop_gradient(scores) / epsilon
  samples = tuple(range(logits.ndim - 1))
  where = None if valid is None else valid[..., None]
  of_sample = jnp.zeros((*logits.shape[:-1], 1))
  for _ in range(iterations):
    of_prototype = jax.nn.logsumexp(
      logits - of_sample, axis=samples, keepdims=True, where=where
    )
    of_sample = jax.nn.logsumexp(logits - of_prototype, axis=-1, keepdims=True)
  return jnp.exp(logits - of_prototype - of_sample)
