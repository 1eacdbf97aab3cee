"""LiT from stored vectors is LiT with the locked tower, bit for bit."""

import contextlib
import shutil

import jax
import numpy as np
import pytest

import tiny
from big_contrastive import convert, plan
from big_contrastive.config import errors, rules
from big_contrastive.data.sources import cached
from big_contrastive.factory import experiment
from big_contrastive.inference.model import load
from big_contrastive.interop import model_files
from big_contrastive.models import model
from big_contrastive.offline import embedding, folder, tasks, worker
from big_contrastive.training import loop

DATA = "shapes:split=train,train_size=512,size=32"
PLAIN = "--config.model.dtype=float32", "--config.batch_size=16"


@pytest.fixture(scope="module")
def parts(tmp_path_factory, run):
  """The vectors of a smoke run's image tower."""
  out = tmp_path_factory.mktemp("cached") / "parts"
  # As many images a device as in a step: the same program, the same bits.
  given = {"checkpoint": str(run), "data": DATA, "batch_size": 2}
  work = embedding.open_work(**given)
  folder.describe(out, work, work.about() | {"per_shard": 200})
  shards = tasks.tasks(len(work.source), out, 200)
  worker.run_all(shards, work, lambda line: None)
  return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The workdir of a model whose image tower is locked, after a step."""
  workdir = tmp_path_factory.mktemp("run") / "lit"
  config = tiny.load("lit", "smoke", *PLAIN, "--config.total=3 steps")
  config["train_image"] = config["eval_image"] = [["resize", {"size": 32}]]
  loop.fit(experiment.build(config | {"evals": {}}), workdir)
  return workdir


def both(run, parts, monkeypatch):
  """Experiments with the locked tower and with its vectors, of one order."""
  # Row groups are shuffled as blocks, which pictures have none of.
  monkeypatch.setattr(cached.Vectors, "blocks", None, raising=False)
  plain = tiny.load("lit", "smoke", *PLAIN)
  plain["source"] = DATA
  plain["init"] = {"img": str(run), "txt": str(run)}
  config = tiny.load("lit", f"cached={parts},smoke", *PLAIN)
  return [experiment.build(c | {"evals": {}}) for c in (plain, config)]


def steps(built, params=None, n=3):
  """Losses and parameters after some steps, and those before them."""
  state, losses = built.first(), []
  if params is not None:
    flat = {k: params[k] for k in rules.flatten(state.params)}
    state = state._replace(params=rules.unflatten(flat))
  first = {k: np.asarray(x) for k, x in rules.flatten(state.params).items()}
  with contextlib.closing(built.training.batches(0, n)) as batches:
    for batch in batches:
      state, metrics = built.placed.update(state, batch)
      losses.append(float(metrics["loss"]))
  return losses, rules.flatten(jax.device_get(state.params)), first


def test_vectors_are_the_towers_bit_for_bit(run, parts, monkeypatch):
  plain, built = both(run, parts, monkeypatch)
  images, vectors = (
    next(iter(stream))
    for stream in (x.training.batches(0, 1) for x in (plain, built))
  )
  np.testing.assert_array_equal(images["id"], vectors["id"])
  np.testing.assert_array_equal(images["text"], vectors["text"])
  graph = plain.objective.setting.model.graph
  zimg = jax.jit(lambda p, x: model.merge(graph, p).embed_image(x))(
    plain.first().params, images["image"]
  )
  np.testing.assert_array_equal(zimg, vectors["image"])


def test_a_step_from_vectors_is_a_step_with_the_tower(run, parts, monkeypatch):
  """But for how XLA orders sums in a larger program."""
  plain, built = both(run, parts, monkeypatch)
  losses, after, first = steps(plain)
  found, changed, _ = steps(built, first)
  np.testing.assert_allclose(found, losses, rtol=1e-6)
  for name, x in changed.items():
    if not name.endswith("key/bias"):  # Its exact gradient is 0.
      np.testing.assert_allclose(x, after[name], rtol=1e-4, atol=1e-5)
    assert (x != first[name]).any(), name
  assert not any(name.startswith("img/") for name in changed)


def test_killed_and_resumed_it_is_the_same(parts, tmp_path):
  """Data position included: the order is of blocks."""
  config = tiny.load("lit", f"cached={parts},smoke", *PLAIN)
  config = config | {"total": "6 steps", "save_every": "3 steps"}
  whole = loop.fit(experiment.build(config), tmp_path / "whole")
  shutil.copytree(tmp_path / "whole", tmp_path / "cut")
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / "6")
  again = loop.fit(experiment.build(config), tmp_path / "cut")
  assert again["train/loss"] == whole["train/loss"]


def test_a_plan_needs_no_parts():
  argument = "cached=nowhere,width=24,smoke"
  lines = plan.plan(tiny.load("lit", argument, *PLAIN), jax.devices()[:1])
  assert any(line.startswith("peak ") for line in lines)


@pytest.fixture(scope="module")
def texts(tmp_path_factory, parts):
  """The workdir of a text tower that was trained on the vectors."""
  workdir = tmp_path_factory.mktemp("texts") / "texts"
  config = tiny.load("lit", f"cached={parts},smoke", *PLAIN)
  config = config | {"total": "3 steps", "evals": {}}
  loop.fit(experiment.build(config), workdir)
  return workdir


def test_the_tower_is_put_back_beside_the_trained_text_tower(
  run, texts, tmp_path, caplog
):
  """Pictures as the tower embeds them, texts as the trained one does."""
  convert.convert(
    str(texts), str(tmp_path / "whole"), "checkpoint", image=str(run)
  )
  assert "not checked" not in caplog.text
  whole, tower = (load(path) for path in (tmp_path / "whole", run))
  picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  np.testing.assert_array_equal(
    whole.encode_image(picture), tower.encode_image(picture)
  )
  words = load(texts).encode_text(["a red circle"])
  np.testing.assert_array_equal(whole.encode_text(["a red circle"]), words)
  assert np.abs(words - tower.encode_text(["a red circle"])).max() > 1e-3


def test_another_tower_is_not_put_there(run, texts, tmp_path):
  other = model_files.read(run)
  other.params["img"] = jax.tree.map(lambda x: x * 1.01, other.params["img"])
  model_files.write(other, tmp_path / "other", "checkpoint")
  for source, image, said in (
    (texts, tmp_path / "other", "--image = .*; expected the model that made"),
    (run, run, "config.model.image.tower = 'vit'; expected"),
  ):
    with pytest.raises(errors.UserError, match=said):
      convert.convert(
        str(source), str(tmp_path / "out"), "checkpoint", image=str(image)
      )
  assert not (tmp_path / "out").exists()
