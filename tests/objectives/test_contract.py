"""Every file in objectives/ obeys the contract, and one from outside does."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive.config import errors, registry, rules
from big_contrastive.factory import experiment
from big_contrastive.objectives import Objective
from big_contrastive.training import loop, step

METHODS = registry.names("objectives")
# A config of each.
CONFIGS = {name: name for name in METHODS} | {
  "pairs": "siglip",
  "captions": "cappa",
  "mixture": "slip",
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_documented_and_builds_an_objective(name):
  module = registry.module("objectives", name, "")
  assert module.__doc__ and module.build.__doc__
  first, *fields = inspect.signature(module.build).parameters.values()
  assert first.name == "setting"
  assert all(p.kind is p.KEYWORD_ONLY and p.annotation for p in fields)
  made = tiny.load(CONFIGS[name], "smoke")
  method = experiment.build(made, jax.devices()[:1]).objective
  assert isinstance(method, Objective) and set(method.fields)
  params = jax.eval_shape(method.init, jax.random.key(0))
  extra = jax.eval_shape(method.init_extra, params, jax.random.key(0))
  names = rules.shapes(params) | rules.shapes(extra.get("statistics", {}))
  assert rules.shapes(method.exported(params, extra)).keys() <= names.keys()
  assert method.chance is None or method.chance > 0
  assert method.flops() > 0 and min(method.micro_batches) >= 1


OUTSIDE = '''"""Images alone: embeddings follow those of a slow teacher."""

import dataclasses

import jax
import jax.numpy as jnp

from big_contrastive.models.model import merge
from big_contrastive.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Mine(Objective):
  """The distance to a teacher's embedding, and a queue that counts steps."""

  decay: float = 0.9

  def init_extra(self, params, key):
    seen = jax.random.normal(key, (3,))
    return {"teacher": {"img": params["img"]}, "queue": seen}

  @property
  def extra_rules(self):
    return (("queue", "replicate"), (".*", "like"))

  def __call__(self, params, extra, batch, rng, step):
    graph = self.setting.model.graph
    z = merge(graph, params).embed_image(batch["image"])
    target = merge(graph, params | extra["teacher"]).embed_image(
      batch["image"] // 2
    )
    loss = 1 - (z * jax.lax.stop_gradient(target)).sum(-1).mean()
    queue = extra["queue"] + step.astype(jnp.float32)
    return loss, ({"loss": loss}, extra | {"queue": queue})

  def after_update(self, params, extra, step):
    teacher = jax.tree.map(
      lambda a, b: self.decay * a + (1 - self.decay) * b,
      extra["teacher"], {"img": params["img"]},
    )
    return params, extra | {"teacher": teacher}

  def exported(self, params, extra):
    return params | extra["teacher"]

  def signs(self, values, batch):
    return {"far": "a loss above 1" if values["loss"] > 1 else None}


def build(setting, *, decay: float = 0.9):
  return Mine(setting, decay=decay)
'''


def images_alone(tmp_path, file="method_of_mine.py"):
  """A config of images alone, by a method in a file of its own."""
  (tmp_path / file).write_text(OUTSIDE)
  config = tiny.load("siglip", "smoke")
  config["objective"] = {"name": str(tmp_path / file), "decay": 0.5}
  del config["model"]["text"], config["model"]["scale"], config["model"]["bias"]
  del config["evals"], config["tokenizer"]
  config["model"]["dtype"] = "float32"  # As an .npz is read.
  return config | {"total": 4, "save_every": 2}


def test_a_method_from_outside_trains_images_alone(tmp_path, monkeypatch):
  """No text, no tokenizer, no t: trained, resumed, loaded, converted."""
  import big_contrastive
  from big_contrastive import convert

  monkeypatch.syspath_prepend(str(tmp_path))
  config = images_alone(tmp_path)
  made = experiment.build(config, jax.devices()[:2])
  latest = loop.fit(made, tmp_path / "whole")
  assert np.isfinite(latest["train/loss"]) and "train/t" not in latest
  half = experiment.build(config | {"total": 2}, jax.devices()[:2])
  loop.fit(half, tmp_path / "resumed")
  loop.fit(experiment.build(config, jax.devices()[:2]), tmp_path / "resumed")
  a, b = (
    big_contrastive.load(tmp_path / name) for name in ("whole", "resumed")
  )
  chex.assert_trees_all_equal(a.params, b.params)
  pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
  assert a.encode_image(pictures).shape == (3, 32)
  features = a.features(pictures)
  assert features.tokens.shape == (3, 16, 32)
  assert features.pooled.shape == (3, 32) and features.mask is None
  with pytest.raises(errors.UserError, match="text tower is missing"):
    a.encode_text("a cat")
  told = convert.convert(str(tmp_path / "whole"), str(tmp_path / "x.npz"))
  assert max(told.values()) < 1e-5
  again = big_contrastive.load(tmp_path / "x.npz")
  np.testing.assert_allclose(
    again.encode_image(pictures), a.encode_image(pictures), atol=1e-5
  )


def test_what_is_loaded_is_what_the_method_exports(tmp_path, monkeypatch):
  import big_contrastive

  monkeypatch.syspath_prepend(str(tmp_path))
  config = images_alone(tmp_path, "another_of_mine.py") | {"total": 2}
  made = experiment.build(config, jax.devices()[:1])
  loop.fit(made, tmp_path / "run")
  loaded = big_contrastive.load(tmp_path / "run").params
  from big_contrastive.checkpoints import checkpointer

  directory = tmp_path / "run/checkpoints/2"
  trained = checkpointer._read_host(directory, "params")
  teacher = checkpointer._read_host(directory, "extra")["teacher"]
  chex.assert_trees_all_equal(loaded["img"], teacher["img"])
  assert not np.array_equal(loaded["img"]["pos"], trained["img"]["pos"])


def test_what_a_method_exports_is_selected_not_computed():
  """Else a checkpoint would hold it, or not, without anybody knowing."""
  from big_contrastive.training.state import State, exported

  class Computes(Objective):
    def exported(self, params, extra):
      return jax.tree.map(lambda x: 2 * x, params)

  params = {"img": {"pos": jnp.zeros(3)}}
  state = State(0, params, {}, {})
  assert exported(Objective(None), state) is None
  with pytest.raises(errors.UserError, match="exported"):
    exported(Computes(None), state)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_teacher_lies_as_its_parameters_do(fsdp, mesh):
  over = mesh(8 // fsdp, fsdp)
  recipe, _ = tiny.make_step(over, ema=0.9)
  placed = step.place(recipe, over, [(".*", "fsdp")])
  params = rules.flatten(placed.abstract.params)
  ema = rules.flatten(placed.abstract.extra["ema"])
  assert ema.keys() == params.keys()
  for name, leaf in ema.items():
    assert leaf.sharding == params[name].sharding, name
