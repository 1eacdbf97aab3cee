"""SwAV's parts without a training step: queue, prototypes, views, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive import objectives
from big_contrastive.config import errors
from big_contrastive.models import build
from big_contrastive.objectives import swav
from big_contrastive.parallel import sharding

BATCH = 4
VIEWS = {"global": 2, "local": 3}
CONVNET = {"tower": "convnet", "res": 16, "widths": [4, 8], "depths": [0, 1]}
HEADS = {
  "projector": {"name": "mlp", "out_dim": 6, "norm": True},
  "prototypes": {"name": "prototypes", "on": "projector", "count": 5},
}


@pytest.fixture(scope="module")
def setting():
  """setting(...): of the objective, with some of its fields replaced."""
  model = build.build_model({"image": CONVNET, "heads": HEADS})
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  made = objectives.Setting(
    model, mesh, BATCH, None, 100, VIEWS,
    sizes={"global": (16, 16), "local": (8, 8)}, epoch=40,
  )  # fmt: skip
  return lambda **fields: dataclasses.replace(made, **fields)


def test_a_queue_has_the_newest_batch_first_from_its_start_on(setting):
  method = swav.build(setting(), queue=3 * BATCH, queue_start="5 steps")
  params = method.init(jax.random.key(0))
  queue = method.init_extra(params, jax.random.key(0))["queue"]
  assert queue.shape == (2, 3, BATCH, 6) and not queue.any()
  z = jax.random.normal(jax.random.key(1), (9, BATCH, 5, 6))
  for step in range(9):
    queue = method._pushed(queue, z[step], jnp.int32(step))
    # Of the global views alone, those of the steps 5 to 8.
    for age in range(3):
      expected = 0 * z[0] if step - age < 5 else z[step - age]
      for view in range(2):
        np.testing.assert_array_equal(queue[view, age], expected[:, view])


def test_a_queue_starts_at_a_duration(setting):
  method = swav.build(setting(), queue=8, queue_start="2 epochs")
  assert (method.length, method.start) == (2, 20)
  assert (swav.build(setting()).length, swav.build(setting()).start) == (0, 0)
  assert "queue" not in swav.build(setting()).init_extra({}, None)


def test_prototypes_are_unit_vectors_unless_they_are_frozen(setting):
  method = swav.build(setting())
  params = method.init(jax.random.key(0))

  def lengths(params):
    return np.linalg.norm(params["prototypes"]["kernel"], axis=0)

  np.testing.assert_allclose(lengths(params), np.ones(5), rtol=1e-6)
  kernel = 3 * params["prototypes"]["kernel"]
  moved = params | {"prototypes": {"kernel": kernel}}
  after, _ = method.after_update(moved, {}, 0)
  np.testing.assert_allclose(lengths(after), np.ones(5), rtol=1e-6)
  np.testing.assert_allclose(
    after["prototypes"]["kernel"], kernel / 3, rtol=1e-6
  )
  frozen = method.freeze(frozenset({"prototypes/kernel"}))
  after, _ = frozen.after_update(moved, {}, 0)
  np.testing.assert_array_equal(after["prototypes"]["kernel"], kernel)


def test_local_crops_count_by_their_area(setting):
  one = setting().model.abstract.flops()
  assert swav.build(setting()).flops() == pytest.approx((2 + 3 / 4) * one)
  alone = setting(views={"global": 2}, sizes={"global": (16, 16)})
  assert swav.build(alone).flops() == pytest.approx(2 * one)


def test_guessing_and_a_collapse_have_their_numbers(setting):
  method = swav.build(setting())
  assert method.chance == pytest.approx(np.log(5))
  healthy = {"embedding_std": 6**-0.5}
  assert method.signs(healthy, {})["collapse"] is None
  assert (
    "nearly all the same"
    in method.signs({"embedding_std": 0.01}, {})["collapse"]
  )
  scores = jnp.zeros((2, BATCH, 5))
  # Eight views, of which all have the first prototype; then four of them.
  assert swav._used(scores) == pytest.approx(1 / 5)
  scores = scores.at[0, :, 1:].set(jnp.eye(4))
  assert swav._used(scores) == pytest.approx(1.0)
  few = jnp.zeros((2, 2, 100)).at[1, 1, 7].set(1)
  assert swav._used(few) == pytest.approx(2 / 4)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"queue": 6}, "queue = 6; expected a multiple of the batch = 4.*is 8"),
    ({"queue": 0}, "queue = 0; .*The nearest is 4"),
    ({"queue": 8, "queue_start": "11 epochs"}, "queue_start = '?11 epochs"),
    ({"queue": 8, "queue_start": "soon"}, "queue_start"),
    ({"temperature": 0.0}, "temperature = 0.0"),
    ({"epsilon": -1.0}, "epsilon = -1.0; expected a finite number above 0"),
    ({"iterations": 0}, "iterations = 0"),
  ],
)
def test_a_wrong_field_is_one_line(setting, fields, said):
  with pytest.raises(errors.UserError, match=said):
    swav.build(setting(), **fields)


@pytest.mark.parametrize(
  "views", [{}, {"local": 2}, {"a": 1, "local": 6}, {"a": 2, "b": 1}]
)
def test_two_global_views_are_needed(setting, views):
  with pytest.raises(errors.UserError, match='config.views.*besides .*"local"'):
    swav.build(setting(views=views, sizes={}))


def test_the_tower_must_take_local_crops_and_the_model_have_the_heads(setting):
  sizes = {"global": (16, 16), "local": (10, 10)}
  with pytest.raises(errors.UserError, match="views.local.ops = .*10 x 10.*16"):
    swav.build(setting(sizes=sizes))
  heads = {"projector": HEADS["projector"]}
  model = build.build_model({"image": CONVNET, "heads": heads})
  with pytest.raises(errors.UserError, match="heads.prototypes is missing"):
    swav.build(setting(model=model))
  heads = HEADS | {"prototypes": HEADS["prototypes"] | {"count": 1}}
  with pytest.raises(errors.UserError, match="prototypes.count = 1"):
    build.build_model({"image": CONVNET, "heads": heads})


@pytest.mark.parametrize(
  ("argument", "lr", "queue", "crops", "warmup"),
  [
    ("", 4.8, None, {"global": (224, 0.14, 1.0), "local": (96, 0.05, 0.14)},
     "10 epochs"),
    ("batch=256", 0.6, 3840,
     {"global": (224, 0.14, 1.0), "local": (96, 0.05, 0.14)}, None),
    ("local=0", 4.8, None, {"global": (224, 0.08, 1.0)}, "10 epochs"),
    ("small", 0.6, 3840, {"global": (32, 0.08, 1.0)}, "10 epochs"),
  ],
)  # fmt: skip
def test_recipes_are_the_published_ones(argument, lr, queue, crops, warmup):
  config = tiny.load("swav", argument)
  assert config["optimizer"]["lr"] == pytest.approx(lr)
  assert config["objective"].get("queue") == queue
  assert config["schedule"].get("warmup") == warmup
  found = {}
  for name, view in config["views"].items():
    fields = dict(view["ops"][0][1])
    found[name] = (fields["size"], *fields["area"])
  assert found == crops
  counts = {name: view["count"] for name, view in config["views"].items()}
  assert counts == {name: {"global": 2, "local": 6}[name] for name in crops}
