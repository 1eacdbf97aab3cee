"""Every pair loss against an independent float64 formula, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import baselines, hlo
from big_contrastive.config import registry
from big_contrastive.losses import _pairwise
from big_contrastive.objectives import _base

LOSSES = registry.names("losses")
DEVICES = (1, 2, 3, 4, 8)
T = (1.0, 14.3, 100.0, 1000.0)


def embeddings(size: int, d: int = 24, seed: int = 0):
  r = np.random.default_rng(seed)
  zimg, ztxt = r.normal(size=(2, size, d))
  unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt)]
  return [jnp.asarray(z, jnp.float32) for z in unit]


def dense_sigmoid(zimg, ztxt, t, b, ids):
  """Loss and gradients as the paper writes them, all B x B at once."""
  size = len(zimg)
  cosine = zimg @ ztxt.T
  logits, sign = t * cosine + b, 2 * np.eye(size) - 1
  keep = (ids[:, None] != ids[None]) | np.eye(size, dtype=bool)
  value = (np.logaddexp(0, -sign * logits) * keep).sum() / size
  dlogits = -sign * keep * np.exp(-np.logaddexp(0, sign * logits)) / size
  return value, {
    "zimg": t * dlogits @ ztxt,
    "ztxt": t * dlogits.T @ zimg,
    "t": (dlogits * cosine).sum(),
    "b": dlogits.sum(),
  }


def dense_softmax(zimg, ztxt, t, b, ids):
  size = len(zimg)
  cosine = zimg @ ztxt.T
  eye = np.eye(size, dtype=bool)
  logits = np.where((ids[:, None] != ids[None]) | eye, t * cosine, -np.inf)

  def direction(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    lse = np.log(np.exp(logits).sum(axis=1))
    p = np.exp(logits - lse[:, None])
    return (lse - np.diag(logits)).mean(), (p - eye) / size

  (rows, drows), (columns, dcolumns) = direction(logits), direction(logits.T)
  dlogits = (drows + dcolumns.T) / 2
  return (rows + columns) / 2, {
    "zimg": t * dlogits @ ztxt,
    "ztxt": t * dlogits.T @ zimg,
    "t": (dlogits * cosine).sum(),
  }


DENSE = {"sigmoid": dense_sigmoid, "softmax": dense_softmax}


def test_every_loss_has_a_formula_to_be_held_against():
  assert set(DENSE) == set(LOSSES)


@functools.cache
def _value_and_grad(name, mesh, with_ids, tile=None):
  loss = functools.partial(registry.module("losses", name, "").loss, tile=tile)
  over_mesh = _base.over_mesh(loss, mesh)

  def value(x, ids):
    return over_mesh(x["zimg"], x["ztxt"], x["t"], x.get("b"), ids)

  if not with_ids:
    return jax.jit(jax.value_and_grad(lambda x, _: value(x, None)))
  return jax.jit(jax.value_and_grad(value))


def inputs(name, zimg, ztxt, t):
  x = {"zimg": zimg, "ztxt": ztxt, "t": jnp.float32(t)}
  return x | ({"b": jnp.float32(-2.5)} if name == "sigmoid" else {})


def assert_is_formula(name, found, zimg, ztxt, t, ids, terms=1e-8):
  """Value to 1e-6, gradients to 1e-5 of their largest entry.

  Where terms of that size cancel, to 1e-5 of them.
  """
  (value, grads), loose = found, 10 if t > 100 else 1
  as64 = [np.asarray(z, np.float64) for z in (zimg, ztxt)]
  want, want_grads = DENSE[name](*as64, float(np.float32(t)), -2.5, ids)
  # A single pair's softmax loss is 0.
  np.testing.assert_allclose(value, want, rtol=1e-6 * loose, atol=1e-15)
  for key, grad in want_grads.items():
    got = grads[key]
    floor = terms * (t if key in ("zimg", "ztxt") else 1)
    bound = 1e-5 * loose * max(np.abs(grad).max(), floor)
    # What comes back as bfloat16 has been rounded once: half a unit more.
    half = 2.0**-8 if got.dtype == jnp.bfloat16 else 0.0
    off = np.abs(np.asarray(got, np.float64) - grad)
    assert (off <= bound + half * np.abs(grad)).all(), (key, t, off.max())


def check(name, mesh, per_device, tile, dtype):
  size = mesh.size * per_device
  zimg, ztxt = (z.astype(dtype) for z in embeddings(size))
  all_ids = np.arange(size, dtype=np.int32)
  # With ids, every other pair shares its id with a neighbor.
  for with_ids, ids in ((False, all_ids), (True, all_ids * 2 // 3)):
    run = _value_and_grad(name, mesh, with_ids, tile)
    for t in T:
      found = run(inputs(name, zimg, ztxt, t), ids)
      assert_is_formula(name, found, zimg, ztxt, t, ids)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_the_formula(name, devices, mesh):
  """A tile that does not divide the rows of a device, and no tile at one."""
  check(name, mesh(devices), 10, 4, jnp.float32)
  if devices == 1:
    check(name, mesh(1), 1, None, jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("tile", [None, 5, 4])
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_conformance(name, devices, tile, dtype, mesh):
  check(name, mesh(devices), 10, tile, dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_bfloat16_embeddings_are_summed_in_float32(name):
  zimg, ztxt = (z.astype(jnp.bfloat16) for z in embeddings(12))
  ids, t = np.arange(12, dtype=np.int32), 14.3
  b = -2.5 if name == "sigmoid" else 0.0
  terms = _pairwise.Terms(
    zimg, ztxt, jnp.float32(t), jnp.float32(b), jnp.asarray(ids), None, 5
  )
  sweep = registry.module("losses", name, "").SWEEP
  values, grads = sweep.gradients(terms)
  full = {"zimg": grads.zimg * t / 12, "ztxt": grads.ztxt * t / 12}
  full |= {
    "t": jnp.vdot(zimg.astype(jnp.float32), grads.zimg) / 12,
    "b": grads.bias / 12,
  }
  assert {g.dtype for g in full.values()} == {jnp.dtype("float32")}
  assert_is_formula(name, (values.mean(), full), zimg, ztxt, t, ids)
  np.testing.assert_allclose(sweep.value(terms), values, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_mesh_with_three_axes_changes_nothing(name, mesh):
  zimg, ztxt = embeddings(16)
  x = {"zimg": zimg, "ztxt": ztxt, "t": jnp.float32(14.3)}
  ids = np.arange(16, dtype=np.int32)
  one, _ = _value_and_grad(name, mesh(1), True)(x, ids)
  many, _ = _value_and_grad(name, mesh(2, 2, 2), True)(x, ids)
  np.testing.assert_allclose(one, many, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_pairs_is_irrelevant(name):
  loss = registry.module("losses", name, "").loss
  zimg, ztxt = embeddings(12)
  order = np.random.default_rng(1).permutation(12)
  t = jnp.float32(10)
  np.testing.assert_allclose(
    loss(zimg, ztxt, scale=t), loss(zimg[order], ztxt[order], scale=t),
    rtol=1e-6,
  )  # fmt: skip


def test_closed_forms():
  size = 8
  same = jnp.full((size, 4), 0.5, jnp.float32)
  softmax = registry.module("losses", "softmax", "").loss
  sigmoid = registry.module("losses", "sigmoid", "").loss
  zero, t = jnp.float32(0), jnp.float32(37)
  np.testing.assert_allclose(
    softmax(same, same, scale=t), np.log(size), rtol=1e-6
  )
  np.testing.assert_allclose(
    sigmoid(same, same, scale=zero, bias=zero), size * np.log(2), rtol=1e-6
  )


@pytest.mark.parametrize("name", LOSSES)
def test_equal_ids_everywhere_leave_only_the_pairs(name, mesh):
  zimg, ztxt = embeddings(8)
  ids = np.zeros(8, np.int32)
  x = {"zimg": zimg, "ztxt": ztxt, "t": jnp.float32(10)}
  value, grads = _value_and_grad(name, mesh(4), True)(x, ids)
  cosine = (zimg * ztxt).sum(axis=1)
  closed = {"softmax": 0.0, "sigmoid": np.logaddexp(0, -10 * cosine).mean()}
  np.testing.assert_allclose(value, closed[name], rtol=1e-6, atol=1e-6)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_softmax_survives_any_scale():
  """A fixed shift would underflow where no cosine is near 1."""
  softmax = registry.module("losses", "softmax", "").loss
  eye = jnp.eye(8, dtype=jnp.float32)
  far = jnp.roll(eye, 1, axis=0)  # Every pair orthogonal.
  for t in (1.0, 100.0, 1000.0):
    run = jax.value_and_grad(
      lambda z, t=t: softmax(z, far, scale=jnp.float32(t))
    )
    value, grad = run(eye)
    assert np.isfinite(value) and np.isfinite(grad).all()
    want = np.log(np.exp(t - t) + 7 * np.exp(-t)) + t
    np.testing.assert_allclose(value, want, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_hard_cases_stay_finite(name, mesh):
  """Duplicates, orthogonal and identical embeddings, and t = 1000 far off."""
  eye = jnp.eye(8, dtype=jnp.float32)
  one = jnp.tile(eye[:1], (8, 1))
  twice = jnp.repeat(eye[:4], 2, axis=0)
  far = jnp.full((8, 8), 0.01, jnp.float32)  # No cosine above 0.1.
  ids = np.arange(8, dtype=np.int32)
  cases = [(eye, eye), (eye, jnp.roll(eye, 1, 0)), (one, one), (twice, twice)]
  for zimg, ztxt in [*cases, (far, eye)]:
    for t in T:
      found = _value_and_grad(name, mesh(2), True, 3)(
        inputs(name, zimg, ztxt, t), ids
      )
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
      # Identical embeddings: probabilities of 1/8 cancel.
      assert_is_formula(name, found, zimg, ztxt, t, ids, terms=1 / 8)


def test_a_small_softmax_loss_is_no_difference_of_large_numbers():
  """Trained far, the loss is 1e-6 while logits are 30."""
  softmax = registry.module("losses", "softmax", "").loss
  eye = jnp.eye(16, dtype=jnp.float32)
  value, grad = jax.value_and_grad(softmax)(eye, eye, scale=jnp.float32(17))
  np.testing.assert_allclose(value, np.log1p(15 * np.exp(-17.0)), rtol=1e-6)
  p = np.exp(-17.0) / (1 + 15 * np.exp(-17.0))
  np.testing.assert_allclose(grad[0, 0], -17 * 15 * p / 16, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_differentiation_is_refused(name):
  loss = registry.module("losses", name, "").loss
  zimg, ztxt = embeddings(4)

  def first(z):
    return jnp.sum(jax.grad(loss)(z, ztxt, scale=jnp.float32(10)) ** 2)

  with pytest.raises(NotImplementedError, match="differentiated once"):
    jax.grad(first)(zimg)
  jax.jit(jax.checkpoint(first))(zimg)  # Once is fine, in any wrapping.


@pytest.mark.parametrize("name", LOSSES)
def test_evaluation_computes_no_gradients(name):
  loss = registry.module("losses", name, "").loss
  zimg, ztxt = embeddings(8)

  def dots(f):
    run = jax.jit(lambda *z: f(*z, scale=jnp.float32(10), tile=4))
    return hlo.dot_flops(run.lower(zimg, ztxt).compile().as_text())

  passes = {"sigmoid": 3, "softmax": 4}
  both = jax.value_and_grad(loss, argnums=(0, 1))
  assert dots(both) == passes[name] * dots(loss)


@pytest.mark.parametrize("frozen", ["zimg", "ztxt"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_frozen_tower_costs_no_gradient(name, frozen, mesh):
  """And those of the other tower and the scale are what they were."""
  loss = functools.partial(registry.module("losses", name, "").loss, tile=4)
  over_mesh = _base.over_mesh(loss, mesh(4))

  def value(x, fixed):
    x = x | fixed
    return over_mesh(x["zimg"], x["ztxt"], x["t"], x.get("b"), None)

  def compiled(*x):
    return jax.jit(jax.value_and_grad(value)).lower(*x).compile()

  every = inputs(name, *embeddings(40), 10.0)
  some = {k: x for k, x in every.items() if k != frozen}
  rest = {frozen: every[frozen]}
  plans = {"all": compiled(every, {}), "some": compiled(some, rest)}
  _, expected = plans["all"](every, {})
  _, found = plans["some"](some, rest)
  assert found.keys() == some.keys()
  for key, grad in found.items():
    # The scale's is summed over the other side.
    np.testing.assert_allclose(grad, expected[key], rtol=1e-5, atol=1e-8)
  flops = {k: hlo.dot_flops(x.as_text()) for k, x in plans.items()}
  passes = {"sigmoid": 3, "softmax": 4}[name]
  assert flops["some"] * passes == flops["all"] * (passes - 1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("baseline", baselines.BASELINES)
def test_baselines_are_the_same_loss(baseline, name, mesh):
  run = functools.partial(baselines.BASELINES[baseline], name)

  def adapted(zimg, ztxt, *, scale, bias, ids, axis):
    assert ids is None
    return run(zimg, ztxt, scale=scale, bias=bias, axis=axis)

  zimg, ztxt = embeddings(16)
  ids = np.arange(16, dtype=np.int32)
  over_mesh = _base.over_mesh(adapted, mesh(4))
  x = inputs(name, zimg, ztxt, 14.3)

  def value(x):
    return over_mesh(x["zimg"], x["ztxt"], x["t"], x.get("b"), None)

  found = jax.jit(jax.value_and_grad(value))(x)
  assert_is_formula(name, found, zimg, ztxt, 14.3, ids)
