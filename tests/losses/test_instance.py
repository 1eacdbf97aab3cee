"""Losses between views against independent float64 formulas, on any mesh."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import peers
from benchmarks import baselines, hlo
from big_contrastive.config import errors, registry
from big_contrastive.objectives import _base
from big_contrastive.parallel import sharding

LOSSES = registry.names("losses.instance")
QUEUE = 48  # Keys; divisible by all numbers of devices.
MIB = 2**20


def embeddings(count, size, d=24, seed=0):
  r = np.random.default_rng(seed)
  z = r.normal(size=(count, size, d))
  return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)


def cross_entropy(logits, target):
  """Mean over rows, and its gradient by the logits."""
  logits = logits - logits.max(axis=1, keepdims=True)
  lse = np.log(np.exp(logits).sum(axis=1))
  p = np.exp(logits - lse[:, None])
  rows = np.arange(len(logits))
  value = (lse - logits[rows, target]).mean()
  p[rows, target] -= 1
  return value, p / len(logits)


def dense_nt_xent(z1, z2, scale):
  z = np.concatenate([z1, z2])
  logits = scale * z @ z.T
  np.fill_diagonal(logits, -np.inf)
  target = np.roll(np.arange(len(z)), len(z1))
  value, d = cross_entropy(logits, target)
  dz = scale * (d + d.T) @ z
  return value, dz[: len(z1)], dz[len(z1) :], (d * (z @ z.T)).sum()


def dense_info_nce(q, k, scale):
  value, d = cross_entropy(scale * q @ k.T, np.arange(len(q)))
  return value, scale * d @ k, scale * d.T @ q, (d * (q @ k.T)).sum()


def dense_queue(q, k, queue, scale):
  cosines = np.concatenate([(q * k).sum(1)[:, None], q @ queue.T], axis=1)
  value, d = cross_entropy(scale * cosines, np.zeros(len(q), int))
  dq = scale * (d[:, :1] * k + d[:, 1:] @ queue)
  return value, dq, 0 * k, (d * cosines).sum()


DENSE = {
  "nt_xent": dense_nt_xent, "info_nce": dense_info_nce, "queue": dense_queue,
}  # fmt: skip


def test_every_loss_has_a_formula_to_be_held_against():
  assert set(DENSE) == set(LOSSES)


def on_mesh(name, mesh, tile=None):
  """(z1, z2, others, scale) -> the loss; others: the queue, if it takes one."""
  loss = registry.module("losses.instance", name, "").loss
  return of_mesh(functools.partial(loss, tile=tile), mesh)


def of_mesh(loss, mesh):
  """The same of any function with the arguments of such a loss."""

  def run(z1, z2, others, scale):
    def local(*arrays, axis):
      *arrays, scale = arrays
      return loss(*arrays, scale=scale, axis=axis)

    specs = {2 + len(others): PartitionSpec()}
    return _base.on_ring(local, mesh, specs)(z1, z2, *others, scale)

  return run


@functools.cache
def compiled(name, mesh, tile=None):
  run = on_mesh(name, mesh, tile)
  return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 3)))


def inputs(name, size, seed=0, queue=QUEUE):
  z1, z2 = embeddings(2, size, seed=seed)
  others = tuple(embeddings(1, queue, seed=7)) if name == "queue" else ()
  return z1, z2, others


def check(name, mesh, size, scale, tile=None):
  check_arrays(name, mesh, *inputs(name, size), scale, tile)


def check_arrays(name, mesh, z1, z2, others, scale, tile=None, terms=1e-8):
  """Gradients to 1e-5 of their largest entry, or of terms that cancel."""
  value, grads = compiled(name, mesh, tile)(z1, z2, others, jnp.float32(scale))
  exact = [np.asarray(x, np.float64) for x in (z1, z2, *others)]
  expected, *rest = DENSE[name](*exact, float(np.float32(scale)))
  loose = 10 if scale > 100 else 1  # Logits are rounded as they are large.
  np.testing.assert_allclose(value, expected, rtol=1e-6 * loose, atol=1e-15)
  for grad, of, by in zip(grads, rest, (scale, scale, 1), strict=True):
    limit = 1e-5 * loose * max(np.abs(of).max(), terms * by)
    np.testing.assert_allclose(grad, of, rtol=0, atol=limit)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0, 1000.0])
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_formula_at_any_scale(name, scale, mesh):
  check(name, mesh(1), 24, scale)


@pytest.mark.parametrize("devices", [2, 3, 8])
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_formula_on_any_number_of_devices(name, devices, mesh):
  check(name, mesh(devices), 24, 14.3)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_small_batches(name, size, mesh):
  check(name, mesh(1), size, 10.0)


@pytest.mark.parametrize(("devices", "tile"), [(1, 7), (2, 5), (3, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_tiles_need_not_divide_the_batch(name, devices, tile, mesh):
  check(name, mesh(devices), 24, 14.3, tile)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 5])
@pytest.mark.parametrize(
  ("devices", "size"),
  [(n, b) for n in (1, 2, 3, 8) for b in (1, 2, 3, 8, 24) if not b % n],
)
@pytest.mark.parametrize("name", LOSSES)
def test_conformance(name, devices, size, tile, mesh):
  for scale in (1.0, 14.0, 100.0, 1000.0):
    check(name, mesh(devices), size, scale, tile)


@pytest.mark.parametrize("name", LOSSES)
def test_a_mesh_with_three_axes_changes_nothing(name, mesh):
  z1, z2, others = inputs(name, 24)
  scale = jnp.float32(14.3)
  one = compiled(name, mesh(1))(z1, z2, others, scale)
  many = compiled(name, mesh(2, 2, 2))(z1, z2, others, scale)
  chex.assert_trees_all_close(many, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_benchmarks_dense_form_is_the_same_loss(name, mesh):
  z1, z2, others = inputs(name, 24)
  dense = of_mesh(baselines.DENSE_VIEWS[name], mesh(2))
  # Without a key's gradient, where there is none.
  argnums = (0,) if name == "queue" else (0, 1)
  found, expected = (
    jax.jit(jax.value_and_grad(f, argnums))(z1, z2, others, jnp.float32(14.3))
    for f in (dense, on_mesh(name, mesh(2)))
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_hard_cases(name, mesh):
  """Twins, equal, orthogonal and opposite views; no cosine near 1; 1000."""
  eye = np.eye(8, dtype=np.float32)
  far = np.full((8, 8), 0.01, np.float32)
  twice, one = np.repeat(eye[:4], 2, axis=0), np.tile(eye[:1], (8, 1))
  cases = [
    (eye, eye), (eye, np.roll(eye, 1, 0)), (eye, -eye), (twice, twice),
    (one, one), (one, -one), (far, eye),
  ]  # fmt: skip
  queue = np.concatenate([eye, -eye, far])
  others = (queue,) if name == "queue" else ()
  for z1, z2 in cases:
    for scale in (1.0, 14.0, 100.0, 1000.0):
      # Probabilities of 1/8 cancel among equal embeddings.
      check_arrays(name, mesh(2), z1, z2, others, scale, 3, terms=1 / 8)


@pytest.mark.parametrize("name", LOSSES)
def test_a_small_loss_is_no_difference_of_large_numbers(name):
  """Trained far: 1e-6 while logits are 17, in value and in gradient."""
  loss = registry.module("losses.instance", name, "").loss
  eye, scale = jnp.eye(32, dtype=jnp.float32), 17.0
  z = eye[:16]
  others = (eye[16:],) if name == "queue" else ()
  value, grad = jax.value_and_grad(loss)(
    z, z, *others, scale=jnp.float32(scale)
  )
  # Entries of exp(0) beside the positive's exp(scale).
  rest = {"nt_xent": 30, "info_nce": 15, "queue": 16}[name] * np.exp(-scale)
  np.testing.assert_allclose(value, np.log1p(rest), rtol=1e-6)
  # The mean of NT-Xent is over twice the rows, and both views pull.
  pull = scale * rest / (1 + rest) / 16
  np.testing.assert_allclose(grad[0, 0], -pull, rtol=1e-5)


@pytest.mark.peers
def test_nt_xent_is_torchs_cross_entropy_of_all_views(mesh):
  torch = peers.torch()
  z1, z2, _ = inputs("nt_xent", 24)
  value, grads = compiled("nt_xent", mesh(2))(z1, z2, (), jnp.float32(10))
  leaves = [torch.tensor(z, dtype=torch.float64) for z in (z1, z2)]
  for leaf in leaves:
    leaf.requires_grad_()
  z = torch.cat(leaves)
  logits = 10 * z @ z.T
  logits = logits.masked_fill(torch.eye(48, dtype=torch.bool), -torch.inf)
  target = torch.arange(48).roll(24)
  expected = torch.nn.functional.cross_entropy(logits, target)
  expected.backward()
  np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
  for grad, leaf in zip(grads, leaves, strict=False):
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=0, atol=1e-7)


def test_one_image_has_nothing_to_learn_from(mesh):
  for name in ("nt_xent", "info_nce"):
    z1, z2, _ = inputs(name, 1)
    value, grads = compiled(name, mesh(1))(z1, z2, (), jnp.float32(10))
    assert value == 0 and all((g == 0).all() for g in grads)


def test_nt_xent_knows_no_order(mesh):
  """Of images, nor of an image's views."""
  z1, z2, _ = inputs("nt_xent", 24)
  run, scale = compiled("nt_xent", mesh(2)), jnp.float32(5)
  value, (d1, d2, _) = run(z1, z2, (), scale)
  swapped, (e2, e1, _) = run(z2, z1, (), scale)
  np.testing.assert_allclose(swapped, value, rtol=1e-6)
  np.testing.assert_allclose((e1, e2), (d1, d2), atol=1e-7)
  order = np.random.default_rng(0).permutation(24)
  mixed, (f1, f2, _) = run(z1[order], z2[order], (), scale)
  np.testing.assert_allclose(mixed, value, rtol=1e-6)
  np.testing.assert_allclose((f1, f2), (d1[order], d2[order]), atol=1e-7)


def test_keys_and_queue_are_constants(mesh):
  z1, z2, others = inputs("queue", 24)
  # Compiled: JAX has no symbolic zeros for shard_map without jit.
  grad = jax.jit(jax.grad(on_mesh("queue", mesh(2)), argnums=(1, 2)))
  dk, dothers = grad(z1, z2, others, jnp.float32(9))
  assert not dk.any() and not any(x.any() for x in dothers)


def test_a_teachers_keys_cost_no_gradient(mesh):
  """And the queries' gradient is what it is where the keys have one."""
  z1, z2, _ = inputs("info_nce", 24)
  run, scale = on_mesh("info_nce", mesh(2), 4), jnp.float32(9)

  def taught(q, k):
    return run(q, jax.lax.stop_gradient(k), (), scale)

  def both(q, k):
    return run(q, k, (), scale)

  plans = {
    f: jax.jit(jax.grad(f, argnums=(0, 1))).lower(z1, z2).compile()
    for f in (taught, both)
  }
  (dq, dk), (expected, other) = plans[taught](z1, z2), plans[both](z1, z2)
  np.testing.assert_array_equal(dq, expected)
  assert not dk.any() and other.any()
  flops = {f: hlo.dot_flops(x.as_text()) for f, x in plans.items()}
  assert flops[both] == 2 * flops[taught]


@pytest.mark.parametrize("name", LOSSES)
def test_evaluation_computes_no_gradients(name, mesh):
  z1, z2, others = inputs(name, 24)
  run, scale = on_mesh(name, mesh(1), 6), jnp.float32(9)

  def dots(f):
    text = jax.jit(f).lower(z1, z2, others, scale).compile().as_text()
    return hlo.dot_flops(text)

  passes = {"nt_xent": 3, "info_nce": 4, "queue": 2}[name]
  assert dots(jax.value_and_grad(run, argnums=(0, 1))) == passes * dots(run)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
  ("shapes", "scale", "message"),
  [
    (((4, 6), (3, 6), (9, 6)), 1.0, r"\(3, 6\); expected \(4, 6\)"),
    (((4, 6), (4, 5), (9, 6)), 1.0, r"\(4, 5\); expected \(4, 6\)"),
    (((4,), (4,), (9, 6)), 1.0, r"\(4,\); expected \[b, d\]"),
    (((0, 6), (0, 6), (9, 6)), 1.0, r"\(0, 6\); expected \[b, d\]"),
    (((4, 6), (4, 6), (9, 6)), [1.0] * 4, "shape of scale"),
  ],
)
def test_wrong_shapes_are_named(name, shapes, scale, message):
  # Beneath the checks of the test session, which users don't have.
  loss = inspect.unwrap(registry.module("losses.instance", name, "").loss)
  arrays = [jnp.ones(shape) for shape in shapes]
  arrays = arrays if name == "queue" else arrays[:2]
  with pytest.raises(errors.UserError, match=message):
    loss(*arrays, scale=jnp.asarray(scale))


@pytest.mark.parametrize("shape", [(9, 5), (0, 6), (6,), (2, 9, 6)])
def test_a_queue_of_a_wrong_shape_is_named(shape):
  loss = inspect.unwrap(registry.module("losses.instance", "queue", "").loss)
  z = jnp.ones((4, 6))
  with pytest.raises(errors.UserError, match="shape of queue"):
    loss(z, z, jnp.ones(shape), scale=jnp.float32(1))


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_read_but_not_summed_in(name, mesh):
  z1, z2, others = inputs(name, 24)
  low = [jnp.asarray(z, jnp.bfloat16) for z in (z1, z2)]
  run, scale = compiled(name, mesh(2)), jnp.float32(10)
  value, grads = run(*low, others, scale)
  back = [np.asarray(z, np.float32) for z in low]
  expected, exact = run(*back, others, scale)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  for a, b in zip(grads[:2], exact[:2], strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(
      np.asarray(a, np.float32), b, rtol=1e-2, atol=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
def test_it_can_be_differentiated_once(name, mesh):
  z1, z2, others = inputs(name, 4)
  run = on_mesh(name, mesh(1))
  first = jax.grad(lambda z: run(z, z2, others, jnp.float32(3)))
  with pytest.raises(NotImplementedError, match="once"):
    jax.grad(lambda z: first(z).sum())(z1)


# --- Laws of memory and FLOPs, from compiled plans. ---


@functools.cache
def plan(name, mesh, size, d=128, queue=65536, keys=False):
  """Value and gradients of a global batch, compiled for one device.

  keys: whether those of info_nce have gradients.
  """
  shapes = [(size, d), (queue, d)] if name == "queue" else [(size, d)]
  rows = sharding.batch(mesh)
  z, *others = (
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows) for shape in shapes
  )
  scale = jax.ShapeDtypeStruct((), jnp.float32)
  grads = (0, 1) if name == "nt_xent" or keys else 0
  value = jax.value_and_grad(on_mesh(name, mesh), grads)
  lowered = jax.jit(value).lower(z, z, tuple(others), scale)
  return lowered.compile({"xla_backend_optimization_level": 3})


def temporary(*args, **kwargs) -> float:
  """MiB a device beside arguments and results."""
  return plan(*args, **kwargs).memory_analysis().temp_size_in_bytes / MIB


@pytest.mark.parametrize(
  ("name", "size", "keys"),
  [("nt_xent", 32768, 0), ("info_nce", 65536, 0), ("info_nce", 65536, 1)],
)
def test_65536_views_on_eight_devices(name, size, keys, mesh):
  """A device's rows of the matrix alone would be 2,048 MiB."""
  assert temporary(name, mesh(8), size, keys=bool(keys)) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nt_xent", "info_nce"])
def test_memory_is_linear_in_the_batch(name, mesh):
  """Four times the batch, at most four times the memory: not sixteen."""
  small, large = (temporary(name, mesh(8), size) for size in (16384, 65536))
  assert large <= 4 * small


@pytest.mark.parametrize("name", ["nt_xent", "info_nce"])
def test_memory_of_a_device_does_not_grow_with_devices(name, mesh):
  two, eight = (temporary(name, mesh(n), 4096 * n) for n in (2, 8))
  assert eight <= 1.1 * two


def test_a_queue_takes_memory_linear_in_queries_and_keys(mesh):
  """Dense logits of 4,096 queries would be 1,024 MiB on one device."""
  of = {b: temporary("queue", mesh(1), b) for b in (32, 1024, 4096)}
  assert of[32] <= 40
  assert of[4096] - of[1024] <= 6 * 3072 * 128 * 4 / MIB + 16
  assert temporary("queue", mesh(8), 4096) <= 24


@pytest.mark.slow
def test_a_sharded_queue_at_any_batch(mesh):
  """Beside the tile a device keeps rows of d: its queries', its keys'."""
  of = {b: temporary("queue", mesh(8), b) for b in (32, 256, 2048, 4096)}
  assert max(of.values()) <= 24
  assert of[4096] - of[2048] <= 8 * 256 * (128 + 8) * 4 / MIB + 1


@pytest.mark.parametrize(
  ("name", "each", "keys"),
  [("nt_xent", 24, 0), ("info_nce", 4, 0), ("info_nce", 8, 1), ("queue", 4, 0)],
)
def test_flops_of_a_device(name, each, keys, mesh):
  """6 (2B)(2b) d for NT-Xent, 4 B b d against keys, 4 b K d a queue.

  Gradients of the keys double those against keys.
  """
  size, d, queue = 8192, 128, 16384
  made = plan(name, mesh(8), size, d, queue, bool(keys))
  counted = hlo.dot_flops(made.as_text())
  columns = queue if name == "queue" else size
  exact = each * columns * (size // 8) * d
  assert exact <= counted <= 1.05 * exact
