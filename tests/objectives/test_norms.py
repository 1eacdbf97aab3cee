"""Batch normalization in a tower: state, devices, micro-batches, loading."""

import pathlib

import chex
import jax
import numpy as np
import pytest

import big_contrastive
import tiny
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.parallel import sharding
from big_contrastive.training import loop

TOWER = str(pathlib.Path(__file__).parents[1] / "normed_tower.py")


def config(**changes):
  """SigLIP whose image tower has a batch norm, for four steps."""
  made = tiny.load("siglip", "smoke")
  group = changes.pop("norm_group", None)
  made["model"]["image"] = {"tower": TOWER, "res": 32, "norm_group": group}
  made["model"]["dtype"] = "float32"
  del made["evals"]
  return made | {"total": 4, "save_every": 2, "log_every": 1} | changes


def run(devices, steps=2, **changes):
  """The state after some steps, and the losses."""
  made = experiment.build(config(**changes), jax.devices()[:devices])
  state, losses = made.first(), []
  batches = made.training.batches(0, steps, lambda b: jax.tree.map(np.copy, b))
  for batch in batches:
    batch = sharding.to_global(batch, 16, made.placed.mesh)
    state, metrics = made.placed.update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)


def test_statistics_are_extra_and_follow_the_batches():
  losses, state = run(1, steps=1)
  statistics = rules.flatten(state.extra["statistics"])
  assert statistics.keys() == {"img/norm/mean", "img/norm/var"}
  made = experiment.build(config(), jax.devices()[:1])
  first = jax.device_get(made.first())
  assert not statistics.keys() & rules.flatten(first.params).keys()
  batch = next(made.training.batches(0, 1))
  x = batch["image"].astype(np.float64) / 127.5 - 1
  x = x.reshape(16, 4, 8, 4, 8, 3).mean((2, 4)).reshape(16, -1)
  fc = first.params["img"]["fc1"]
  y = x @ fc["kernel"].astype(np.float64)
  chex.assert_trees_all_close(
    statistics["img/norm/mean"], 0.1 * y.mean(0), atol=1e-6
  )
  expected = 0.9 + 0.1 * y.var(0, ddof=1)
  chex.assert_trees_all_close(statistics["img/norm/var"], expected, atol=1e-6)


@pytest.mark.parametrize("group", [None, 4])
def test_devices_change_nothing(group):
  """Nor do micro-batches of whole groups."""
  expected = run(1, norm_group=group)
  for devices, micro in ((2, None), (8, None), (2, 8)):
    if micro and not group:
      continue  # Refused, see below.
    losses, state = run(devices, norm_group=group, micro_batch=micro)
    np.testing.assert_allclose(losses, expected[0], rtol=2e-6)
    chex.assert_trees_all_close(
      state.extra, expected[1].extra, rtol=1e-5, atol=1e-6
    )


def test_micro_batches_that_cut_a_group_are_refused():
  with pytest.raises(errors.UserError, match="norm_group = None"):
    experiment.build(config(micro_batch=8), jax.devices()[:1])
  with pytest.raises(errors.UserError, match=r"norm_group = 4.*divisor of 2"):
    made = config(micro_batch=8, norm_group=4)
    experiment.build(made, jax.devices()[:4])
  frozen = config(micro_batch=8, freeze=[("img/.*", True), (".*", False)])
  experiment.build(frozen, jax.devices()[:1])


def test_a_frozen_tower_keeps_its_statistics():
  _, state = run(1, freeze=[("img/.*", True), (".*", False)])
  statistics = state.extra["statistics"]["img"]["norm"]
  assert not statistics["mean"].any() and (statistics["var"] == 1).all()


def test_statistics_are_saved_resumed_loaded_and_warm_started(tmp_path):
  whole = loop.fit(
    experiment.build(config(), jax.devices()[:2]), tmp_path / "whole"
  )
  half = experiment.build(config(total=2), jax.devices()[:2])
  loop.fit(half, tmp_path / "half")
  resumed = loop.fit(
    experiment.build(config(), jax.devices()[:2]), tmp_path / "half"
  )
  assert whole["train/loss"] == resumed["train/loss"]
  a, b = (big_contrastive.load(tmp_path / name) for name in ("whole", "half"))
  chex.assert_trees_all_equal(a.params, b.params)
  norm = a.params["img"]["norm"]
  assert {"mean", "var", "scale", "bias"} == norm.keys()
  assert np.abs(norm["mean"]).max() > 0
  paths = {"img": str(tmp_path / "whole")}, {"all": str(tmp_path / "whole")}
  for init in (*paths, str(tmp_path / "whole")):
    made = experiment.build(config(init=init), jax.devices()[:2])
    state = made.first()
    chex.assert_trees_all_equal(made.weights(state)["img"], a.params["img"])
  pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
  one = [a.encode_image(pictures[i : i + 1]) for i in range(3)]
  np.testing.assert_allclose(
    a.encode_image(pictures), np.concatenate(one), atol=1e-6
  )


def test_an_average_is_exported_with_that_of_the_statistics(tmp_path):
  made = experiment.build(config(ema=0.9, total=2), jax.devices()[:2])
  loop.fit(made, tmp_path)
  found = big_contrastive.load(tmp_path).params["img"]["norm"]
  expected = {"mean": 0.0, "var": 1.0}
  for steps in (1, 2):
    new = run(2, steps, total=2)[1].extra["statistics"]["img"]["norm"]
    expected = {k: 0.9 * v + 0.1 * new[k] for k, v in expected.items()}
  for name, wanted in expected.items():
    np.testing.assert_allclose(found[name], wanted, rtol=1e-6, atol=1e-7)


def test_an_average_leaves_a_frozen_towers_statistics_alone():
  frozen = [("img/.*", True), (".*", False)]
  made = experiment.build(config(ema=0.9, freeze=frozen), jax.devices()[:1])
  state = made.first()
  assert "img" not in state.extra["ema"]
  assert {"mean", "var"} < made.weights(state)["img"]["norm"].keys()
