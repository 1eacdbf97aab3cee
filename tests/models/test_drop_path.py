"""Stochastic depth, and how a DINO's blocks are drawn."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.models import build, layers
from big_contrastive.models.image import vit

WIDTH, DEPTH, RATE = 8, 3, 0.4


def encoder(**changes):
  """Branch n, in order of depth, adds 1 to feature n of zeros, whatever x."""
  sizes = dict(width=WIDTH, depth=DEPTH, mlp=4, heads=2, causal=False)
  how = dict(activation="gelu", eps=1e-6, dropout=0.0, remat="none")
  how |= dict(dtype="float32", pin=lambda x: x, rngs=nnx.Rngs(0)) | changes
  made = layers.Transformer(**sizes, **how)
  rows = jnp.eye(WIDTH)[: 2 * DEPTH].reshape(DEPTH, 2, WIDTH)
  for branch, last in enumerate((
    made.blocks.attention.out, made.blocks.mlp.fc2
  )):  # fmt: skip
    last.kernel[...] = jnp.zeros_like(last.kernel[...])
    last.bias[...] = rows[:, branch]
  return made


def run(made, size, seed=0):
  keys = jax.random.split(jax.random.key(seed), size)
  return np.asarray(made.run(jnp.zeros((size, 2, WIDTH)), keys))


def test_branches_are_omitted_at_rates_linear_in_depth_and_scaled():
  size = 4000
  x = run(encoder(drop_path=RATE), size)
  np.testing.assert_array_equal(x[:, 0], x[:, 1])  # Of all tokens, or none.
  x, keep = x[:, 0, : 2 * DEPTH], np.repeat(1 - np.linspace(0, RATE, DEPTH), 2)
  kept = x > 0
  np.testing.assert_allclose(x, kept / keep, rtol=1e-6)
  # Five standard errors of a binomial distribution.
  error = 5 * np.sqrt(keep * (1 - keep) / size)
  assert (np.abs(kept.mean(0) - keep) <= error).all()
  # Each branch has a draw of its own.
  correlation = np.corrcoef(kept[:, 2:].T) - np.eye(2 * DEPTH - 2)
  assert np.abs(correlation).max() < 5 / np.sqrt(size)


def test_evaluation_and_a_teacher_omit_nothing():
  for made in (encoder(drop_path=RATE), encoder()):
    x = made.run(jnp.zeros((3, 2, WIDTH)))
    np.testing.assert_array_equal(x[..., : 2 * DEPTH], 1)
  np.testing.assert_array_equal(run(encoder(), 3)[..., : 2 * DEPTH], 1)


def test_dropout_and_stochastic_depth_draw_other_numbers():
  x = run(encoder(drop_path=0.5, dropout=0.5), 4000)[:, 0]
  # Of the last branch: kept by one, kept by both.
  last = x[:, 2 * DEPTH - 1] > 0
  assert abs(last.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_wrong_rate_is_named(rate):
  section = {"variant": "mu/8", "res": 16, "drop_path": rate}
  with pytest.raises(errors.UserError, match=r"image\.drop_path = .*0 is off"):
    build.build_model({"image": section})


def test_a_vit_is_drawn_as_dinos():
  """vision_transformer.py of DINO: 0.02 in all; PyTorch's own for patches."""
  made = vit.ImageTower(
    "Ti/16", 64, depth=1, pool="tok", cls_pos=True, init="trunc_normal",
    patch_init="torch", rngs=nnx.Rngs(0),
  )  # fmt: skip
  block = made.encoder.blocks
  kernels = [block.mlp.fc1.kernel, block.mlp.fc2.kernel, made.pos]
  kernels += [getattr(block.attention, n).kernel for n in ("query", "out")]
  for kernel in kernels:
    x = np.asarray(kernel[...])
    # Five standard errors of a normal distribution's deviation.
    assert abs(x.std() / 0.02 - 1) < 5 / np.sqrt(2 * x.size)
  assert 0.01 < np.asarray(made.cls[...]).std() < 0.03
  for bias in (
    block.mlp.fc1.bias,
    block.mlp.fc2.bias,
    block.attention.out.bias,
  ):
    assert not np.asarray(bias[...]).any()
  bound = 768**-0.5
  for x in (made.embed.kernel[...], made.embed.bias[...]):
    assert 0.9 * bound < np.abs(x).max() <= bound
    assert abs(np.asarray(x).std() / (bound / 3**0.5) - 1) < 0.2
