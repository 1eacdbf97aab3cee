"""Bad numbers stop a run or are skipped; warnings say what is usual."""

import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive.config import errors, registry, rules
from big_contrastive.objectives import pairs
from big_contrastive.training import health, step

NAMES = ["the loss", "the update", "the gradient of t"]


def make(folder, warmup=0, skip_nonfinite=False, **fields):
  limits = health.Limits(pairs.Pairs(None, **fields), warmup, skip_nonfinite)
  return health.Health(limits, NAMES, folder, str, skipped=0)


def batch(size=40, same=0, ids=None):
  text = np.arange(size, dtype=np.int32)[:, None] * [1, 0]
  text[:same] = text[0]
  ids = np.arange(size) if ids is None else ids
  return {"text": text.astype(np.int32), "id": ids, "position": 80 + ids}


def test_a_bad_step_stops_the_run_and_keeps_its_batch(tmp_path):
  watch = make(tmp_path)
  assert watch.check(1, np.array([True, True, True]), 1.0, batch()) is None
  with pytest.raises(errors.RunError, match="not finite: the parameters"):
    watch.check(1, np.array([True, True, True]), float("nan"), batch())
  with pytest.raises(errors.RunError, match="step 2: .*the gradient of t") as e:
    watch.check(2, np.array([True, True, False]), 1.0, batch())
  assert e.value.code == errors.BAD_NUMBERS == 3
  with np.load(tmp_path / "step_2_process_0.npz") as kept:
    np.testing.assert_array_equal(kept["text"], batch()["text"])
  told = json.loads((tmp_path / "step_2_process_0.json").read_text())
  assert told["ids"] == list(range(40)) and told["step"] == 2
  assert told["positions"] == list(range(80, 120))
  assert told["not_finite"] == ["the gradient of t"]


def test_skipped_steps_are_counted_and_too_many_in_a_row_stop(tmp_path):
  watch = make(tmp_path, skip_nonfinite=True)
  bad, fine = np.array([False, True, True]), np.array([True, True, True])
  for i in range(3):
    assert "Skipped; " in watch.check(i, bad, 1.0, batch())
  assert watch.check(3, fine, 1.0, batch()) is None
  assert watch.skipped == 3 and not list(tmp_path.iterdir())
  with pytest.raises(errors.RunError, match="20 skipped steps in a row"):
    for i in range(20):
      watch.check(4 + i, bad, 1.0, batch())


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("size", [2, 16, 300])
def test_chance_is_the_best_that_equal_embeddings_get(loss, size):
  """By the loss itself, over a grid of biases."""
  module = registry.module("losses", loss, "")
  z = jnp.tile(jnp.eye(1, 4), (size, 1))
  at = jax.jit(lambda b: module.loss(z, z, scale=jnp.float32(1), bias=b))
  biases = jnp.linspace(-9, 2, 111) if loss == "sigmoid" else [None]
  found = [float(at(b)) for b in biases]
  chance = module.chance(size)
  assert chance <= min(found) + 1e-4
  assert min(found) == pytest.approx(chance, abs=2e-3)


def test_guessing_after_warm_up_is_told_once(tmp_path):
  chance = math.log(64)
  watch = make(tmp_path, guess=chance, warmup=100)
  told = [
    watch.warnings(s, {"train/loss": chance, "train/t": 1.0}, batch())
    for s in range(0, 400, 10)
  ]
  assert not any(told[:20]) and sum(map(len, told)) == 1
  (line,) = next(filter(None, told))
  assert "guessing (4.159)" in line and "wrong images" in line
  learning = make(tmp_path, guess=chance, warmup=100)
  for s in range(0, 400, 10):
    assert not learning.warnings(
      s, {"train/loss": 0.9 * chance, "train/t": 1.0}, batch()
    )


def test_a_temperature_at_its_bound_is_told(tmp_path):
  watch = make(tmp_path, t_max=math.log(100))
  values = {"train/loss": 1.0, "train/t": 4.5}
  assert not watch.warnings(1, values, batch())
  (line,) = watch.warnings(2, values | {"train/t": math.log(100)}, batch())
  assert "exp(t) = 100.0" in line


def test_equal_captions_are_told_unless_their_ids_say_so(tmp_path):
  values = {"train/loss": 1.0, "train/t": 1.0}
  assert not make(tmp_path).warnings(1, values, batch(same=4))
  (line,) = make(tmp_path).warnings(1, values, batch(same=21))
  assert "50% of the captions" in line and "equal id" in line
  ids = np.maximum(np.arange(40), 20)
  assert not make(tmp_path).warnings(1, values, batch(same=21, ids=ids[::-1]))
  blind = make(tmp_path, mask_ids=False)
  assert blind.warnings(1, values, batch(same=21, ids=ids[::-1]))


@jax.custom_jvp
def silent(x, slope):
  """Zero; its derivative is `slope`."""
  return 0.0 * x


@silent.defjvp
def _(primals, tangents):
  return 0.0 * primals[0], primals[1] * tangents[0]


def poisoned(mesh, **kwargs):
  """A step in which a batch with the id 99 has NaN as txt/pos's gradient."""
  recipe, _ = tiny.make_step(mesh, keep=1.0, dropout=0.0)
  objective = recipe.objective

  class Bad(pairs.Pairs):
    def __call__(self, params, extra, batch, rng, step):
      loss, rest = objective(params, extra, batch, rng, step)
      broken = jnp.where(batch["id"][0] == 99, jnp.nan, 0.0)
      return loss + silent(params["txt"]["pos"].sum(), broken), rest

  object.__setattr__(recipe, "objective", Bad(objective.setting))
  for key, value in kwargs.items():
    object.__setattr__(recipe, key, value)
  return recipe


@pytest.mark.parametrize("skip", [False, True])
def test_the_step_names_what_is_not_finite_and_skips_it(skip, mesh):
  recipe = poisoned(mesh(1), skip_nonfinite=skip)
  placed = step.place(recipe, mesh(1), [(".*", "replicate")])
  state = placed.init()
  fine, broken = tiny.batch(mesh(1), 0), tiny.batch(mesh(1), 1)
  broken["id"] = broken["id"].at[0].set(99)
  state, values = placed.update(state, fine)
  assert np.asarray(values["finite"]).all()
  before = jax.device_get(state)
  state, values = placed.update(state, broken)
  finite = np.asarray(values["finite"])
  wrong = {n for n, ok in zip(placed.checked, finite, strict=True) if not ok}
  assert "the gradient of txt/pos" in wrong and "the loss" not in wrong
  assert "the gradient of img/pos" not in wrong
  assert state.step == before.step + 1
  flat = rules.flatten(jax.device_get(state.params))
  if not skip:
    assert np.isnan(flat["txt/pos"]).all()
    return
  chex.assert_trees_all_equal(before.params, state.params)
  # Nothing but the schedule goes on: it is about the steps of the run.
  *optimizer, schedule = state.opt
  *kept, last = before.opt
  chex.assert_trees_all_equal(kept, optimizer)
  assert schedule.count == last.count + 1
  state, values = placed.update(state, tiny.batch(mesh(1), 2))
  assert np.asarray(values["finite"]).all()
  assert not np.array_equal(flat["t"], state.params["t"])
  # A NaN in a token that no text of the batch has: the loss is finite.
  last = tiny.batch(mesh(1), 3)
  token = min(set(range(64)) - set(np.asarray(last["text"]).ravel().tolist()))
  flat = rules.flatten(state.params)
  flat["txt/embed/embedding"] = (
    flat["txt/embed/embedding"].at[token].set(jnp.nan)
  )
  state = state._replace(params=rules.unflatten(flat))
  values = jax.device_get(placed.update(state, last)[1])
  found = dict(zip(placed.checked, values["finite"], strict=True))
  assert found["the loss"] and np.isnan(values["param_norm"])
