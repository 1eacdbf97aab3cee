"""Where a thing is a file: each folder obeys its contract, and so does a file
from outside. Methods: objectives/test_contract.py; sources:
data/test_source_contract.py.
"""

import inspect
import json

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_convert
import test_dino_weights
import test_foreign_configs
import test_mae_weights
import test_torchvision

import tiny
from big_contrastive import evals, losses
from big_contrastive.config import errors, registry, schema
from big_contrastive.data import build
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.factory import evaluators, experiment
from big_contrastive.interop import formats, model_files
from big_contrastive.models.build import build_model
from big_contrastive.training import loop


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """mine(name, code): the path of a file of that code."""
  monkeypatch.syspath_prepend(str(tmp_path))

  def write(name, code):
    (tmp_path / f"{name}.py").write_text(code)
    return str(tmp_path / f"{name}.py")

  return write


@pytest.mark.parametrize("name", registry.names("losses"))
def test_a_pair_loss_has_the_arguments_and_a_chance(name):
  loss, chance = losses.pair_loss(name, "")
  expected = inspect.signature(losses.Loss.__call__).parameters
  taken = inspect.signature(loss).parameters
  assert list(taken) == [k for k in expected if k != "self"]
  assert loss.__doc__ and chance(1) == 0 and 0 < chance(2) < chance(64)


LOSS = """
import jax
import jax.numpy as jnp

def loss(zimg, ztxt, *, scale, bias: None = None, ids=None, axis=None,
         tile=None):
  value = -scale * (zimg * ztxt).sum(-1).mean()
  return value if axis is None else jax.lax.pmean(value, axis)
"""


def test_a_loss_from_outside_trains(mine, tmp_path):
  config = tiny.load("siglip", "smoke") | {"total": 2, "evals": {}}
  config["objective"] = {"name": "pairs", "loss": mine("loss_of_mine", LOSS)}
  config["model"]["bias"] = None
  latest = loop.fit(experiment.build(config, jax.devices()[:2]), tmp_path / "a")
  # Cosines of at most 1, by a scale that has hardly left 10.
  assert abs(latest["train/loss"]) < 10.1


@pytest.mark.parametrize(
  ("kind", "name"),
  [(k, n) for k in ("image", "text") for n in registry.names(f"models.{k}")],
)
def test_a_tower_has_its_attributes(kind, name):
  tower = registry.module(f"models.{kind}", name, "").tower
  assert issubclass(tower, nnx.Module) and tower.__doc__
  taken = inspect.signature(tower.__init__).parameters
  assert {"dtype", "remat", "pin", "rngs"} <= taken.keys()
  for method in ("features", "__call__", "flops"):
    assert getattr(tower, method).__doc__, method


TOWER = """
import flax.nnx as nnx
import jax.numpy as jnp

from big_contrastive.models import Features

class Mine(nnx.Module):
  def __init__(self, res: int, *, width: int = 8, dtype="float32",
               remat="none", pin=lambda x: x, rngs):
    self.res, self.out_dim, self.takes = res, width, (res, res)
    self.max_patches, self.keep = None, 1.0
    self.linear = nnx.Linear(3, width, rngs=rngs)

  def features(self, x, keys=None):
    tokens = self.linear(x.astype(jnp.float32).reshape(len(x), -1, 3) / 255)
    return Features(tokens, tokens.mean(1))

  def __call__(self, x, keys=None):
    return self.features(x, keys).pooled

  def flops(self, train):
    return 2.0 * self.res**2 * 3 * self.out_dim

tower = Mine
"""

HEAD = """
import flax.nnx as nnx

class Scale(nnx.Module):
  def __init__(self, width, *, factor: float = 2.0, dtype="float32", rngs):
    self.out_dim, self.factor = width, factor
    self.shift = nnx.Param(rngs.params() is None or 0.0)

  def __call__(self, x):
    return x * self.factor

head = Scale
"""


def test_a_tower_from_outside_trains_and_is_loaded(mine, tmp_path):
  import big_contrastive

  config = tiny.load("siglip", "smoke") | {"total": 2}
  image = {"tower": mine("tower_of_mine", TOWER), "res": 32, "width": 32}
  config["model"]["image"] = image
  loop.fit(experiment.build(config, jax.devices()[:2]), tmp_path / "run")
  model = big_contrastive.load(tmp_path / "run")
  pictures = np.zeros((2, 32, 32, 3), np.uint8) + np.uint8(9)
  assert model.encode_image(pictures).shape == (2, 32)
  assert model.features(pictures).tokens.shape == (2, 32 * 32, 32)


# Over tokens: tests/objectives/test_mae.py.
OF_TOKENS = {"patch_decoder"}


@pytest.mark.parametrize(
  "name", sorted({*registry.names("models.heads")} - OF_TOKENS)
)
def test_a_head_maps_vectors(name):
  head = registry.module("models.heads", name, "").head
  # A context takes a grid of them, and keeps the width.
  width, *grid = {"context": (6, 3, 3)}.get(name, (5,))
  size = {"classifier": {"classes": 5}, "prototypes": {"count": 5}}
  size |= {"context": {}}
  made = head(6, **size.get(name, {"out_dim": 5}), rngs=nnx.Rngs(0))
  assert head.__doc__ and made.out_dim == width
  assert made(jnp.ones((4, *grid, 6))).shape == (4, *grid, width)


def test_heads_on_each_other_are_refused():
  heads = {
    "first": {"name": "mlp", "out_dim": 7, "on": "second"},
    "second": {"name": "mlp", "out_dim": 7, "on": "first"},
  }
  with pytest.raises(errors.UserError, match="on each other: first, second"):
    build_model({"image": {"variant": "mu/8", "res": 16}, "heads": heads})


def test_heads_need_no_order():
  """A config has none: the first by name is on the second."""
  heads = {
    "first": {"name": "mlp", "out_dim": 7, "on": "second"},
    "second": {"name": "mlp", "out_dim": 5},
  }
  sections = {"image": {"variant": "mu/8", "res": 16}}
  made = [
    build_model(sections | {"heads": dict(order)}).init(jax.random.key(0))
    for order in (heads.items(), reversed(heads.items()))
  ]
  assert made[0]["first"]["fc1"]["kernel"].shape == (5, 5)
  chex.assert_trees_all_equal(*made)


def test_heads_are_parts_one_upon_another_and_from_outside(mine):
  heads = {
    "projector": {"name": "mlp", "out_dim": 7, "depth": 3, "hidden": 4},
    "scaled": {"name": mine("head_of_mine", HEAD), "on": "projector"},
  }
  sections = {
    "image": {"variant": "mu/8", "res": 16}, "heads": heads,
  }  # fmt: skip
  built = build_model(sections)
  assert built.parts == {"img", "projector", "scaled"}
  assert built.shapes["projector"]["fc3"]["kernel"].shape == (4, 7)
  assert built.abstract.scaled.out_dim == 7


EVALUATOR = """
from big_contrastive.data.source import Source

def prepare(source, *, train: Source, more: Source | None = None,
            factor: float = 1.0):
  def run(embed):
    yield "records", factor * len(embed.images(source).zimg)
    yield "training", len(embed.features(train).label)
    yield "same", train is source
    yield "more", 0 if more is None else len(more)
  return run
"""


@pytest.mark.parametrize("name", registry.names("evals"))
def test_an_evaluator_is_prepared_from_sources(name):
  prepare = registry.module("evals", name, "").prepare
  first, *fields = inspect.signature(prepare).parameters.values()
  assert prepare.__doc__ and first.name == "source"
  assert all(f.kind is f.KEYWORD_ONLY for f in fields)
  hints = schema.hints(prepare)
  assert hints["source"] is Source and hints["return"] is evals.Evaluator
  assert hints.keys() - {"return"} == {first.name, *(f.name for f in fields)}


class Counted:
  """Embeddings of as many records as a source has."""

  images = staticmethod(lambda s: evals.Embedded(np.zeros((len(s), 2)), 0, 0))
  features = staticmethod(lambda s: evals.Pooled(0, np.zeros(len(s)), 0))


def test_an_evaluator_from_outside_is_run(mine):
  source = {"name": "shapes", "split": "heldout", "train_size": 512, "size": 32}
  task, other = mine("task_of_mine", EVALUATOR), source | {"split": "val"}
  section = {"task": task, "factor": 2.0, "source": source, "train": other}
  run = evaluators.evaluator(section, "config.evals.x")
  count, less = (
    len(build.build_source(s, "")) for s in (source, section["train"])
  )
  found = dict(run(Counted))
  assert found == {
    "records": 2.0 * count, "training": less, "same": 0, "more": 0
  }  # fmt: skip
  # Sections that are equal are one object; None is no source.
  section |= {"train": dict(source), "more": other}
  assert dict(evaluators.evaluator(section, "x")(Counted))["same"] == 1
  assert dict(evaluators.evaluator(section, "x")(Counted))["more"] == less
  section["more"] = None
  assert dict(evaluators.evaluator(section, "x")(Counted))["more"] == 0
  for wrong, said in (
    ({"train": None}, "x.train is missing"),
    ({"train": "shapse:val"}, "x.train.*'shapse'"),
    ({"train": {"name": "shapes", "spilt": "val"}}, "x.train.spilt"),
    ({"more": 5}, "x.more = 5"),
  ):
    with pytest.raises(errors.UserError, match=said):
      evaluators.evaluator(section | wrong, "x")
  del section["train"]
  with pytest.raises(errors.UserError, match="x.train is missing"):
    evaluators.evaluator(section, "x")


@pytest.mark.parametrize("name", formats.names())
def test_a_format_recognizes_what_it_writes_and_reads_it(name, tmp_path):
  module = formats.module(name)
  model = test_convert.model()
  if name == "open_clip":  # Which has SigLIPs of timm's sizes alone.
    model = test_foreign_configs.clip()
  if name == "torchvision":
    model = test_torchvision.filled(stem="cifar")
  if name in ("mae", "vit_mae"):
    model = test_mae_weights.filled()
  if name == "timm":
    model = test_dino_weights.ours()
    del model.params["projector"]
  path = tmp_path / f"model{module.SUFFIX}"
  assert set(module.MAY_LACK) <= {"text", "tokenizer", "preprocessing"}
  model_files.write(model, path, name)
  assert model_files.recognize(path) == name
  others = [n for n in formats.names() if n != name]
  assert not any(formats.module(n).recognize(path) for n in others)
  found = model_files.read(path)
  test_convert.assert_same(found, model)
  assert bool(found.tokenizer) == ("tokenizer" not in module.MAY_LACK)


FORMAT = """
import json
import numpy as np

from big_contrastive.config import rules
from big_contrastive.interop.bundle import ModelBundle

MAY_LACK = ("text",)
SUFFIX = ".json"

def recognize(path):
  return path.suffix == ".json"

def read(path, where="path"):
  held = json.loads(path.read_text())
  flat = {k: np.float32(v) for k, v in held["params"].items()}
  return ModelBundle(held["model"], rules.unflatten(flat))

def write(bundle, path):
  flat = {k: np.asarray(v).tolist()
          for k, v in rules.flatten(bundle.params).items()}
  path.write_text(json.dumps({"model": bundle.model, "params": flat}))
"""


def test_a_format_from_outside_reads_and_writes(mine, tmp_path):
  name = mine("format_of_mine", FORMAT)
  model_files.write(test_convert.model(), tmp_path / "m.json", name)
  assert json.loads((tmp_path / "m.json").read_text())["model"]["scale"] == 4.0
  found = model_files.read(tmp_path / "m.json", name)
  test_convert.assert_same(found, test_convert.model())


def test_every_kind_of_tokenizer_gives_what_a_text_tower_asks():
  """What stands for one is models.build.TextSizes: anything with these."""
  assert set(vocabulary.KINDS) >= {"bytes", "bpe", "sentencepiece", "json"}

  class Mine:
    length, vocab_size, pad_id, eos_id = 5, 11, 0, None

  sections = {
    "image": {"variant": "mu/8", "res": 16},
    "text": {"variant": "mu", "out_dim": 32},
  }
  shapes = build_model(sections, Mine()).shapes
  assert shapes["txt"]["embed"]["embedding"].shape == (11, 32)
  assert shapes["txt"]["pos"].shape == (5, 32)
