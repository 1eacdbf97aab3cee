"""An optimizer from its sections of a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive.config import errors
from big_contrastive.factory import experiment, parts, reading

NAMES = ["img/fc/kernel", "head/predictor/kernel", "head/predictor/bias"]
UNIT = {"batch_size": 4, "epoch": 20, "total": 50}
PLAIN = {"name": "sgd", "lr": 0.5, "momentum": 0.0}
PREDICTOR = [("head/predictor/.*", {"decay": "constant"}), (".*", None)]


def optimizer(config=PLAIN, schedule=None, own=None, start=None, **factors):
  rules = {"decay": [(".*", 1.0)], "lr_mult": [(".*", 1.0)]} | factors
  schedule = {"decay": "cosine"} if schedule is None else schedule
  return parts.optimizer(config, schedule, rules, NAMES, UNIT, own, start=start)


def moved(tx, steps):
  """The update of each step by name, for gradients of -1."""
  params = {k: jnp.ones((1,)) for k in NAMES}
  state, found = tx.init(params), []
  for _ in range(steps):
    updates, state = tx.update(
      {k: -p for k, p in params.items()}, state, params
    )
    found.append({k: float(u[0]) for k, u in updates.items()})
  return found


def test_a_predictor_keeps_its_rate_while_the_rest_follows_the_cosine():
  """SimSiam's, with an epoch of 5 steps and ten of them."""
  schedule = {"decay": "cosine", "every": "1 epoch"}
  rate, tx = optimizer(schedule=schedule, own=PREDICTOR)
  for step, updates in enumerate(moved(tx, 12)):
    cosine = 0.5 * 0.5 * (1 + np.cos(np.pi * (step // 5) / 10))
    np.testing.assert_allclose(updates["img/fc/kernel"], cosine, rtol=1e-6)
    # The rate of the metrics is that of config.schedule.
    np.testing.assert_allclose(rate(step), cosine, rtol=1e-6)
    assert updates["head/predictor/kernel"] == 0.5
    assert updates["head/predictor/bias"] == 0.5


def test_a_schedule_of_its_own_has_durations_of_its_own():
  own = [
    (".*/bias", {"decay": "steps", "milestones": ["1 epoch", "50%"]}),
    ("head/.*", {"decay": "constant", "warmup": "8 examples"}),
    (".*", None),
  ]
  _, tx = optimizer(schedule={"decay": "constant"}, own=own)
  found = moved(tx, 26)
  for name, steps in {
    "img/fc/kernel": {0: 0.5, 25: 0.5},
    "head/predictor/kernel": {0: 0.25, 1: 0.5, 25: 0.5},
    "head/predictor/bias": {4: 0.5, 5: 0.05, 24: 0.05, 25: 0.005},
  }.items():
    for step, wanted in steps.items():
      np.testing.assert_allclose(found[step][name], wanted, rtol=1e-6)


def test_the_state_is_the_same_with_schedules_of_their_own():
  """So a run goes on after a change of config.schedules."""
  params = {k: jnp.ones((2,)) for k in NAMES}
  for config in (PLAIN, {"name": "adamw", "lr": 0.1}):
    one, two = (optimizer(config, own=own)[1] for own in (None, PREDICTOR))
    assert jax.tree.structure(one.init(params)) == jax.tree.structure(
      two.init(params)
    )


def test_lr_mult_and_decay_are_those_of_each_rule():
  _, tx = optimizer(
    PLAIN | {"weight_decay": 0.5}, {"decay": "constant"},
    decay=[(".*/bias", 0.0), ("img/.*", 2.0), (".*", 1.0)],
    lr_mult=[("img/.*", 0.1), (".*", 1.0)],
  )  # fmt: skip
  (updates,) = moved(tx, 1)
  # p = 1 and g = -1: 0.5 * lr_mult * (1 - 0.5 * decay).
  assert updates == pytest.approx({
    "img/fc/kernel": 0.0, "head/predictor/kernel": 0.25,
    "head/predictor/bias": 0.5,
  })  # fmt: skip


def test_parameters_start_at_durations():
  start = [
    ("img/.*", "1 epochs"), (".*/bias", "12 examples"), (".*", 0)
  ]  # fmt: skip
  _, tx = optimizer(start=start, schedule={"decay": "constant"})
  found = moved(tx, 6)
  for name, first in zip(NAMES, (5, 0, 3), strict=True):
    assert [u[name] for u in found] == [0.0] * first + [0.5] * (6 - first)


def test_lars_adapts_by_rules():
  lars = {"name": "lars", "lr": 1.0, "eta": 0.125, "weight_decay": 0.0}
  decay = [(".*/kernel", 1.0), (".*", 0.0)]
  _, tx = optimizer(lars, {"decay": "constant"}, decay=decay)
  (updates,) = moved(tx, 1)
  assert updates["img/fc/kernel"] == 0.125 and updates[NAMES[2]] == 1.0
  adapt = [("img/.*", False), (".*", True)]
  _, tx = optimizer(lars, {"decay": "constant"}, decay=decay, adapt=adapt)
  (updates,) = moved(tx, 1)
  assert updates["img/fc/kernel"] == 1.0 and updates[NAMES[2]] == 0.125


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"own": []}, "config.schedules = 'img/fc/kernel'; expected a rule for"),
    ({"own": [(".*", 3)]}, r"config.schedules\[0\] = 3; expected a section"),
    ({"own": [("x", None), (".*", None)]}, r"config.schedules\[0\] = 'x'"),
    ({"own": [(".*",)]}, r"config.schedules = \('.\*',\)"),
    (
      {"own": [("head/.*", None), (".*", {"decay": "cosin"})]},
      r"config.schedules\[1\].decay = 'cosin'; .*'cosine'",
    ),
    (
      {"own": [(".*", {"decay": "constant", "warmup": "3 weeks"})]},
      r"config.schedules\[0\].warmup = '3 weeks'",
    ),
    (
      {"own": [(".*", {"decay": "constant", "warmup": 51})]},
      r"config.schedules\[0\].warmup = 51; .*50 steps",
    ),
    (
      {"schedule": {"decay": "steps", "milestones": ["1 epoch", "x"]}},
      r"config.schedule.milestones\[1\] = 'x'",
    ),
    (
      {"schedule": {"decay": "steps", "milestones": "1 epoch"}},
      "config.schedule.milestones = '1 epoch'; expected list",
    ),
    (
      {"schedule": {"decay": "steps", "milestones": [30, 20]}},
      r"config.schedule.milestones = \[30, 20\]; .*ascending",
    ),
    (
      {"schedule": {"decay": "cosine", "every": "0%"}},
      "config.schedule.every = 0; expected one step or more",
    ),
    (
      {"schedule": {"decay": "cosine", "warmup_includes": "none"}},
      "config.schedule.warmup_includes = 'none'; expected one of 'peak'",
    ),
    ({"config": PLAIN | {"momentum": 1.0}}, "config.optimizer.momentum = 1.0"),
    ({"config": PLAIN | {"nesterov": 1}}, "config.optimizer.nesterov = 1"),
    ({"config": PLAIN | {"clip": 0.0}}, "config.optimizer.clip = 0.0"),
    (
      {"config": PLAIN | {"weight_decay": -1.0}},
      "config.optimizer.weight_decay = -1.0",
    ),
    (
      {"config": {"name": "lars", "lr": 1.0, "variant": "lamb"}},
      "config.optimizer.variant = 'lamb'; expected one of 'byol'",
    ),
    (
      {"config": {"name": "lars", "lr": 1.0, "eta": -1.0}},
      "config.optimizer.eta = -1.0",
    ),
    (
      {"config": {"name": "lars", "lr": 1.0}, "adapt": [(".*", "yes")]},
      "config.adapt = 'yes'; expected True or False",
    ),
    (
      {"config": PLAIN | {"clip": 1.0, "clip_each": 3.0}},
      "config.optimizer.clip_each = 3.0; expected None beside clip",
    ),
    (
      {"config": PLAIN | {"final_weight_decay": -0.4}},
      "config.optimizer.final_weight_decay = -0.4",
    ),
    (
      {"config": {"name": "lars", "lr": 1.0, "final_weight_decay": 0.4}},
      "config.optimizer.final_weight_decay = 0.4; expected None with",
    ),
    ({"start": [("img/.*", 3)]}, "config.start = .*expected a rule for every"),
    (
      {"start": [("img/x", 3), (".*", 0)]},
      r"config.start\[0\] = 'img/x'; .*the first to match",
    ),
    ({"start": [(".*", "3 weeks")]}, "config.start = '3 weeks'"),
    ({"start": [(".*", -3)]}, "config.start = -3"),
    (
      {"start": [("img/.*", "10 epochs"), (".*", 0)]},
      "config.start = '10 epochs'; expected a step of the run, .* 50. img/fc",
    ),
    (
      {"adapt": [(".*", True)]},
      "config.adapt = .*; expected None with the optimizer sgd",
    ),
  ],
)
def test_a_wrong_value_is_one_line_with_its_place(kwargs, said):
  with pytest.raises(errors.UserError, match=said) as e:
    optimizer(**kwargs)
  assert "\n" not in str(e.value)


def test_a_plan_needs_no_epochs_of_schedules():
  config = {
    "total": "3 epochs", "save_every": "1 epoch", "keep": 2,
    "schedule": {
      "decay": "steps", "milestones": ["1 epoch", "50%"], "every": "1 epoch"
    },
    "schedules": [
      ["a", {"decay": "cosine", "warmup": "1 epoch"}], [".*", None]
    ],
    "start": [["a", "2 epochs"], [".*", 0]],
  }  # fmt: skip
  assert reading.without_epochs(config) == {
    "total": 10**9, "save_every": 1, "keep": 2,
    "schedule": {"decay": "steps", "milestones": [1, "50%"], "every": 1},
    "schedules": [["a", {"decay": "cosine", "warmup": 1}], [".*", None]],
    "start": [["a", 1], [".*", 0]],
  }  # fmt: skip


@pytest.mark.parametrize("size", [2, 8, 4096])
def test_auto_bias_expects_one_text_of_the_batch(size):
  model = parts.with_bias({"bias": "auto", "scale": 10.0}, size)
  # The sigmoid of the logit of a cosine of 0.
  np.testing.assert_allclose(1 / (1 + np.exp(-model["bias"])), 1 / size)
  assert model["scale"] == 10.0
  assert parts.with_bias({"bias": -10.0}, size) == {"bias": -10.0}
  assert parts.with_bias({}, size) == {}


def test_auto_bias_is_a_number_in_the_config_that_is_kept():
  config = tiny.load("siglip", "smoke", "--config.model.bias=auto")
  made = experiment.build(config, jax.devices()[:2])
  # B is that of all devices.
  assert made.config["model"]["bias"] == -np.log(config["batch_size"] - 1)


@pytest.mark.parametrize(
  ("bias", "size", "said"),
  [
    ("automatic", 8, "config.model.bias = 'automatic'; .*\"auto\" or None"),
    ("auto", 1, "config.model.bias = 'auto'; .*There are no negatives"),
  ],
)
def test_wrong_biases_are_one_line(bias, size, said):
  with pytest.raises(errors.UserError, match=said):
    parts.with_bias({"bias": bias}, size)
