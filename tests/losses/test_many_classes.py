"""Losses over many classes against independent float64 formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import peers
from big_contrastive.config import errors
from big_contrastive.losses.classes import multilabel, softmax, tokens
from big_contrastive.parallel import sharding

B, W, V, K = 24, 7, 40, 5
MESHES = [(1, 1, 1), (2, 1, 2), (2, 2, 2), (8, 1, 1), (1, 1, 8)]


def numbers(seed=0, dtype=np.float32):
  r = np.random.default_rng(seed)
  x, kernel, bias = (
    r.normal(size=s).astype(dtype) for s in ((B, W), (W, V), (V,))
  )
  # Some are repeated, and some are no classes.
  labels = r.integers(0, V + 4, (B, K)).astype(np.int32)
  labels[0], labels[1] = V + 1, 3
  return x, kernel, bias, labels


def dense_multilabel(x, kernel, bias, labels):
  """BCE of each class, by hand: value and the three gradients."""
  x, kernel, bias = (np.asarray(a, np.float64) for a in (x, kernel, bias))
  y = np.zeros((B, V))
  for i, row in enumerate(labels):
    y[i, [v for v in row if v < V]] = 1
  s = x @ kernel + bias
  p = 1 / (1 + np.exp(-s))
  value = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum() / B
  d = (p - y) / B
  return value, (d @ kernel.T, x.T @ d, d.sum(0))


def weights_of(labels):
  r = np.random.default_rng(9)
  weights = r.uniform(size=labels.shape).astype(np.float32)
  return np.where(labels < V, weights, 0)


def dense_softmax(x, kernel, bias, labels):
  """Weights times log-probabilities, one label after the other."""
  x, kernel, bias = (np.asarray(a, np.float64) for a in (x, kernel, bias))
  s = x @ kernel + bias
  p = np.exp(s - s.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  value, d = 0.0, np.zeros_like(s)
  for i, (row, own) in enumerate(zip(labels, weights_of(labels), strict=True)):
    for v, weight in zip(row, own, strict=True):
      if v < V:
        value -= weight * np.log(p[i, v])
        d[i] += weight * p[i]
        d[i, v] -= weight
  d /= B
  return value / B, (d @ kernel.T, x.T @ d, d.sum(0))


def of_multilabel(x, kernel, bias, labels, **kwargs):
  return multilabel.loss(x, kernel, bias, labels, classes=V, **kwargs)


def of_softmax(x, kernel, bias, labels, weights, **kwargs):
  return softmax.loss(x, kernel, bias, labels, weights, **kwargs)


LOSSES = {
  "multilabel": (of_multilabel, dense_multilabel),
  "softmax": (of_softmax, dense_softmax),
}


def over(loss, mesh, tile=None):
  """The loss of the global batch, its classes split over `tensor`."""
  rows, axis = PartitionSpec(sharding.BATCH), sharding.BATCH
  split = "tensor" if mesh.shape["tensor"] > 1 else None
  local = functools.partial(loss, axis=axis, split=split, tile=tile)

  def run(x, kernel, bias, *others):
    specs = (
      rows, PartitionSpec(None, split), PartitionSpec(split),
      *[rows] * len(others),
    )  # fmt: skip
    return jax.shard_map(
      local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()
    )(x, kernel, bias, *others)

  return run


def arguments(name, **kwargs):
  x, kernel, bias, labels = numbers(**kwargs)
  more = (weights_of(labels),) if name == "softmax" else ()
  return x, kernel, bias, labels, *more


@pytest.mark.parametrize("tile", [1, 3, None])
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_formula_on_one_device(name, tile):
  loss, dense = LOSSES[name]
  given = arguments(name)
  value, grads = dense(*given[:4])
  f = jax.jit(jax.value_and_grad(functools.partial(loss, tile=tile), (0, 1, 2)))
  got = f(*given)
  np.testing.assert_allclose(got[0], value, rtol=1e-6)
  for one, other in zip(got[1], grads, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
  alone = jax.jit(functools.partial(loss, tile=tile))(*given)
  np.testing.assert_allclose(alone, value, rtol=1e-6)


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("name", LOSSES)
def test_devices_and_split_classes_change_nothing(name, shape, mesh):
  loss, dense = LOSSES[name]
  given = arguments(name)
  value, grads = dense(*given[:4])
  f = over(loss, mesh(*shape), tile=2)
  got = jax.jit(jax.value_and_grad(lambda *a: 3 * f(*a), (0, 1, 2)))(*given)
  np.testing.assert_allclose(got[0], 3 * value, rtol=1e-6)
  for one, other in zip(got[1], grads, strict=True):
    np.testing.assert_allclose(one, 3 * other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_rounds_the_inputs_alone(name):
  loss, dense = LOSSES[name]
  x, kernel, bias, *others = arguments(name)
  x, kernel = jnp.bfloat16(x), jnp.bfloat16(kernel)
  value, grads = dense(x, kernel, bias, others[0])
  got = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, kernel, bias, *others)
  np.testing.assert_allclose(got[0], value, rtol=1e-5)
  assert [g.dtype for g in got[1]] == [x.dtype, kernel.dtype, bias.dtype]
  for one, other in zip(got[1], grads, strict=True):
    np.testing.assert_allclose(
      np.float32(one), other, rtol=1e-2, atol=1e-3 * np.abs(other).max()
    )


def test_the_best_constant_is_the_entropy():
  """With no features the bias of the frequencies is the minimum."""
  _, _, _, labels = numbers()
  y = np.array([[v in row for v in range(V)] for row in labels])
  p = np.clip(y.mean(0), 0.01, 0.99)
  x, kernel = np.zeros((B, W), np.float32), np.zeros((W, V), np.float32)
  odds = (np.log(p) - np.log1p(-p)).astype(np.float32)
  inside = (y.mean(0) > 0.01) & (y.mean(0) < 0.99)
  grad = jax.jit(jax.grad(of_multilabel, 2))(x, kernel, odds, labels)
  np.testing.assert_allclose(grad[inside], 0, atol=1e-7)
  zero = jax.jit(of_multilabel)(x, kernel, 0 * odds, labels)
  np.testing.assert_allclose(zero, V * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_memory_has_no_array_of_rows_times_classes(name):
  """2,048 rows and 8,192 classes: 64 MiB of logits would be one."""
  b, w, v = 2048, 16, 8192
  loss, _ = LOSSES[name]
  x, kernel = (jax.ShapeDtypeStruct(s, np.float32) for s in ((b, w), (w, v)))
  bias = jax.ShapeDtypeStruct((v,), np.float32)
  labels = jax.ShapeDtypeStruct((b, K), np.int32)
  more = [jax.ShapeDtypeStruct((b, K), np.float32)] * (name == "softmax")

  def peak(rows):
    tiled = functools.partial(loss, tile=rows)
    if name == "multilabel":
      tiled = functools.partial(multilabel.loss, classes=v, tile=rows)
    f = jax.jit(jax.value_and_grad(tiled, (0, 1, 2)))
    compiled = f.lower(x, kernel, bias, labels, *more).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, more_rows = peak(16), peak(512)
  assert few < 2**22 + 8 * w * v * 4 < b * v * 4 / 3
  # Tiles are what it takes: 496 rows more of some arrays.
  assert more_rows - few > 496 * v * 4


def test_it_can_be_differentiated_once():
  given = arguments("multilabel")
  inner = jax.grad(of_multilabel, 0)
  with pytest.raises(NotImplementedError, match="differentiated once"):
    jax.jit(jax.grad(lambda x: inner(x, *map(jnp.asarray, given[1:])).sum()))(
      given[0]
    )


# --- Tokens. ---

SMOOTHING = 0.1


def dense_tokens(x, kernel, bias, target, weight, smoothing=SMOOTHING):
  """The cross entropy with its whole target distribution."""
  x, kernel, bias, weight = (
    np.asarray(a, np.float64) for a in (x, kernel, bias, weight)
  )
  s = x @ kernel + bias
  logs = s - np.log(np.exp(s - s.max(1, keepdims=True)).sum(1, keepdims=True))
  logs -= s.max(1, keepdims=True)
  q = np.full_like(s, smoothing / V)
  q[np.arange(B), target] += 1 - smoothing
  d = weight[:, None] * (np.exp(logs) - q)
  value = -(weight * (q * logs).sum(1)).sum()
  return value, (d @ kernel.T, x.T @ d, d.sum(0))


def token_numbers():
  x, kernel, bias, labels = numbers(3)
  weight = np.random.default_rng(4).uniform(size=B).astype(np.float32)
  weight[[0, 3, 4, 5, 6, 7, 20]] = 0  # Padding, all of one device's rows.
  return x, kernel, bias, labels[:, 2] % V, weight


def of_tokens(x, kernel, bias, target, weight, **kwargs):
  return tokens.loss(
    x, kernel, bias, target, weight, classes=V, smoothing=SMOOTHING, **kwargs
  )


@pytest.mark.parametrize("shape", [(1, 1, 1), *MESHES])
@pytest.mark.parametrize("tile", [2, None])
def test_tokens_are_the_formula_on_any_mesh(shape, tile, mesh):
  given = token_numbers()
  value, grads = dense_tokens(*given)
  f = jax.jit(
    jax.value_and_grad(over(of_tokens, mesh(*shape), tile), (0, 1, 2))
  )
  got = f(*given)
  np.testing.assert_allclose(got[0], value, rtol=1e-6)
  for one, other in zip(got[1], grads, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tile", [1, 5, 24])
def test_padding_never_meets_the_vocabulary(tile):
  """Its rows may hold anything: they are not read, and have no gradient."""
  x, *others = token_numbers()
  padded = others[-1] == 0
  f = jax.jit(
    jax.value_and_grad(functools.partial(of_tokens, tile=tile), (0, 1, 2))
  )
  expected = f(x, *others)
  x[padded] = np.nan
  got = f(x, *others)
  np.testing.assert_array_equal(got[0], expected[0])
  for one, other in zip(got[1], expected[1], strict=True):
    np.testing.assert_array_equal(one, other)
  assert not np.asarray(got[1][0])[padded].any()
  nothing = f(x, *others[:-1], np.zeros(B, np.float32))
  assert nothing[0] == 0 and not np.asarray(nothing[1][1]).any()


def test_flops_are_six_for_each_token_weight_and_class():
  n, w, v = 256, 64, 2048
  shapes = ((n, w), (w, v), (v,))
  x, kernel, bias = (jax.ShapeDtypeStruct(s, np.float32) for s in shapes)
  target = jax.ShapeDtypeStruct((n,), np.int32)
  weight = jax.ShapeDtypeStruct((n,), np.float32)
  loss = functools.partial(tokens.loss, classes=v, tile=n)  # One tile.
  for f, products in ((loss, 1), (jax.value_and_grad(loss, (0, 1, 2)), 3)):
    compiled = jax.jit(f).lower(x, kernel, bias, target, weight).compile()
    flops = compiled.cost_analysis()["flops"]
    least = 2 * products * n * w * v
    assert least <= flops < 1.2 * least


def test_at_first_it_is_the_log_of_the_vocabulary():
  x, kernel, bias, target, _ = token_numbers()
  mask = jnp.arange(B).reshape(4, 6) % 5 > 0
  for weigh in (tokens.each_token, tokens.each_caption):
    value = jax.jit(of_tokens)(
      x, 0 * kernel, 0 * bias, target, weigh(mask).ravel()
    )
    np.testing.assert_allclose(value, np.log(V), rtol=1e-6)


def test_weights_are_of_the_mean_over_tokens_or_over_captions(mesh):
  mask = np.random.default_rng(0).uniform(size=(8, 5)) < 0.6
  mask[2] = False
  rows = PartitionSpec(sharding.BATCH)

  def global_(weigh):
    local = functools.partial(weigh, axis=sharding.BATCH)
    return jax.shard_map(local, mesh=mesh(4), in_specs=rows, out_specs=rows)(
      mask
    )

  np.testing.assert_allclose(
    global_(tokens.each_token), mask / mask.sum(), rtol=1e-6
  )
  each = mask / np.maximum(1, mask.sum(1, keepdims=True)) / 8
  np.testing.assert_allclose(global_(tokens.each_caption), each, rtol=1e-6)
  alone = tokens.each_caption(jnp.asarray(mask))
  np.testing.assert_allclose(alone, each, rtol=1e-6)


def test_a_wrong_smoothing_is_named():
  given = token_numbers()
  with pytest.raises(errors.UserError, match="smoothing = 1.0; expected"):
    tokens.loss(*map(jnp.asarray, given), classes=V, smoothing=1.0)


@pytest.mark.peers
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_tokens_are_those_of_torch(smoothing):
  torch = peers.torch()
  given = token_numbers()
  x, kernel, bias = (torch.tensor(a, requires_grad=True) for a in given[:3])
  target = torch.tensor(np.where(given[4] > 0, given[3], -100).astype(np.int64))
  expected = torch.nn.functional.cross_entropy(
    x @ kernel + bias, target, ignore_index=-100, label_smoothing=smoothing
  )
  expected.backward()
  weight = (given[4] > 0) / np.float32((given[4] > 0).sum())
  f = functools.partial(tokens.loss, classes=V, smoothing=smoothing, tile=5)
  got = jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*given[:4], weight)
  np.testing.assert_allclose(got[0], expected.item(), rtol=1e-6)
  for one, other in zip(got[1], (x, kernel, bias), strict=True):
    np.testing.assert_allclose(one, other.grad, rtol=1e-4, atol=1e-7)
