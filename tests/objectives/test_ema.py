"""The moving average of the weights: its formula, meshes, restart, memory."""

import math

import chex
import jax
import numpy as np
import pytest

import tiny
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.training import loop, step
from big_contrastive.training.state import State

DECAY = 0.7


def states(mesh, steps=3, shard=((".*", "fsdp"),), **kwargs):
  placed = tiny.place(tiny.make_step(mesh, **kwargs)[0], mesh, shard)
  state = placed.init()
  yield jax.device_get(state)
  for i in range(steps):
    state, _ = placed.update(state, tiny.batch(mesh, i))
    yield jax.device_get(state)


def test_it_is_the_average_of_the_parameters_after_each_update(mesh):
  """In float64, from the parameters of a run without it."""
  plain = [rules.flatten(s.params) for s in states(mesh(1))]
  *_, last = states(mesh(1), ema=DECAY)
  expected = {k: np.float64(x) for k, x in plain[0].items()}
  for params in plain[1:]:
    for name, x in params.items():
      expected[name] = DECAY * expected[name] + (1 - DECAY) * np.float64(x)
  for name, x in rules.flatten(last.extra["ema"]).items():
    np.testing.assert_allclose(x, expected[name], rtol=2e-6, atol=1e-7)
  # And it changes nothing of the training.
  for name, x in rules.flatten(last.params).items():
    np.testing.assert_array_equal(x, plain[-1][name], err_msg=name)


@pytest.mark.slow
def test_it_is_the_same_on_eight_devices_and_sharded(mesh):
  *_, one = states(mesh(1), ema=DECAY)
  for over in (mesh(8), mesh(2, 4)):
    *_, other = states(over, ema=DECAY)
    chex.assert_trees_all_close(one.extra, other.extra, rtol=1e-4, atol=1e-6)


def test_frozen_parameters_are_kept_once(mesh):
  *_, last = states(mesh(1), ema=DECAY, freeze=("img",), keep=1.0)
  assert set(last.extra["ema"]) == {"txt", "t", "b"}
  recipe, _ = tiny.make_step(mesh(1), ema=DECAY, freeze=("img",), keep=1.0)
  exported = recipe.objective.exported(last.params, last.extra)
  assert exported["img"] is last.params["img"] or np.array_equal(
    exported["img"]["pos"], last.params["img"]["pos"]
  )
  np.testing.assert_array_equal(
    exported["txt"]["pos"], last.extra["ema"]["txt"]["pos"]
  )


@pytest.mark.slow
def test_sharded_it_takes_its_part_of_the_memory_alone(mesh):
  """Bytes of arguments of the compiled step, on one of four fsdp devices."""
  over = mesh(1, 4)

  def bytes_of(ema, shard):
    placed = step.place(tiny.make_step(over, ema=ema)[0], over, shard)
    lowered = placed.update.lower(placed.abstract, tiny.batch(over, 0))
    return lowered.compile().memory_analysis().argument_size_in_bytes

  def added(shard):
    return bytes_of(DECAY, shard) - bytes_of(None, shard)

  params = jax.eval_shape(tiny.make_step(over)[0].init).params
  whole = 4 * sum(map(math.prod, rules.shapes(params).values()))
  assert added([(".*", "replicate")]) == pytest.approx(whole, rel=0.01)
  # All but what no axis of divides by four.
  assert added([(".*", "fsdp")]) < 0.3 * whole


def config(**changes):
  # In bfloat16 figures of 8 devices may be another rank than those of 2.
  made = tiny.load("siglip", "smoke", "--config.model.dtype=float32")
  made |= {"total": 4, "ema": DECAY}
  return made | {"save_every": 2} | changes


@pytest.mark.slow
def test_it_is_evaluated_saved_for_others_and_resumed_bit_for_bit(tmp_path):
  import big_contrastive

  devices = jax.devices()[:2]
  made = experiment.build(config(), devices)
  latest = loop.fit(made, tmp_path / "whole")
  loop.fit(experiment.build(config(total=2), devices), tmp_path / "resumed")
  loop.fit(experiment.build(config(), devices), tmp_path / "resumed")
  a, b = (
    big_contrastive.load(tmp_path / name).params
    for name in ("whole", "resumed")
  )
  chex.assert_trees_all_equal(a, b)
  from big_contrastive.checkpoints import checkpointer

  directory = tmp_path / "whole/checkpoints/4"
  trained = checkpointer._read_host(directory, "params")
  average = checkpointer._read_host(directory, "extra")["ema"]
  chex.assert_trees_all_equal(a, average)
  assert not np.array_equal(a["img"]["pos"], trained["img"]["pos"])
  # The figures of the run are those of the average.
  from big_contrastive.factory import evaluators

  ((name, section),) = made.config["evals"].items()
  run = evaluators.evaluator(section, "evals")
  model = big_contrastive.load(tmp_path / "whole", batch_size=16)
  figures = dict(run(model.embedder.bound(model.params)))
  for key, value in figures.items():
    if isinstance(value, float):
      assert latest[f"eval/retrieval/{name}/{key}"] == pytest.approx(value)


@pytest.mark.slow
def test_it_begins_with_pretrained_weights(tmp_path):
  """And not with the random ones that they replace."""
  devices = jax.devices()[:1]
  loop.fit(experiment.build(config(ema=None), devices), tmp_path / "before")
  warm = config(init=str(tmp_path / "before"), model={}, evals={})
  del warm["tokenizer"]
  state = experiment.build(warm, devices).first()
  assert isinstance(state, State)
  chex.assert_trees_all_equal(state.params, state.extra["ema"])


def test_another_decay_goes_on_and_none_is_an_error(tmp_path):
  devices = jax.devices()[:1]
  loop.fit(experiment.build(config(total=2, evals={}), devices), tmp_path)
  other = experiment.build(config(ema=None, evals={}), devices)
  with pytest.raises(errors.UserError, match="config.objective and config.ema"):
    loop.fit(other, tmp_path)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_out_of_range_is_one_line(value):
  with pytest.raises(errors.UserError, match="config.ema = .*; expected"):
    experiment.build(config(ema=value), jax.devices()[:1])
