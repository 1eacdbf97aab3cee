"""Clipping of each tensor against explicit loops."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_contrastive.config import errors
from big_contrastive.training import clipping

ATTENTION = "img/encoder/blocks/attention"
SHAPES = {
  f"{ATTENTION}/query/kernel": (3, 4, 2, 2),
  f"{ATTENTION}/key/kernel": (3, 4, 2, 2),
  f"{ATTENTION}/value/kernel": (3, 4, 2, 2),
  f"{ATTENTION}/query/bias": (3, 2, 2),
  f"{ATTENTION}/key/bias": (3, 2, 2),
  f"{ATTENTION}/value/bias": (3, 2, 2),
  f"{ATTENTION}/out/kernel": (3, 2, 2, 4),
  # Pieces of a stack, of which layers are frozen.
  "txt/encoder/blocks[1:3]/norm1/scale": (2, 4),
  "img/pos": (5, 4),
  "t": (),
}


def tensors(grads):
  """The same as torch has them, float64: name -> [(name, layer), ...]."""
  found = {}
  for name, g in grads.items():
    joint = name
    for part in ("query", "key", "value"):
      joint = joint.replace(f"/{part}/", "/qkv/")
    for layer in range(len(g) if "/blocks" in name else 1):
      found.setdefault((joint, layer), []).append((name, layer))
  return found


def test_each_tensor_is_clipped_to_its_own_norm():
  """In one layer more, in one less, in one not at all."""
  r, limit = np.random.default_rng(0), 3.0
  grads = {}
  for name, shape in SHAPES.items():
    size = 10.0 ** np.linspace(-1, 1, shape[0] if shape else 1)
    size = size.reshape(-1, *[1] * (len(shape) - 1)) if shape else size[0]
    grads[name] = np.float32(r.normal(size=shape) * size)
  grads["t"] = np.float32(-7.0)
  wanted = {k: np.float64(g) for k, g in grads.items()}
  clipped = 0
  for members in tensors(grads).values():
    parts = [
      wanted[name][layer] if "/blocks" in name else wanted[name]
      for name, layer in members
    ]
    norm = np.sqrt(sum(np.sum(part**2) for part in parts))
    factor = min(1.0, limit / (norm + 1e-6))
    clipped += factor < 1
    for name, layer in members:
      if "/blocks" in name:
        wanted[name][layer] *= factor
      else:
        wanted[name] = wanted[name] * factor
  assert 3 < clipped < len(tensors(grads)) - 3
  tx = clipping.by_tensor(limit)
  given = {k: jnp.asarray(g) for k, g in grads.items()}
  found, _ = tx.update(given, tx.init(given))
  for name, g in wanted.items():
    np.testing.assert_allclose(found[name], g, rtol=1e-5, err_msg=name)


def test_query_key_and_value_of_different_attentions_are_apart():
  grads = {
    f"{part}/attention/{of}/bias": jnp.asarray([3.0, 4.0])
    for part in ("img/head", "txt/head") for of in ("query", "value")
  }  # fmt: skip
  found, _ = clipping.by_tensor(1.0).update(grads, optax.EmptyState())
  for g in found.values():  # Of two vectors of norm 5.
    np.testing.assert_allclose(g, np.asarray([3, 4]) / np.sqrt(50), rtol=1e-5)


def test_a_gradient_of_zero_stays_zero():
  grads = {"w": jnp.zeros(3)}
  found, _ = clipping.by_tensor(1.0).update(grads, optax.EmptyState())
  np.testing.assert_array_equal(found["w"], np.zeros(3))


@pytest.mark.parametrize(
  ("clip", "clip_each", "said"),
  [
    (0.0, None, "clip = 0.0; expected a finite number above 0"),
    (None, float("nan"), "clip_each = nan; expected a finite number above 0"),
    (None, -3.0, "clip_each = -3.0; "),
    (1.0, 3.0, r"clip_each = 3.0; expected None beside clip = 1.0"),
  ],
)
def test_a_wrong_limit_is_named(clip, clip_each, said):
  with pytest.raises(errors.UserError, match=said):
    clipping.clipping(clip, clip_each)
