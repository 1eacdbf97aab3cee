"""Batches have the fields that the objective reads: images, views, ids."""

import jax
import pytest

import tiny
from big_contrastive import plan
from big_contrastive.config import errors
from big_contrastive.factory import experiment

METHOD = '''"""Two views of an image attract each other."""

import dataclasses

from big_contrastive.models.model import merge
from big_contrastive.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Mine(Objective):
  reads: tuple = ()

  @property
  def fields(self):
    return self.reads

  def __call__(self, params, extra, batch, rng, step):
    assert batch.keys() == set(self.fields)
    tower = merge(self.setting.model.graph, params)
    first, second = batch["pair"][:, 0], batch["pair"][:, 1]
    z1, z2 = tower.embed_image(first), tower.embed_image(second)
    loss = ((z1 - z2) ** 2).sum(-1).mean()
    return loss, ({"loss": loss}, extra)


def build(setting, *, reads: list):
  return Mine(setting, reads=tuple(reads))
'''

CROP = [("random_resized_crop", {"size": 32}), "flip_lr"]
PAIR = {"pair": {"ops": CROP, "count": 2}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """config(*reads, **fields): images alone, with an objective of its own."""
  file = tmp_path_factory.mktemp("mine") / "method_of_views.py"
  file.write_text(METHOD)

  def make(*reads, **fields):
    made = tiny.load("siglip", "smoke")
    made["objective"] = {"name": str(file), "reads": list(reads)}
    for part in ("text", "scale", "bias"):
      del made["model"][part]
    del made["tokenizer"], made["evals"]
    return made | {"train_image": None} | fields

  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(file.parent))
    yield make


def build(config):
  return experiment.build(config, jax.devices()[:2])


def test_an_objective_gets_its_views_and_nothing_else(config):
  made = build(config("pair", views=PAIR))
  for batch in made.training.batches(0, 2):
    assert batch.keys() == {"pair"}
    assert batch["pair"].shape == (16, 2, 32, 32, 3)
    _, metrics = jax.eval_shape(made.placed.update, made.placed.abstract, batch)
    assert metrics["loss"].shape == ()


def test_views_stand_beside_images_and_ids(config):
  made = build(
    config(
      "pair", "image", "id", views=PAIR, train_image=[["resize", {"size": 32}]]
    )
  )
  (batch,) = made.training.batches(0, 1)
  assert batch.keys() == {"pair", "image", "id"}
  assert batch["image"].shape == (16, 32, 32, 3)


@pytest.mark.slow
def test_a_plan_counts_the_memory_of_views(config):
  """And evaluation is planned without an image to train on."""
  held = []
  for count in (2, 5):
    views = {"pair": {"ops": CROP, "count": count}}
    made = build(config("pair", views=views))
    memory = plan.compile_step(made).memory_analysis()
    held.append(memory.argument_size_in_bytes)
  assert held[1] - held[0] == 8 * 3 * 32 * 32 * 3  # 8 of 16 on a device.
  assert plan.compile_evaluation(made).keys() == {"images"}


RESIZE = [["resize", {"size": 32}]]
WRONG = {
  "neither": (("pair",), {}, "config.train_image is missing.*config.views"),
  "no views in a section": (("pair",), {"views": {}}, "train_image is missing"),
  "no image": (
    ("pair", "image"), {"views": PAIR}, "train_image is missing.*reads images"
  ),
  "no view": (
    ("pair", "id"), {"train_image": RESIZE},
    r"config.train_image = 'operations'; expected None.*pair, id alone",
  ),
  "another view": (
    ("pair",), {"views": {"pairs": PAIR["pair"]}},
    r"config.views = \['pairs'\]; expected pair: .*config.views.pair = ",
  ),
  "a view too many": (
    ("pair",), {"views": PAIR | {"local": PAIR["pair"]}},
    "config.views = 'local'; expected pair: what config.objective reads",
  ),
  "an image too many": (
    ("pair",), {"views": PAIR, "train_image": RESIZE}, "expected None"
  ),
  "text": (
    ("pair", "text"), {"views": PAIR}, "config.tokenizer is missing.*text"
  ),
  "text without its tower": (
    ("pair", "text"),
    {"views": PAIR, "tokenizer": {"kind": "bytes", "length": 8}},
    "config.model.text is missing.*reads text",
  ),
  "a label": (("pair", "label"), {"views": PAIR}, "expected pair, label"),
  "wrong operation": (
    ("pair",), {"views": {"pair": {"ops": ["flip"]}}}, r"views.pair.ops\[0\]"
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_read_or_not_made_is_named(config, name):
  reads, fields, said = WRONG[name]
  with pytest.raises(errors.UserError, match=said):
    build(config(*reads, **fields))


def test_a_source_has_no_image_of_its_own_where_there_is_none(config):
  made = config("pair", views=PAIR)
  part = {"source": made["source"], "train_image": RESIZE}
  made["source"] = {"mixture": [{"source": made["source"]}, part]}
  with pytest.raises(
    errors.UserError,
    match=r"config.source.mixture\[1\].train_image = .*train_image is None",
  ):
    build(made)
  made["train_image"] = RESIZE
  made["objective"]["reads"] = ["pair", "image"]
  (batch,) = build(made).training.batches(0, 1)
  assert batch.keys() == {"pair", "image"}


def test_views_that_pairs_do_not_read_are_refused():
  made = tiny.load("siglip", "smoke") | {"views": PAIR}
  with pytest.raises(
    errors.UserError, match="= 'pair'; expected image, text, id"
  ):
    build(made)
