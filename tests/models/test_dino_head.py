"""DINO's head: unit vectors, unit prototypes, drawn as the official code's."""

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np

from big_contrastive.models.heads.dino import Dino


def make(**kwargs):
  sizes = {"out_dim": 600, "hidden": 50, "bottleneck": 40}
  return Dino(30, **sizes, **kwargs, rngs=nnx.Rngs(0))


def test_logits_are_cosines_of_vectors_and_prototypes():
  head, r = make(), np.random.default_rng(0)
  x = jnp.asarray(r.standard_normal((8, 30)), jnp.float32)
  vectors, prototypes = head.vectors(x), head.prototypes()
  np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(jnp.linalg.norm(prototypes, axis=0), 1, rtol=1e-6)
  np.testing.assert_allclose(head(x), vectors @ prototypes, atol=1e-6)
  # The length of a kernel's column says nothing, that of a trained gain does.
  logits = head(x)
  head.last.kernel[...] *= 7.0
  np.testing.assert_allclose(head(x), logits, atol=1e-6)
  assert head.gain is None
  long = make(gain=True)
  np.testing.assert_allclose(long(x), logits, atol=1e-6)
  long.gain[...] *= 3.0
  np.testing.assert_allclose(long(x), 3 * logits, atol=1e-5)


def test_it_is_drawn_as_published():
  """Normal of 0.02 and zeros; the last layer as torch's, within d**-0.5."""
  head = make()
  for layer in (head.mlp.fc1, head.mlp.fc2, head.mlp.fc3):
    assert not layer.bias[...].any()
    np.testing.assert_allclose(layer.kernel[...].std(), 0.02, rtol=0.1)
  kernel, bound = head.last.kernel[...], 40**-0.5
  assert 0.99 * bound < jnp.abs(kernel).max() <= bound
  np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.02)
