"""Soft targets against an independent float64 formula, on any mesh."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from benchmarks import hlo
from big_contrastive.config import errors
from big_contrastive.losses import softmax
from big_contrastive.losses.instance import info_nce, queue
from big_contrastive.losses.matching import soft_targets
from big_contrastive.objectives import _base
from big_contrastive.parallel import sharding

B, Q, D = 16, 24, 12
MIB = 2**20
GRADS = (0, 1, 6)  # Of zimg, ztxt and the scale.


def embeddings(*sizes, d=D, seed=0):
  r = np.random.default_rng(seed)
  z = [r.normal(size=(size, d)) for size in sizes]
  return [
    (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in z
  ]


def inputs(b=B, q=Q):
  """Two teachers that resemble their students, and queues."""
  noise, students = embeddings(b, b, seed=1), embeddings(b, b)
  mixed = [z + n for z, n in zip(students, noise, strict=True)]
  taught = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in mixed]
  return *students, *taught, *embeddings(q, q, seed=2)


def some_ids(b=B, q=Q):
  """Pairs with twins, with none, and queued ones that are nobody's."""
  r = np.random.default_rng(3)
  ids = r.integers(0, b // 2, b), r.integers(-3, b // 2, q)
  return [x.astype(np.int32) for x in ids]


def dense(zimg, ztxt, timg, ttxt, qimg, qtxt, scale, alpha, ids=None):
  """Value and gradients, all B x (B + Q) at once."""
  given = zimg, ztxt, timg, ttxt, qimg, qtxt
  zimg, ztxt, timg, ttxt, qimg, qtxt = (np.float64(x) for x in given)
  b, q = len(zimg), len(qimg)
  hard = np.eye(b, b + q)
  if ids is not None:
    hard = (ids[0][:, None] == np.concatenate(ids)[None]).astype(float)
    hard /= hard.sum(1, keepdims=True)

  def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))

  def direction(z, t, own, others):
    keys = np.concatenate([own, others])
    log_p = log_softmax(scale * z @ keys.T)
    soft = np.exp(log_softmax(scale * t @ keys.T))
    target = alpha * soft + (1 - alpha) * hard
    d = (np.exp(log_p) - target) / (2 * b)
    value = -(target * log_p).sum() / (2 * b)
    return value, scale * d @ keys, (d * (z @ keys.T)).sum()

  one = direction(zimg, timg, ttxt, qtxt)
  other = direction(ztxt, ttxt, timg, qimg)
  return one[0] + other[0], (one[1], other[1], one[2] + other[2])


def on_mesh(mesh, tile=None):
  """(six arrays, scale, alpha, ids...) -> the loss of the global batch."""

  def local(*arrays, axis):
    *arrays, scale, alpha, ids, queue_ids = arrays
    return soft_targets.loss(
      *arrays, scale=scale, alpha=alpha, ids=ids, queue_ids=queue_ids,
      axis=axis, tile=tile,
    )  # fmt: skip

  ring = _base.on_ring(local, mesh, {6: PartitionSpec(), 7: PartitionSpec()})

  def run(*arrays, ids=(None, None)):
    return ring(*arrays, *ids)

  return run


@functools.cache
def compiled(mesh, tile=None):
  return jax.jit(jax.value_and_grad(on_mesh(mesh, tile), GRADS))


def check(mesh, arrays, scale, alpha, tile=None, ids=None, terms=1e-8):
  """Value to 1e-6, gradients to 1e-5 of their largest entry, or of terms."""
  given = jnp.float32(scale), jnp.float32(alpha)
  more = {} if ids is None else {"ids": ids}
  value, grads = compiled(mesh, tile)(*arrays, *given, **more)
  want, exact = dense(*arrays, *(float(x) for x in given), ids)
  loose = 10 if scale > 100 else 1  # Logits are rounded as they are large.
  np.testing.assert_allclose(value, want, rtol=1e-6 * loose, atol=1e-15)
  for got, of, by in zip(grads, exact, (scale, scale, 1), strict=True):
    limit = 1e-5 * loose * max(np.abs(of).max(), terms * by)
    np.testing.assert_allclose(got, of, rtol=0, atol=limit)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize(
  ("devices", "tile", "q"),
  [(1, None, Q), (1, 7, 0), (2, 5, Q), (8, None, 0), (8, 3, Q)],
)
def test_it_is_the_formula(devices, tile, q, with_ids, mesh):
  """On any mesh, with tiles that do not divide, with a queue and without."""
  ids = some_ids(q=q) if with_ids else None
  for scale in (1.0, 14.3, 100.0, 1000.0):
    for alpha in (0.0, 0.4, 1.0):
      check(mesh(devices), inputs(q=q), scale, alpha, tile, ids)


def test_a_mesh_with_three_axes_changes_nothing(mesh):
  check(mesh(2, 2, 2), inputs(), 14.3, 0.4, ids=some_ids())


def test_hard_cases(mesh):
  """Twins, equal and opposite embeddings, and one id for all."""
  eye = np.eye(8, D, dtype=np.float32)
  one = np.tile(eye[:1], (8, 1))
  for a, b in [(eye, eye), (eye, -eye), (one, one), (one, -one), (eye, one)]:
    arrays = a, b, b, a, np.concatenate([a, -a]), np.concatenate([b, a])
    for ids in (None, [np.zeros(8, np.int32), np.zeros(16, np.int32)]):
      for scale in (1.0, 1000.0):
        # Probabilities of 1/8 cancel among equal embeddings.
        check(mesh(2), arrays, scale, 0.4, 3, ids, terms=1 / 8)


def test_without_a_teacher_and_a_queue_it_is_clips():
  """The same value; the columns of CLIP's have gradients, these have none."""
  zimg, ztxt = (jnp.asarray(z) for z in embeddings(B, B))
  none, scale = jnp.zeros((0, D)), jnp.float32(14)

  def taught(x, y):
    return soft_targets.loss(
      x, y, zimg, ztxt, none, none, scale=scale, alpha=jnp.float32(0)
    )

  def directions(x, y):
    one = info_nce.loss(x, ztxt, scale=scale)
    return (one + info_nce.loss(y, zimg, scale=scale)) / 2

  value, grads = jax.value_and_grad(taught, (0, 1))(zimg, ztxt)
  clip = softmax.loss(zimg, ztxt, scale=scale)
  np.testing.assert_allclose(value, clip, rtol=1e-6)
  for got, want in zip(
    grads, jax.grad(directions, (0, 1))(zimg, ztxt), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_one_pair_and_a_queue_are_mocos_loss():
  arrays = [jnp.asarray(x) for x in inputs(1)]
  zimg, ztxt, timg, ttxt, qimg, qtxt = arrays
  scale = jnp.float32(9)
  got = soft_targets.loss(*arrays, scale=scale, alpha=jnp.float32(0))
  one = queue.loss(zimg, ttxt, qtxt, scale=scale)
  other = queue.loss(ztxt, timg, qimg, scale=scale)
  np.testing.assert_allclose(got, (one + other) / 2, rtol=1e-6)


def test_an_id_of_its_own_for_each_pair_is_no_ids(mesh):
  arrays = *inputs(), jnp.float32(14.3), jnp.float32(0.4)
  ids = np.arange(B, dtype=np.int32)[::-1].copy(), np.full(Q, -1, np.int32)
  run = compiled(mesh(2), 5)
  got, grads = run(*arrays, ids=ids)
  want, expected = run(*arrays)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  for a, b in zip(grads, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_small_loss_is_no_difference_of_large_numbers(alpha, mesh):
  """Trained far: 1e-5 while logits are 17, in value and in gradient."""
  eye, scale = np.eye(D, dtype=np.float32), 17.0
  arrays = eye[:8], eye[:8], eye[:8], eye[:8], eye[8:], eye[8:]
  value, grads = compiled(mesh(1))(
    *arrays, jnp.float32(scale), jnp.float32(alpha)
  )
  rest = (D - 1) * np.exp(-scale)
  p = rest / (1 + rest)  # Of all others, for teacher and student alike.
  want = np.log1p(rest) + np.float32(alpha) * scale * p
  np.testing.assert_allclose(value, want, rtol=1e-6)
  pull = (1 - np.float32(alpha)) * scale * p / 16
  np.testing.assert_allclose(grads[0][0, 0], -pull, rtol=1e-5)


def test_equal_embeddings_have_the_loss_of_chance(mesh):
  one = np.tile(np.eye(1, D, dtype=np.float32), (B, 1))
  arrays = one, -one, one, one, one[:8], one[:8]
  value, _ = compiled(mesh(2))(*arrays, jnp.float32(14), jnp.float32(0.4))
  np.testing.assert_allclose(value, soft_targets.chance(B, 8), rtol=1e-6)
  np.testing.assert_allclose(soft_targets.chance(75, 57_600), 10.963, atol=1e-3)


def test_the_teacher_the_queues_and_alpha_are_constants(mesh):
  arrays = *inputs(), jnp.float32(9), jnp.float32(0.4)
  constants = (2, 3, 4, 5, 7)
  grads = jax.jit(jax.grad(on_mesh(mesh(2)), (0, *constants)))(*arrays)
  assert grads[0].any() and not any(g.any() for g in grads[1:])


def test_bfloat16_is_read_but_not_summed_in(mesh):
  low = [jnp.asarray(x, jnp.bfloat16) for x in inputs()]
  scalars = jnp.float32(10), jnp.float32(0.4)
  value, grads = compiled(mesh(2))(*low, *scalars)
  back = [np.asarray(x, np.float32) for x in low]
  want, exact = dense(*back, 10.0, float(scalars[1]))
  np.testing.assert_allclose(value, want, rtol=1e-6)
  for got, of in zip(grads[:2], exact[:2], strict=True):
    assert got.dtype == jnp.bfloat16
    # Rounded once, as they are returned: half a unit in the last place.
    off = np.abs(np.asarray(got, np.float64) - of)
    assert (off <= 2.0**-8 * np.abs(of) + 1e-5 * np.abs(of).max()).all()


def test_it_can_be_differentiated_once():
  arrays = [jnp.asarray(x) for x in inputs(4)]

  def first(z):
    loss = functools.partial(
      soft_targets.loss, scale=jnp.float32(3), alpha=jnp.float32(0)
    )
    return jax.grad(loss)(z, *arrays[1:]).sum()

  with pytest.raises(NotImplementedError, match="once"):
    jax.grad(first)(arrays[0])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({1: (3, 6)}, r"ztxt = \(3, 6\); expected \(4, 6\)"),
    ({2: (4, 5)}, r"timg = \(4, 5\); expected \(4, 6\)"),
    ({3: (4,)}, r"ttxt = \(4,\); expected \(4, 6\)"),
    ({5: (8, 6)}, r"qtxt = \(8, 6\); expected \(9, 6\)"),
    ({4: (9, 5)}, r"qimg = \(9, 5\); expected \(9, 6\)"),
    ({"scale": (4,)}, "the shape of scale"),
    ({"alpha": (4,)}, "the shape of alpha"),
    ({"ids": (3,), "queue_ids": (9,)}, r"ids = \(3,\); expected \(4,\)"),
    ({"ids": (4,)}, "queue_ids is missing"),
    ({"queue_ids": (9,)}, "^ids is missing"),
  ],
)
def test_wrong_shapes_are_named(change, message):
  # Beneath the checks of the test session, which users don't have.
  loss = inspect.unwrap(soft_targets.loss)
  shapes = dict(enumerate([(4, 6)] * 4 + [(9, 6)] * 2))
  shapes |= {"scale": (), "alpha": ()} | change
  given = {
    k: jnp.ones(x, jnp.int32 if "ids" in str(k) else jnp.float32)
    for k, x in shapes.items()
  }
  arrays = [given.pop(i) for i in range(6)]
  with pytest.raises(errors.UserError, match=message):
    loss(*arrays, **given)


# --- Laws of memory and FLOPs, from compiled plans. ---


@functools.cache
def plan(mesh, size, length, d=128, grads=GRADS, with_ids=False):
  rows = sharding.batch(mesh)

  def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  arrays = [shaped(size, d)] * 4 + [shaped(length, d)] * 2
  scalars = [jax.ShapeDtypeStruct((), jnp.float32)] * 2
  more = {}
  if with_ids:
    more["ids"] = [shaped(n, dtype=jnp.int32) for n in (size, length)]
  run = on_mesh(mesh)
  run = jax.value_and_grad(run, grads) if grads else run
  lowered = jax.jit(run).lower(*arrays, *scalars, **more)
  return lowered.compile({"xla_backend_optimization_level": 3})


def temporary(*args, **kwargs) -> float:
  """MiB a device beside arguments and results."""
  return plan(*args, **kwargs).memory_analysis().temp_size_in_bytes / MIB


@pytest.mark.parametrize(
  ("grads", "with_ids", "each"), [((), 0, 8), (GRADS, 0, 16), (GRADS, 1, 20)]
)
def test_flops_of_a_device(grads, with_ids, each, mesh):
  """Of 16 B (B + Q) d / n with gradients; evaluation computes none."""
  size, length, d = 2048, 6144, 64
  made = plan(mesh(8), size, length, d, grads, bool(with_ids))
  exact = each * size * (size + length) // 8 * d
  counted = hlo.dot_flops(made.as_text())
  assert exact <= counted <= 1.05 * exact


def test_memory_is_linear_in_the_batch_and_the_queue(mesh):
  """Dense logits would be 64 and 1,024 MiB on a device.

  What is beyond 4 is the tile, cut to a whole number of rows; sixteen would be
  a square.
  """
  small, large = (temporary(mesh(8), 4096 * n, 28672 * n) for n in (1, 4))
  assert large <= 4.2 * small and large <= 40


def test_memory_of_a_device_does_not_grow_with_devices(mesh):
  two, eight = (temporary(mesh(n), 2048 * n, 2048 * n) for n in (2, 8))
  assert eight <= 1.1 * two
