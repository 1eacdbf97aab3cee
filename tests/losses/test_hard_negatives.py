"""Hard negatives against the distribution of a dense matrix, on any mesh."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from benchmarks import hlo
from big_contrastive.config import errors
from big_contrastive.losses.matching import hard_negatives
from big_contrastive.parallel import sharding

MIB = 2**20


def embeddings(size, d=8, seed=0):
  z = np.random.default_rng(seed).normal(size=(2, size, d))
  return np.float32(z / np.linalg.norm(z, axis=-1, keepdims=True))


def sharded(function, mesh, *specs):
  """Runs (arrays, axis) on the mesh; what has no spec is split by its rows."""
  axis = sharding.BATCH
  rows = PartitionSpec(axis)
  return jax.shard_map(
    functools.partial(function, axis=axis), mesh=mesh,
    in_specs=tuple(rows if s is None else s for s in specs), out_specs=rows,
  )  # fmt: skip


@functools.cache
def drawing(mesh, eps, tile=None):
  """(zimg, ztxt, scale, key, ids) -> draws of the global batch."""

  def local(zimg, ztxt, scale, key, ids, axis):
    return hard_negatives.draw(
      zimg, ztxt, key, scale=scale, eps=eps, ids=ids, axis=axis, tile=tile
    )

  one = PartitionSpec()
  return jax.jit(sharded(local, mesh, None, None, one, one, None))


def draw(mesh, z, scale=5.0, eps=0.05, ids=None, seed=0, tile=None):
  run = drawing(mesh, eps, tile)
  key = jax.random.key(seed)
  found = run(*z, jnp.float32(scale), key, ids)
  assert all(x.dtype == jnp.int32 for x in found)
  return [np.asarray(x) for x in found]


def target(zimg, ztxt, scale, eps, ids):
  """The weights as BLIP has them, [b, b], each row of sum 1."""
  logits = scale * np.float64(zimg) @ np.float64(ztxt).T
  p = np.exp(logits - logits.max(1, keepdims=True))
  p = p / p.sum(1, keepdims=True) + eps
  p[ids[:, None] == ids[None]] = 0
  return p / p.sum(1, keepdims=True)


@functools.cache
def many(eps, tile):
  """The draws of many keys, [keys, b] each."""

  def run(zimg, ztxt, scale, keys, ids):
    one = functools.partial(
      hard_negatives.draw, zimg, ztxt, scale=scale, eps=eps, ids=ids, tile=tile
    )
    return jax.vmap(one)(keys)

  return jax.jit(run)


def draws(z, scale, eps, ids=None, tile=None, count=20_000):
  keys = jax.random.split(jax.random.key(11), count)
  return many(eps, tile)(*z, jnp.float32(scale), keys, ids)


def check_frequencies(found, p):
  """Counts of each column to five standard deviations; none where p is 0."""
  found = np.asarray(found)
  count, b = found.shape
  for i in range(b):
    counts = np.bincount(found[:, i], minlength=b)
    assert not counts[p[i] == 0].any()
    limit = 5 * np.sqrt(count * p[i] * (1 - p[i])) + 1
    assert (np.abs(counts - count * p[i]) <= limit).all(), (i, counts)


IDS = np.array([3, 1, 3, 0, 1, 7], np.int32)


@pytest.mark.parametrize(
  ("scale", "eps", "ids", "tile"),
  [
    (5.0, 0.0, None, None),
    (5.0, 0.0, IDS, 4),
    (5.0, 0.1, None, 4),
    (5.0, 0.1, IDS, None),
  ],
)
def test_frequencies_are_those_of_the_weights(scale, eps, ids, tile):
  """Softmax over all, plus eps, then the positives out: in both directions."""
  z = embeddings(6)
  found = draws(z, scale, eps, ids, tile)
  ids = np.arange(6) if ids is None else ids
  check_frequencies(found.text, target(*z, scale, eps, ids))
  check_frequencies(found.image, target(*z[::-1], scale, eps, ids))


@pytest.mark.parametrize("scale", [8.0, 1000.0])
def test_a_trained_model_draws_by_eps(scale):
  """Where the own pair takes the mass, what is left is shared with eps.

  At 1000 there is no mass left in float32: all allowed are drawn alike.
  """
  z = np.stack([embeddings(6)[0]] * 2)
  found = draws(z, scale, 0.02)
  p = target(*z, scale, 0.02, np.arange(6))
  check_frequencies(found.text, p)
  if scale == 1000:
    np.testing.assert_allclose(p[0, 1:], 1 / 5, rtol=1e-2)


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_rows_and_directions_are_drawn_apart(eps):
  """Two draws come together as often as each comes alone says."""
  z = embeddings(4)
  found = draws(z, 3.0, eps)
  columns = [*np.asarray(found.text).T, *np.asarray(found.image).T]
  p = [
    x for pair in (z, z[::-1]) for x in target(*pair, 3.0, eps, np.arange(4))
  ]
  for i in range(8):
    for j in range(i):
      table = np.zeros((4, 4))
      np.add.at(table, (columns[i], columns[j]), 1)
      expected = len(columns[i]) * np.outer(p[i], p[j])
      some = expected > 0
      chi2 = ((table - expected)[some] ** 2 / expected[some]).sum()
      assert chi2 <= 40, (i, j, table)  # Of 8 degrees: 3e-6 by chance.


def test_of_equals_the_first_is_drawn(mesh, monkeypatch):
  """Whatever tile and device come first."""

  def still(words):
    return jnp.full_like(words, 0.5, jnp.float32)

  monkeypatch.setattr(hard_negatives, "_uniform", still)
  first = [1] + [0] * 15
  for eps in (0.0, 1.0):
    drawing.cache_clear()
    for x in draw(mesh(4), np.ones((2, 16, 1), np.float32), eps=eps, tile=3):
      np.testing.assert_array_equal(x, first)
  drawing.cache_clear()


@pytest.mark.parametrize(("eps", "with_ids"), [(0.0, False), (0.05, True)])
def test_draws_are_the_same_on_any_mesh_and_for_any_tile(eps, with_ids, mesh):
  z = embeddings(40)
  ids = np.arange(40, dtype=np.int32) // (2 if with_ids else 1)
  given = ids if with_ids else None
  want = draw(mesh(1), z, eps=eps, ids=given)
  for devices, tile in [(1, 7), (2, None), (4, 3), (8, 4)]:
    got = draw(mesh(devices), z, eps=eps, ids=given, tile=tile)
    np.testing.assert_array_equal(got, want)
  assert all((ids[x] != ids).all() and (x >= 0).all() for x in want)


def test_a_mesh_with_three_axes_changes_nothing(mesh):
  z = embeddings(40)
  np.testing.assert_array_equal(draw(mesh(2, 2, 2), z), draw(mesh(1), z))


def test_another_key_draws_others(mesh):
  """And the same key the same, whatever batch came before."""
  z = embeddings(40)
  first, second = (draw(mesh(2), z, seed=s) for s in (0, 1))
  assert all((a != b).mean() > 0.5 for a, b in zip(first, second, strict=True))
  np.testing.assert_array_equal(draw(mesh(2), z, seed=0), first)


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_where_there_is_none_to_draw_it_is_minus_one(eps, mesh):
  z = embeddings(8)
  found = draw(mesh(2), z, eps=eps, ids=np.full(8, 5, np.int32), tile=3)
  assert all((x == -1).all() for x in found)
  found = draw(mesh(1), z[:, :1], eps=eps)
  assert all((x == -1).all() for x in found)
  # One other id: a single choice for all the rest.
  ids = np.array([4, 4, 4, 4, 4, 4, 9, 4], np.int32)
  found = draw(mesh(2), z, eps=eps, ids=ids, tile=3)
  for x in found:
    assert (np.delete(x, 6) == 6).all() and 0 <= x[6] != 6


def test_bfloat16_rounds_the_inputs_alone(mesh):
  low = jnp.asarray(embeddings(40), jnp.bfloat16)
  back = np.asarray(low, np.float32)
  np.testing.assert_array_equal(draw(mesh(2), low), draw(mesh(2), back))


def test_what_is_not_finite_is_never_out_of_the_batch(mesh):
  z = embeddings(8)
  z[0, 2], z[1, 5] = np.nan, np.inf
  for eps in (0.0, 0.05):
    for x in draw(mesh(2), z, eps=eps):
      assert ((x >= -1) & (x < 8)).all()


@pytest.mark.parametrize("eps", [-1e-4, float("nan")])
def test_a_wrong_eps_is_named(eps):
  z = jnp.asarray(embeddings(4))
  with pytest.raises(errors.UserError, match="eps = "):
    hard_negatives.draw(*z, jax.random.key(0), scale=jnp.float32(1), eps=eps)


def test_wrong_shapes_are_named():
  # Beneath the checks of the test session, which users don't have.
  run = inspect.unwrap(hard_negatives.draw)
  z, key = jnp.ones((4, 6)), jax.random.key(0)
  with pytest.raises(errors.UserError, match=r"ztxt = \(3, 6\); expected"):
    run(z, z[:3], key, scale=jnp.float32(1))
  with pytest.raises(errors.UserError, match=r"ids = \(3,\); expected \(4,\)"):
    run(z, z, key, scale=jnp.float32(1), ids=jnp.ones(3, jnp.int32))


# --- Rows of other devices. ---


def fetching(mesh):
  return sharded(hard_negatives.rows_at, mesh, None, None)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_rows_and_their_gradients_are_those_of_a_gather(devices, mesh):
  """Rows that nobody asks for have no gradient, others that of all who do."""
  r = np.random.default_rng(0)
  x, weights = r.normal(size=(2, 16, 3, 5)).astype(np.float32)
  index = np.array(
    [5, 5, 15, 0, 3, 9, 8, 7, 5, 1, 1, 14, -1, 2, 6, 4], np.int32
  )

  def value(x):
    rows = fetching(mesh(devices))(x, index)
    return (rows * weights).sum(), rows

  (_, rows), grad = jax.jit(jax.value_and_grad(value, has_aux=True))(x)
  asked = np.maximum(index, 0)
  np.testing.assert_array_equal(rows, x[asked])
  want = np.zeros(x.shape)
  np.add.at(want, asked, weights)
  np.testing.assert_allclose(grad, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, jnp.bfloat16])
def test_rows_of_any_type_come_as_they_are(dtype, mesh):
  x = np.arange(1000, 1048).reshape(8, 6).astype(dtype)
  index = np.array([7, 0, 3, 3, 2, 6, 5, 1], np.int32)
  rows = jax.jit(fetching(mesh(4)))(x, index)
  assert rows.dtype == dtype
  np.testing.assert_array_equal(rows, x[index])


def test_any_number_of_rows_can_be_asked_for(mesh):
  x = np.arange(24, dtype=np.float32).reshape(8, 3)
  index = np.array([7, 0, 3, 3, 2, 6, 5, 1] * 2 + [4] * 8, np.int32)
  np.testing.assert_array_equal(jax.jit(fetching(mesh(4)))(x, index), x[index])


def test_draws_have_no_gradient_but_what_is_fetched_has(mesh):
  """So embeddings that choose, and are fetched, are pulled as fetched."""
  zimg, ztxt = embeddings(8)
  run, scale, key = drawing(mesh(2), 0.05), jnp.float32(5), jax.random.key(0)

  def value(zimg, scale):
    found = run(zimg, ztxt, scale, key, None)
    return fetching(mesh(2))(zimg, found.image).sum()

  dzimg, dscale = jax.jit(jax.grad(value, (0, 1)))(zimg, scale)
  times = np.bincount(draw(mesh(2), (zimg, ztxt))[1], minlength=8)
  np.testing.assert_array_equal(dzimg, np.repeat(times[:, None], 8, axis=1))
  assert dscale == 0


# --- Laws of memory and FLOPs, from compiled plans. ---


def shaped(mesh, *shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch(mesh))


@functools.cache
def plan(mesh, size, d=128, with_ids=True):
  z = shaped(mesh, size, d)
  ids = shaped(mesh, size, dtype=jnp.int32) if with_ids else None
  scale = jax.ShapeDtypeStruct((), jnp.float32)
  lowered = drawing(mesh, 1e-4).lower(z, z, scale, jax.random.key(0), ids)
  return lowered.compile({"xla_backend_optimization_level": 3})


def temporary(made) -> float:
  return made.memory_analysis().temp_size_in_bytes / MIB


def test_draws_take_memory_linear_in_the_batch(mesh):
  """A device's rows of the matrix alone would be 128 and 2,048 MiB."""
  small, large = (temporary(plan(mesh(8), n)) for n in (16384, 65536))
  assert large <= 4.2 * small and large <= 40


def test_memory_of_a_device_does_not_grow_with_devices(mesh):
  two, eight = (temporary(plan(mesh(n), 2048 * n)) for n in (2, 8))
  assert eight <= 1.1 * two


def test_flops_of_a_device(mesh):
  """2 B b d, for both directions."""
  size, d = 4096, 64
  exact = 2 * size * (size // 8) * d
  counted = hlo.dot_flops(plan(mesh(8), size, d).as_text())
  assert exact <= counted <= 1.05 * exact


def test_rows_and_their_gradients_take_memory_of_a_devices_rows(mesh):
  """Eight parts would be kept by a gather, or by autodiff of a loop."""

  def pulled(x, index, by, axis):
    run = functools.partial(hard_negatives.rows_at, index=index, axis=axis)
    rows, pull = jax.vjp(run, x)
    return rows, *pull(by * rows)

  devices = mesh(8)
  x = shaped(devices, 64 * 8, 32, 128)
  index = shaped(devices, 64 * 8, dtype=jnp.int32)
  run = sharded(pulled, devices, None, None, None)
  lowered = jax.jit(run).lower(x, index, x)
  made = lowered.compile({"xla_backend_optimization_level": 3})
  part = 64 * 32 * 128 * 4 / MIB
  assert temporary(made) <= 4 * part
