"""DINO's cross entropy against a float64 double loop, and its memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from benchmarks import hlo
from big_contrastive.config import errors
from big_contrastive.losses.classes import distillation
from big_contrastive.parallel import sharding

B, W, K = 16, 6, 40


def unit(x, axis):
  return x / np.linalg.norm(x, axis=axis, keepdims=True)


def numbers(views=5, seed=0):
  r = np.random.default_rng(seed)
  student = unit(r.standard_normal((B, views, W)), -1)
  teacher = unit(r.standard_normal((B, 2, W)), -1)
  kernel, taught = (unit(r.standard_normal((W, K)), 0) for _ in range(2))
  center = 0.3 * r.standard_normal(K)
  arrays = student, kernel, teacher, taught, center
  return [a.astype(np.float32) for a in arrays]


def dense(student, kernel, teacher, taught, center, scale, teacher_scale):
  """Each pair of an image on its own: value, gradients, entropy, used."""
  student, kernel, teacher, taught, center = (
    np.asarray(a, np.float64)
    for a in (student, kernel, teacher, taught, center)
  )
  value, entropy, used = 0.0, 0.0, np.zeros(kernel.shape[1])
  dx, dkernel = np.zeros_like(student), np.zeros_like(kernel)
  b, v, _ = student.shape
  pairs = [(i, j) for i in range(2) for j in range(v) if j != i]
  for i, j in pairs:
    t = teacher_scale * (teacher[:, i] @ taught - center)
    q = np.exp(t - t.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    s = scale * student[:, j] @ kernel
    log_p = s - s.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    value -= (q * log_p).sum()
    entropy -= (q * np.log(np.maximum(q, 1e-300))).sum()
    used[t.argmax(1)] = 1
    d = scale * (np.exp(log_p) - q)
    dx[:, j] += d @ kernel.T
    dkernel += student[:, j].T @ d
  size = b * len(pairs)
  return value / size, (dx / size, dkernel / size), entropy / size, used


def over(mesh, tile=None, factor=1.0):
  """(arrays, scales) -> value, gradients and the rest, on a mesh."""
  rows, axis = PartitionSpec(sharding.BATCH), sharding.BATCH
  split = "tensor" if mesh.shape["tensor"] > 1 else None
  classes = PartitionSpec(None, split)
  specs = rows, classes, rows, classes, PartitionSpec(split)
  outs = PartitionSpec(), PartitionSpec(), PartitionSpec(split)

  def run(*arrays):
    *arrays, scale, teacher_scale = arrays

    def local(scale, teacher_scale, *arrays):
      return distillation.loss(
        *arrays, scale=scale, teacher_scale=teacher_scale,
        axis=axis, split=split, tile=tile,
      )  # fmt: skip

    scalars = PartitionSpec(), PartitionSpec()
    found = jax.shard_map(
      local, mesh=mesh, in_specs=(*scalars, *specs),
      out_specs=distillation.Distillation(*outs),
    )(scale, teacher_scale, *arrays)  # fmt: skip
    return factor * found.loss, found

  return jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))


def check(run, arrays, scale, teacher_scale, factor=1.0):
  scales = jnp.float32(scale), jnp.float32(teacher_scale)
  (_, found), grads = run(*arrays, *scales)
  value, expected, entropy, used = dense(*arrays, *map(float, scales))
  np.testing.assert_allclose(found.loss, value, rtol=1e-6)
  np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(found.used, used)
  for one, other in zip(grads, expected, strict=True):
    limit = 3e-6 * np.abs(other).max() * factor
    np.testing.assert_allclose(one, factor * other, rtol=0, atol=limit)


@pytest.mark.parametrize("tile", [1, 33, None])
def test_it_is_the_double_loop(mesh, tile):
  run = over(mesh(1), tile)
  for scale, teacher_scale in ((10, 25), (1, 0.5), (100, 1000)):
    check(run, numbers(), scale, teacher_scale)


@pytest.mark.parametrize("shape", [(2, 1, 1), (8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_devices_and_split_prototypes_change_nothing(shape, mesh):
  check(over(mesh(*shape), 10, 3.0), numbers(), 10, 25, 3.0)


def test_of_equal_logits_the_loss_is_log_k():
  """A student that knows nothing, as after a collapse."""
  student, *others = (jnp.asarray(a) for a in numbers())
  scales = {"scale": jnp.float32(10), "teacher_scale": jnp.float32(25)}
  found = distillation.loss(0 * student, *others, **scales)
  np.testing.assert_allclose(found.loss, np.log(K), rtol=1e-6)


@pytest.mark.parametrize("views", [1, 2])
def test_a_view_without_another_is_refused(views):
  """One view of one teacher; and fewer views than teachers."""
  student, kernel, teacher, *others = (jnp.asarray(a) for a in numbers(views))
  arrays = student, kernel, teacher[:, : 3 - views], *others
  one = jnp.float32(1)
  if views == 2:  # The least that there is: one pair.
    assert distillation.loss(*arrays, scale=one, teacher_scale=one).loss > 0
    return
  with pytest.raises(errors.UserError, match="views = 1; expected at least 2"):
    distillation.loss(*arrays, scale=one, teacher_scale=one)


def test_it_can_be_differentiated_once():
  student, *others = (jnp.asarray(a) for a in numbers())
  one = jnp.float32(1)

  def loss(x):
    return distillation.loss(x, *others, scale=one, teacher_scale=one).loss

  with pytest.raises(NotImplementedError, match="differentiated once"):
    jax.grad(lambda x: jax.grad(loss)(x).sum())(student)


# --- Laws of memory and FLOPs, from compiled plans. ---


def plan(mesh, b, k, w, views=10, **kwargs):
  """Compiled for one device of the mesh."""
  shapes = (b, views, w), (w, k), (b, 2, w), (w, k), (k,)
  rows, same = sharding.batch(mesh), sharding.replicated(mesh)
  arrays = [
    jax.ShapeDtypeStruct(s, np.float32, sharding=rows if len(s) == 3 else same)
    for s in shapes
  ]
  scalar = jax.ShapeDtypeStruct((), np.float32)
  return over(mesh, **kwargs).lower(*arrays, scalar, scalar).compile()


def test_no_logits_of_the_batch_are_in_memory(mesh):
  """DINO's 65,536 prototypes; logits of 2,048 images would be 768 MiB each."""
  small, large = (plan(mesh(8), b, 65_536, 256) for b in (512, 2048))
  few, many = (p.memory_analysis().temp_size_in_bytes for p in (small, large))
  # Vectors and their gradients grow with the batch, nothing else does.
  rows = (2048 - 512) // 8 * 12
  assert many - few <= 4 * rows * 256 * 4
  assert many < 100 * 2**20
  # No shape of that many rows, or images with views, by classes.
  found = set(re.findall(r"\[([\d,]*)65536\]", large.as_text()))
  assert len(found) > 2
  assert all(np.prod([int(n) for n in f.split(",")[:-1]]) <= 256 for f in found)


def test_flops_of_a_device(mesh):
  """6 for each of a student's rows, weights and classes, 2 for a teacher's."""
  b, k, w, v = 64, 512, 32, 5
  for tile in (None, 14):
    text = plan(mesh(8), b, k, w, v, tile=tile).as_text()
    exact = (6 * v + 2 * 2) * (b // 8) * k * w
    assert exact <= hlo.dot_flops(text) <= 1.01 * exact
