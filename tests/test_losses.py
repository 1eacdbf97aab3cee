"""Every pair loss against an independent float64 formula, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive import resolve
from big_contrastive.objectives import pairs

LOSSES = resolve.names("losses")
DEVICES = (1, 2, 4, 8)
T = (1.0, 14.3, 100.0)


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
  dlogits = -sign * keep / (1 + np.exp(sign * logits)) / size
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
def _value_and_grad(name, mesh, with_ids):
  loss = pairs.over_mesh(resolve.module("losses", name, "").loss, mesh)

  def value(x, ids):
    return loss(x["zimg"], x["ztxt"], x["t"], x.get("b"), ids)

  if not with_ids:
    return jax.jit(jax.value_and_grad(lambda x, _: value(x, None)))
  return jax.jit(jax.value_and_grad(value))


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_sharded_loss_and_gradients_are_the_formula(
  name, devices, with_ids, mesh
):
  for per_device in (1, 5):
    size = devices * per_device
    zimg, ztxt = embeddings(size)
    ids = np.arange(size, dtype=np.int32)
    if with_ids:
      ids = ids * 2 // 3  # Every other pair shares its id with a neighbour.
    run = _value_and_grad(name, mesh(devices), with_ids)
    for t in T:
      x = {"zimg": zimg, "ztxt": ztxt, "t": jnp.float32(t)}
      if name != "softmax":
        x["b"] = jnp.float32(-2.5)
      value, grads = run(x, ids)
      as64 = [np.asarray(z, np.float64) for z in (zimg, ztxt)]
      t64 = float(np.float32(t))
      expected, expected_grads = DENSE[name](*as64, t64, -2.5, ids)
      # A single pair's softmax loss is 0.
      np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-15)
      for key, want in expected_grads.items():
        bound = 1e-5 * max(np.abs(want).max(), 1e-7)
        np.testing.assert_allclose(
          np.asarray(grads[key], np.float64), want, rtol=0, atol=bound
        )


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
  loss = resolve.module("losses", name, "").loss
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
  softmax = resolve.module("losses", "softmax", "").loss
  sigmoid = resolve.module("losses", "sigmoid", "").loss
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


@pytest.mark.parametrize("name", LOSSES)
def test_no_logits_of_the_global_batch_are_kept(name, mesh):
  """Temporary memory at a fixed local batch must not grow like b x B."""
  b, d = 256, 32
  floats = {}
  for n in (2, 8):
    shape = jax.ShapeDtypeStruct((b * n, d), jnp.float32)
    x = {"zimg": shape, "ztxt": shape, "t": jnp.float32(10)}
    run = _value_and_grad(name, mesh(n), False)
    ids = jax.ShapeDtypeStruct((b * n,), jnp.int32)
    options = {"xla_backend_optimization_level": 3}
    plan = run.lower(x, ids).compile(options).memory_analysis()
    floats[n] = plan.temp_size_in_bytes / 4
  # Six more hops: each may keep its chunk (b x d), none its logits (b x b).
  assert floats[8] - floats[2] <= 6 * 4 * b * d < 6 * b * b


def test_softmax_survives_any_scale():
  """A fixed shift would underflow where no cosine is near 1."""
  softmax = resolve.module("losses", "softmax", "").loss
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
