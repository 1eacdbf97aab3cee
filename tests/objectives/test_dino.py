"""DINO's schedule of temperatures, what it exports, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive import objectives
from big_contrastive.config import errors
from big_contrastive.models import build
from big_contrastive.objectives import dino
from big_contrastive.parallel import sharding

VIEWS = {"global": 2, "local": 3}
HEADS = {
  "dino": {"name": "dino", "out_dim": 24, "hidden": 16, "bottleneck": 8},
  "mlp": {"name": "mlp", "out_dim": 8},
}


@functools.cache
def model(head):
  image = {"variant": "mu/8", "res": 32, "drop_path": 0.5}
  return build.build_model(
    {"image": image, "heads": {"projector": HEADS[head]}}
  )


def setting(head="dino", views=VIEWS, **kwargs):
  """Of 100 steps of 8 images, 20 an epoch: 2.5 steps."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  sizes = {"local": (16, 16)}
  given = {"views": views, "sizes": sizes, "records": 20} | kwargs
  return objectives.Setting(model(head), mesh, 8, None, 100, **given)


def temperatures(steps=100, **fields):
  method = dino.build(setting(), **fields)
  return jax.vmap(method.teacher_temperature)(jnp.arange(steps))


def test_the_teachers_temperature_rises_by_epochs():
  """As the official table: one an epoch, both ends among the first 6."""
  table = np.append(np.linspace(0.04, 0.07, 6), np.full(34, 0.07))
  rises = {"final_teacher_temperature": 0.07}
  found = temperatures(**rises, temperature_warmup="6 epochs")
  # 20 images are 2.5 steps of 8: step 2 has the last of epoch 0.
  expected = [table[t * 8 // 20] for t in range(100)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  found = temperatures(**rises, temperature_warmup=6)
  expected = np.append(np.linspace(0.04, 0.07, 6), np.full(94, 0.07))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  np.testing.assert_allclose(temperatures(9), 0.04, rtol=1e-6)
  found = temperatures(9, **rises, temperature_warmup=0)
  np.testing.assert_allclose(found, 0.07, rtol=1e-6)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"temperature": 0.0}, "^temperature = 0.0; expected a finite number"),
    ({"teacher_temperature": -1.0}, "^teacher_temperature = -1.0"),
    ({"final_teacher_temperature": 0.0}, "^final_teacher_temperature = 0.0"),
    ({"final_teacher_temperature": 0.07, "temperature_warmup": "3 days"},
     "^temperature_warmup = '3 days'"),
    ({"center_momentum": 1.0}, "^center_momentum = 1.0; expected a number"),
    ({"momentum": 1.0}, "^momentum = 1.0"),
    ({"tile": 0}, "^tile = 0"),
  ],
)  # fmt: skip
def test_a_wrong_field_is_one_line(fields, said):
  with pytest.raises(errors.UserError, match=said):
    dino.build(setting(), **fields)


def test_the_head_is_dinos():
  said = "config.model.heads.projector.name = 'mlp'; expected .*dino"
  with pytest.raises(errors.UserError, match=said):
    dino.build(setting("mlp"))


def test_two_global_views_are_needed():
  for views in ({}, {"a": 1, "local": 2}, {"a": 2, "b": 1}):
    with pytest.raises(errors.UserError, match="config.views.*two views"):
      dino.build(setting(views=views))


def test_the_teacher_is_exported():
  method = dino.build(setting())
  shapes = method.setting.model.shapes
  student, teacher = (
    jax.tree.map(lambda x: np.zeros(x.shape), shapes) for _ in range(2)
  )
  exported = method.exported(student, {"teacher": teacher})
  same = jax.tree.map(lambda a, b: a is b, exported, teacher)
  assert all(jax.tree.leaves(same))


def test_a_collapse_is_told_and_the_teacher_is_evaluated(monkeypatch):
  """It sees the global crops, without drop path; one output of all images."""
  seen = []

  def meeting(self, model, crops, rng):
    seen.append((len(crops), rng is None))
    views = sum(x.shape[1] for x in crops)
    return jnp.full((8, views, 8), 8**-0.5), jnp.ones((8, 24))

  monkeypatch.setattr(dino.DINO, "_meeting", meeting)
  method = dino.build(setting())
  batch = {
    "global": np.zeros((8, 2, 32, 32, 3), "u1"),
    "local": np.zeros((8, 3, 16, 16, 3), "u1"),
  }
  extra = {"teacher": {}, "center": jnp.zeros(24)}
  key = jax.random.key(0)
  loss, (metrics, extra) = method({}, extra, batch, key, jnp.int32(0))
  assert seen == [(2, False), (1, True)]
  np.testing.assert_allclose(loss, np.log(24), rtol=1e-4)
  np.testing.assert_allclose(method.chance, np.log(24))
  np.testing.assert_allclose(extra["center"], 0.1 * 8**0.5, rtol=1e-5)
  values = {k: float(x) for k, x in metrics.items()}
  np.testing.assert_allclose(values["entropy"], np.log(24), rtol=1e-4)
  assert "All images have" in method.signs(values, {})["collapse"]
  assert method.signs(values | {"divergence": 0.1}, {}) == {"collapse": None}


def test_the_recipes_are_the_official_codes():
  base = tiny.load("dino", "")
  assert base["views"]["local"]["count"] == 8
  crops = {
    k: dict(v["ops"])["random_resized_crop"] for k, v in base["views"].items()
  }
  assert [crops[k]["size"] for k in sorted(crops)] == [224, 96, 224]
  assert crops["first"]["area"] == (0.4, 1.0)
  assert base["schedule"]["end"] * base["optimizer"]["lr"] == 1e-6
  assert "final_teacher_temperature" not in base["objective"]
  long = tiny.load("dino", "epochs=300,batch=1024")
  assert long["objective"]["final_teacher_temperature"] == 0.07
  assert long["model"]["heads"]["projector"]["gain"]
  assert long["optimizer"]["lr"] == 0.002
  alone = tiny.load("dino", "local=0")["views"]
  assert alone.keys() == {"first", "second"}
  assert dict(alone["first"]["ops"])["random_resized_crop"]["area"][0] == 0.14
  resnet = tiny.load("dino", "tower=resnet50,batch=256")
  assert resnet["objective"]["momentum"] == 0.9995
  assert resnet["optimizer"] == {
    "name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "clip_each": 3.0,
  }  # fmt: skip
  small = tiny.load("dino", "small")
  assert small["views"].keys() == {"first", "second"}
  assert small["optimizer"]["lr"] == 0.3 and small["batch_size"] == 256
