"""Random omission in training: of features, and of residual branches.

By one key per example, not per batch, so that the result doesn't depend on how
the batch is split over devices or into micro-batches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from big_contrastive.models.attention import Sequence

ExampleKeys = Key[Array, "b"] | None
Place = int | Int[Array, ""]


def dropout(
  x: Sequence, rate: float, keys: ExampleKeys, place: Place
) -> Sequence:
  """Returns x with features dropped, by one key per example; None keeps all."""
  if keys is None or rate == 0:
    return x

  def mask(key):
    return jax.random.bernoulli(
      jax.random.fold_in(key, place), 1 - rate, x.shape[1:]
    )

  return jnp.where(jax.vmap(mask)(keys), x / (1 - rate), 0).astype(x.dtype)


def drop_path(
  x: Sequence, rate: Float[Array, ""], keys: ExampleKeys, place: Place
) -> Sequence:
  """Returns a residual branch over 1 - rate, or 0 for some of the examples.

  Stochastic depth (arXiv:1603.09382), as timm and DINO have it. None keeps all.
  """
  if keys is None:
    return x

  def kept(key):
    return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate)

  kept = jax.vmap(kept)(keys)[:, None, None]
  return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)
