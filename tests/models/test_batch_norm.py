"""Batch normalization: its formula, its groups, any number of devices."""

import functools
import itertools

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import peers
from big_contrastive.config import errors
from big_contrastive.models import norms
from big_contrastive.parallel import sharding

B, SIDE, W = 16, 3, 5


def inputs(seed: int = 0, places: tuple = (SIDE, SIDE)):
  """Images far from zero, a gradient of the output, scale and bias."""
  r = np.random.default_rng(seed)
  x = r.normal(size=(B, *places, W)) * r.uniform(0.5, 2, W) + r.normal(size=W)
  dy = r.normal(size=x.shape)
  scale, bias = r.normal(size=(2, W))
  return tuple(np.float32(v) for v in (x, dy, scale, bias))


def made(scale=None, bias=None, **kwargs) -> norms.BatchNorm:
  norm = norms.BatchNorm(W, **kwargs)
  if scale is not None:
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
  return norm


def dense(x, scale, bias, group=None, eps=1e-5):
  """Output, mean and unbiased variance, float64, group by group."""
  x = np.float64(x)
  group = group or len(x)
  out, means, variances = [], [], []
  for start in range(0, len(x), group):
    rows = x[start : start + group].reshape(-1, W)
    mean, var = rows.mean(0), rows.var(0)
    normalized = (x[start : start + group] - mean) / np.sqrt(var + eps)
    out.append(normalized * scale + bias)
    means.append(mean)
    variances.append(rows.var(0, ddof=1))
  return np.concatenate(out), np.mean(means, 0), np.mean(variances, 0)


@pytest.mark.parametrize(
  ("group", "places"),
  [
    *itertools.product((None, 4, 16), [(), (4,), (SIDE, SIDE)]),
    (1, (SIDE, SIDE)),  # Without places, one number has no variance.
  ],
)
def test_training_is_the_formula_of_each_group(group, places):
  x, _, scale, bias = inputs(places=places)
  norm = made(scale, bias, group=group, decay=0.75)
  y = norm(jnp.asarray(x), train=True)
  wanted, mean, var = dense(x, scale, bias, group)
  np.testing.assert_allclose(y, wanted, atol=2e-5)
  np.testing.assert_allclose(norm.mean[...], 0.25 * mean, atol=1e-6)
  np.testing.assert_allclose(norm.var[...], 0.75 + 0.25 * var, rtol=1e-6)


def test_evaluation_is_by_the_running_statistics_and_keeps_them():
  x, _, scale, bias = inputs()
  norm = made(scale, bias)
  for seed in range(3):
    norm(jnp.asarray(inputs(seed)[0]), train=True)
  mean, var = np.float64(norm.mean[...]), np.float64(norm.var[...])
  y = norm(jnp.asarray(x), train=False)
  wanted = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  np.testing.assert_array_equal(norm.mean[...], np.float32(mean))
  np.testing.assert_array_equal(norm.var[...], np.float32(var))
  alone = norm(jnp.asarray(x[3:4]), train=False)
  np.testing.assert_array_equal(alone, y[3:4])


def gradients(x, dy, scale, bias, group=None):
  """Of sum(dy * y) to x, scale and bias."""

  def value(x, scale, bias):
    norm = made(scale, bias, group=group)
    return jnp.sum(dy * norm(x, train=True))

  return jax.grad(value, (0, 1, 2))(*map(jnp.asarray, (x, scale, bias)))


@pytest.mark.parametrize("group", [None, 4])
def test_the_gradient_is_that_of_the_formula(group):
  """By central differences in float64, of all inputs."""
  x, dy, *affine = (np.float64(v) for v in inputs())
  found = gradients(*(np.float32(v) for v in (x, dy, *affine)), group=group)

  def value(*arguments):
    return np.sum(dy * dense(*arguments, group)[0])

  arguments = [x, *affine]
  for i, gradient in enumerate(found):
    step = np.zeros_like(arguments[i])
    for index in np.random.default_rng(1).permutation(step.size)[:25]:
      step.flat[index] = 1e-5
      ends = (
        value(*(a + s * step if j == i else a for j, a in enumerate(arguments)))
        for s in (1, -1)
      )
      wanted = (next(ends) - next(ends)) / 2e-5
      step.flat[index] = 0
      np.testing.assert_allclose(
        gradient.ravel()[index], wanted, rtol=1e-4, atol=1e-4
      )


@pytest.mark.parametrize("group", [None, 1, 2, 4, 8])
def test_devices_change_nothing(group, mesh):
  """With groups inside a device's rows, and over several devices."""

  def step(x, dy, scale, bias):
    def value(x, scale, bias):
      norm = made(scale, bias, group=group)
      y = norm(x, train=True)
      state = nnx.to_pure_dict(nnx.state(norm, norms.Statistic))
      return jnp.sum(dy * y), (y, state)

    return jax.grad(value, (0, 1, 2), has_aux=True)(x, scale, bias)

  arguments = inputs()
  results = []
  for devices in (1, 2, 8):
    batch = sharding.batch(mesh(devices))
    placed = [jax.device_put(v, batch) for v in arguments[:2]]
    results.append(jax.device_get(jax.jit(step)(*placed, *arguments[2:])))
  for other in results[1:]:
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
      other,
      results[0],
    )


@pytest.mark.parametrize("group", [1, 2, 8, None])
def test_only_statistics_travel_between_devices(group, mesh):
  """No device gets another's examples; a group on one device costs nothing."""
  batch = sharding.batch(mesh(8))

  def step(x):
    norm = made(group=group, running=False)
    return jax.grad(lambda x: jnp.sum(jnp.sin(norm(x, train=True))))(x)

  shape = jax.ShapeDtypeStruct((B, SIDE, SIDE, W), jnp.float32)
  jitted = jax.jit(step, in_shardings=batch, out_shardings=batch)
  text = jitted.lower(shape).compile().as_text()
  assert not any(f"{name}(" in text for name in ("all-gather", "all-to-all"))
  assert ("all-reduce(" in text) == (group in (8, None))


def test_a_scale_of_zero_begins_at_the_bias_and_has_a_gradient():
  x, dy, *_ = inputs()
  norm = made(zero=True)
  assert not norm.scale[...].any()
  assert not np.asarray(norm(jnp.asarray(x), train=True)).any()
  scale, bias = np.zeros(W, np.float32), np.zeros(W, np.float32)
  _, dscale, _ = gradients(x, dy, scale, bias)
  unit = dense(x, 1.0, 0.0)[0]
  wanted = (unit * dy).sum((0, 1, 2))
  np.testing.assert_allclose(dscale, wanted, rtol=1e-4)


def test_without_scale_bias_and_statistics():
  x, *_ = inputs()
  norm = norms.BatchNorm(W, scale=False, bias=False, running=False)
  assert not jax.tree.leaves(nnx.to_pure_dict(nnx.state(norm)))
  wanted = dense(x, 1.0, 0.0)[0]
  for train in (True, False):
    np.testing.assert_allclose(norm(jnp.asarray(x), train), wanted, atol=1e-5)


def test_bfloat16_computes_statistics_in_float32():
  """Of numbers whose squares differ by less than bfloat16 tells apart."""
  x, _, scale, bias = inputs()
  x = jnp.asarray(x + 100, jnp.bfloat16)
  norm = made(scale, bias, dtype=jnp.bfloat16)
  y = norm(x, train=True)
  assert y.dtype == jnp.bfloat16 and norm.mean[...].dtype == jnp.float32
  wanted, mean, var = dense(np.asarray(x, np.float64), scale, bias)
  np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-6)
  np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var, rtol=1e-5)
  # One rounding, of the result.
  np.testing.assert_allclose(y, wanted, rtol=2**-8, atol=2**-10)

  def value(x):
    return made(scale, bias, dtype=jnp.bfloat16)(x, True).astype("f4").sum()

  gradient = jax.grad(value)(x)
  assert gradient.dtype == jnp.bfloat16


def test_a_group_that_does_not_divide_is_named():
  with pytest.raises(errors.UserError, match="norm_group = 0; expected a who"):
    made(group=0)
  with pytest.raises(errors.UserError, match="norm_group = 5; .*divisor of 16"):
    made(group=5)(jnp.zeros((16, W)), train=True)
  made(group=5)(jnp.zeros((16, W)), train=False)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.peers
def test_it_is_pytorchs(train):
  torch = peers.torch()
  x, dy, scale, bias = inputs()
  norm = made(scale, bias)
  theirs = torch.nn.BatchNorm2d(W)
  with torch.no_grad():
    theirs.weight.copy_(torch.from_numpy(scale))
    theirs.bias.copy_(torch.from_numpy(bias))
  for seed in range(1, 4):  # Running statistics of three batches.
    other = inputs(seed)[0]
    norm(jnp.asarray(other), train=True)
    theirs(torch.from_numpy(other.transpose(0, 3, 1, 2)))
  theirs.train(train)
  pixels = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_(True)
  wanted = theirs(pixels)
  wanted.backward(torch.from_numpy(dy.transpose(0, 3, 1, 2)))
  found = norm(jnp.asarray(x), train)
  pairs = [
    (found, wanted.detach().permute(0, 2, 3, 1)),
    (norm.mean[...], theirs.running_mean),
    (norm.var[...], theirs.running_var),
  ]
  if train:
    gradient = gradients(x, dy, scale, bias)
    pairs += [
      (gradient[0], pixels.grad.permute(0, 2, 3, 1)),
      (gradient[1], theirs.weight.grad),
      (gradient[2], theirs.bias.grad),
    ]
  for ours, other in pairs:
    np.testing.assert_allclose(ours, other.numpy(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("places", [(), (SIDE, SIDE)])
def test_a_layer_norm_is_of_all_of_an_example(places):
  """And of it alone: in training and evaluation, with a scale a feature."""
  x, _, scale, bias = inputs(places=places)
  norm = norms.norm("layer", W)
  norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
  rows = np.float64(x).reshape(B, -1)
  rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(
    rows.var(1, keepdims=True) + 1e-5
  )
  expected = rows.reshape(x.shape) * scale + bias
  for train in (True, False):
    np.testing.assert_allclose(norm(jnp.asarray(x), train), expected, atol=1e-5)


@pytest.mark.peers
def test_a_layer_norm_is_torchs_group_norm_of_one_group():
  torch = peers.torch()
  x, *_ = inputs()
  expected = torch.nn.GroupNorm(1, W)(torch.tensor(x).permute(0, 3, 1, 2))
  found = norms.norm("layer", W)(jnp.asarray(x), True)
  expected = expected.permute(0, 2, 3, 1).detach().numpy()
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_batch_norms_have_groups():
  assert norms.norm("none", W) is None
  for kind in ("layer", "none"):
    with pytest.raises(errors.UserError, match='norm_group = 3; .*"' + kind):
      norms.norm(kind, W, group=3)
