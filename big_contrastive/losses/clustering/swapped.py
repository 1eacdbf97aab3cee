"""Swapped prediction, the loss of SwAV (arXiv:2006.09882)."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def loss(
  codes: Float[Array, "b i k"],
  scores: Float[Array, "b v k"],
  *,
  temperature: float,
) -> Float[Array, ""]:
  """Returns the mean cross entropy of each view with the others' codes.

  The mean over the first views i and all views v other than i of
  -sum_k codes_ik log softmax(scores_v / temperature)_k, and over images. Memory
  is O(B v K / n) a device: linear in the batch.

  Args:
    codes: [B, i, K] distributions of the first i views, constants.
    scores: [B, v, K] of all views, float32.
    temperature: of the softmax.
  """
  size, first, k = codes.shape
  views = scores.shape[1]
  chex.assert_shape(scores, (size, views, k))
  logits = scores / temperature
  # A code sums to 1: the softmax's logarithm need not be stored.
  inner = jnp.einsum(
    "bik,bvk->biv", jax.lax.stop_gradient(codes), logits, precision="highest"
  )
  entropies = jax.nn.logsumexp(logits, axis=-1)[:, None] - inner
  others = 1 - jnp.eye(first, views)
  return (entropies.mean(axis=0) * others).sum() / others.sum()
