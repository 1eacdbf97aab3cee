"""The step: the same on every mesh, frozen means frozen, one trace."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive.config import rules
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding
from big_contrastive.training import step

# Each mesh and recipe is compiled once for all tests of this file.
train = functools.cache(tiny.train)


def assert_same_training(a, b, rtol=2e-5, atol=2e-6):
  np.testing.assert_allclose(a[0], b[0], rtol=rtol)
  ours, theirs = rules.flatten(a[1].params), rules.flatten(b[1].params)
  for name in ours:
    np.testing.assert_allclose(
      ours[name], theirs[name], rtol=rtol, atol=atol, err_msg=name
    )


@pytest.mark.parametrize(
  "loss", [pytest.param("sigmoid", marks=pytest.mark.slow), "softmax"]
)
def test_training_on_eight_devices_is_training_on_one(loss, mesh):
  """Masked patches and dropout included: drawn by example, not by device."""
  one = train(mesh(1), loss=loss)
  for shape in ((8,), (2, 2, 2)):
    assert_same_training(one, train(mesh(*shape), loss=loss))


@pytest.mark.slow
def test_fsdp_is_replication(mesh):
  copies = train(mesh(8))
  split = train(mesh(2, 4))
  assert_same_training(copies, split)
  sizes = {
    name: {s.data.size for s in leaf.addressable_shards}
    for name, leaf in rules.flatten(split[1].params).items()
  }
  kernel = "img/encoder/blocks/mlp/fc1/kernel"
  assert sizes[kernel] == {2 * 32 * 128 // 4}
  moments = [
    leaf for leaf in jax.tree.leaves(split[1].opt)
    if leaf.shape == (2, 32, 128)
  ]  # fmt: skip
  assert moments and all(
    m.addressable_shards[0].data.size == 2 * 32 * 128 // 4 for m in moments
  )


@pytest.mark.slow
def test_tensor_rules_change_nothing_but_the_place(mesh):
  rules = (
    (".*/blocks/mlp/fc1/kernel", (None, None, "tensor")),
    (".*/blocks/mlp/fc2/kernel", (None, "tensor", None)),
    (".*", "replicate"),
  )
  split = train(mesh(2, 1, 2), rules=rules)
  assert_same_training(train(mesh(1)), split)
  kernel = split[1].params["img"]["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (2, 32, 64)


def test_the_step_is_traced_once(mesh, monkeypatch):
  traces, update = [], step.Step.update

  def counted(recipe, state, batch):
    traces.append(1)
    return update(recipe, state, batch)

  monkeypatch.setattr(step.Step, "update", counted)
  placed = tiny.place(tiny.make_step(mesh(2))[0], mesh(2))
  state = placed.init()
  for i in range(3):
    state, _ = placed.update(state, tiny.batch(mesh(2), i))
  assert len(traces) == 1


def test_the_state_is_donated(mesh):
  placed = tiny.place(tiny.make_step(mesh(2))[0], mesh(2))
  state = placed.init()
  placed.update(state, tiny.batch(mesh(2), 0))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_init_never_holds_unsharded_weights(mesh):
  placed = step.place(
    tiny.make_step(mesh(1, 8))[0], mesh(1, 8), [(".*", "fsdp")]
  )
  plan = placed.init.lower().compile().memory_analysis()
  whole = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(placed.abstract)
  )
  assert plan.output_size_in_bytes < whole / 4


def gradients(mesh, **kwargs):
  recipe, _ = tiny.make_step(mesh, **kwargs)
  flat = rules.flatten(recipe.objective.init(jax.random.key(1)))

  def value(trained):
    params = rules.unflatten(flat | trained)
    batch, rng = tiny.batch(mesh, 0), jax.random.key(2)
    return recipe.objective(params, {}, batch, rng, 0)

  run = jax.jit(jax.value_and_grad(value, has_aux=True))
  (loss, _), grads = run({k: flat[k] for k in recipe.trained})
  return loss, jax.device_get(grads)


@pytest.mark.parametrize(
  ("loss", "frozen", "micro_batches"),
  [
    pytest.param(
      "sigmoid",
      (),
      [(1, (8, 8)), (1, (2, 16)), (2, (8, 2))],
      marks=pytest.mark.slow,
    ),
    ("softmax", (), [(2, (2, 8))]),
    ("sigmoid", ("img",), [(1, (2, 8))]),
    pytest.param("softmax", ("txt",), [(2, (8, 2))], marks=pytest.mark.slow),
  ],
)
def test_micro_batches_have_the_gradients_of_the_whole_batch(
  loss, frozen, micro_batches, mesh
):
  """Masked patches, dropout, t and b included; each tower on its own."""
  kwargs = dict(loss=loss, freeze=frozen, keep=1.0 if frozen else 0.5)
  whole, whole_grads = gradients(mesh(1), **kwargs)
  # In the max norm of the whole gradient: some of its parts are all but 0.
  most = max(np.abs(grad).max() for grad in whole_grads.values())
  for devices, (image, text) in micro_batches:
    sizes = {"image": image, "text": text}
    value, grads = gradients(mesh(devices), micro_batch=sizes, **kwargs)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    assert "t" in grads and ("b" in grads) == (loss == "sigmoid")
    for name, grad in grads.items():
      np.testing.assert_allclose(
        grad, whole_grads[name], rtol=0, atol=1e-6 * most, err_msg=name
      )


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_frozen_tower_keeps_every_bit_and_has_no_optimizer_state(
  optimizer, mesh
):
  kwargs = dict(freeze=("img",), keep=1.0, optimizer=optimizer)
  placed = tiny.place(tiny.make_step(mesh(2), **kwargs)[0], mesh(2))
  before = jax.device_get(placed.init().params)
  _, state, _ = tiny.train(mesh(2), **kwargs)
  chex.assert_trees_all_equal(before["img"], state.params["img"])
  assert not np.array_equal(before["txt"]["pos"], state.params["txt"]["pos"])
  paths = jax.tree_util.tree_flatten_with_path(state.opt)[0]
  assert not [p for p, _ in paths if "img/" in jax.tree_util.keystr(p)]


def test_a_frozen_tower_has_no_backward_and_no_dropout(mesh):
  """Its dropout would be 50 %: the same embedding each step says it's off."""
  locked, graph = tiny.make_step(
    mesh(1), freeze=("img",), keep=1.0, dropout=0.5
  )
  free, _ = tiny.make_step(mesh(1), keep=1.0, dropout=0.5)

  def dots(recipe):
    state = jax.eval_shape(recipe.init)
    batch = tiny.batch(mesh(1), 0)
    text = str(jax.make_jaxpr(recipe.update)(state, batch))
    return text.count("dot_general")

  assert dots(locked) < 0.7 * dots(free)
  state, batch = locked.init(), tiny.batch(mesh(1), 0)
  model = merge(graph, state.params)
  zimg = model.embed_image(batch["image"])
  seen = {}

  def spy(zimg, ztxt, **kwargs):
    jax.debug.callback(lambda z: seen.update(z=np.asarray(z)), zimg)
    return jax.lax.psum((zimg * ztxt).sum(), kwargs["axis"])

  objective = dataclasses.replace(locked.objective, loss=spy, mask_ids=False)
  key = jax.random.key(1)
  loss = lambda: objective(state.params, {}, batch, key, 0)  # noqa: E731
  jax.block_until_ready(jax.jit(loss)())
  jax.effects_barrier()
  np.testing.assert_allclose(seen["z"], zimg, rtol=1e-5, atol=1e-5)


def test_every_step_draws_other_patches_and_repeats_exactly(mesh):
  recipe, _ = tiny.make_step(mesh(1), lr=0.0, dropout=0.0)
  placed = tiny.place(recipe, mesh(1))

  def losses():
    state, found = placed.init(), []
    for _ in range(3):
      state, metrics = placed.update(state, tiny.batch(mesh(1), 0))
      found.append(float(metrics["loss"]))
    return found

  first = losses()
  assert len(set(first)) == 3  # Same weights and pairs: only the mask differs.
  assert losses() == first


def test_t_is_clipped_after_the_update(mesh):
  _, state, _ = tiny.train(mesh(1), steps=1, scale_max=9.0)
  np.testing.assert_allclose(state.params["t"], np.log(9.0), rtol=1e-6)


@pytest.mark.slow
def test_logit_means_are_those_of_the_matrix(mesh):
  recipe, graph = tiny.make_step(mesh(4), keep=1.0, dropout=0.0)
  placed = tiny.place(recipe, mesh(4))
  state, batch = placed.init(), tiny.batch(mesh(4), 0)
  model = merge(graph, jax.device_get(state.params))
  zimg = np.asarray(model.embed_image(jnp.asarray(np.asarray(batch["image"]))))
  ztxt = np.asarray(model.embed_text(jnp.asarray(np.asarray(batch["text"]))))
  logits = np.exp(2.3) * zimg @ ztxt.T - 10
  _, metrics = placed.update(state, batch)
  off = logits[~np.eye(len(logits), dtype=bool)]
  np.testing.assert_allclose(
    metrics["logit_positive"], np.diag(logits).mean(), rtol=1e-4
  )
  np.testing.assert_allclose(metrics["logit_negative"], off.mean(), rtol=1e-4)


def test_both_towers_in_bfloat16_train(mesh):
  losses, state, _ = tiny.train(mesh(2), dtype="bfloat16")
  assert np.isfinite(losses).all()
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(state.params)}
  assert dtypes == {jnp.dtype("float32")}


def test_rows_of_all_processes_make_the_batch(mesh):
  for shape in ((8,), (2, 2, 2), (1, 4)):
    rows = sharding.local_rows(16, mesh(*shape))
    np.testing.assert_array_equal(rows, np.arange(16))
