"""What evaluators get of a real model, in training and from the command."""

import copy
import json

import jax
import numpy as np
import pytest

import tiny
from big_contrastive import evaluate, plan
from big_contrastive.config import errors, registry
from big_contrastive.data.build import build_source
from big_contrastive.evals import gallery, knn, retrieval, zero_shot
from big_contrastive.factory import experiment
from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.training import loop

SHAPES = "shapes:split=by_shape,train_size=512,size=32"
OTHERS = f"{SHAPES},seed=1"


def test_features_are_those_before_the_last_layer(loaded):
  source = build_source(SHAPES, "x")
  calls = []
  embed = loaded.embedder.bound(loaded.params, lambda: calls.append(1))
  found, images = embed.features(source), embed.images(source)
  records = [source[i] for i in range(len(source))]
  pooled = loaded.features([r["image"] for r in records]).pooled
  np.testing.assert_array_equal(found.features, pooled)
  assert found.features.dtype == np.float32 and found.features.ndim == 2
  for data in (found, images):
    assert data.label.tolist() == [r["label"] for r in records]
    assert data.id.tolist() == [r["id"] for r in records]
  assert len(calls) == 2 * -(-len(source) // 64)  # Before each batch.
  assert embed.has_text and embed.mesh.size == 8
  assert embed.features([]).features.shape == (0, pooled.shape[1])


def test_a_model_without_texts_is_refused_before_any_work(loaded):
  images = copy.copy(loaded.embedder)
  images.tokenizer = NoTokenizer("runs/x", has_text=False)
  images.images = None
  embed = images.bound(loaded.params)
  assert not embed.has_text
  source = build_source(SHAPES, "x")
  for task in (retrieval, gallery, zero_shot):
    with pytest.raises(errors.UserError, match="runs/x has none"):
      list(task.prepare(source)(embed))
  assert dict(knn.prepare(source, k=5)(embed))["chance"] == 0.1


def test_features_that_are_not_finite_end_it(loaded):
  params = jax.tree.map(lambda x: x * 1e30, loaded.params)
  source = build_source(SHAPES, "x")
  with pytest.raises(errors.RunError, match="features: not finite: pooled"):
    dict(knn.prepare(source, k=5)(loaded.embedder.bound(params)))


FLAGS = {
  "knn": ["--k", "[1,5]"],
  "linear_probe": ["--train", OTHERS, "--l2", "[1e-3,0.1,10]"],
  "few_shot": ["--train", OTHERS, "--shots=1", "--seeds=2"],
  "collapse": ["--on=features"],
}
YIELDS = {
  "knn": {"top1_k1", "top5_k1", "top1_k5", "top5_k5", "T"},
  "linear_probe": {"top1", "top5", "val_top1", "l2"},
  "few_shot": {"1shot_top1"},
  "collapse": {"std", "std_uniform", "effective_rank", "uniformity"},
}
CHANCE = {
  "knn": {"chance", "chance_top5"}, "linear_probe": {"chance", "chance_top5"},
  "few_shot": {"chance"}, "collapse": set(),
}  # fmt: skip


@pytest.mark.parametrize("task", FLAGS)
def test_the_command_evaluates(task, small, monkeypatch, capsys):
  given = ["--checkpoint", str(small), "--data", SHAPES, "--task", task]
  monkeypatch.setattr("sys.argv", ["evaluate", *given, *FLAGS[task]])
  evaluate.run()
  found = json.loads(capsys.readouterr().out)
  names = YIELDS[task] | CHANCE[task]
  assert found.keys() == {f"{task}/{name}" for name in names}
  assert not CHANCE[task] or found[f"{task}/chance"] == 0.1


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["neighbors"], "--task = 'neighbors'; expected a task with metrics"),
    (["linear_probe"], "^--train is missing; .*Set --train"),
    (["linear_probe", "--train", SHAPES], "^--train = 'the data of source'"),
    (["knn", "--k=21"], "^--k = 21; expected at most 19"),
    (["collapse", "--on=tokens"], "^--on = 'tokens'"),
    (["knn", "--train", "shapse:val"], "^--train.*Did you mean 'shapes'"),
    (["knn", "--train", "shapes:spilt=val"], "^--train.spilt"),
    (["few_shot", "--train", OTHERS, "--shot=1"], "^--shot = 1; .*'shots'"),
  ],
)
def test_the_command_says_what_is_wrong(flags, said, small, monkeypatch):
  given = ["--checkpoint", str(small), "--data", SHAPES, "--task", *flags]
  monkeypatch.setattr("sys.argv", ["evaluate", *given])
  with pytest.raises(errors.UserError, match=said):
    evaluate.run()


def in_training():
  """A config with an evaluation of each kind; knn has both of its forms."""
  source = {
    "name": "shapes", "split": "by_shape", "train_size": 512, "size": 32
  }  # fmt: skip
  train = source | {"seed": 1}
  evals = {
    "own": {"task": "knn", "source": source, "k": 5},
    "knn": {"task": "knn", "source": source, "train": train},
    "probe": {"task": "linear_probe", "source": source, "train": train,
              "solver": "sgd", "epochs": 2},
    "shots": {"task": "few_shot", "source": source, "train": train,
              "shots": [1]},
    "collapse": {"task": "collapse", "source": source},
    "pictures": {"task": "neighbors", "source": source, "rows": 2, "k": 2},
  }  # fmt: skip
  flags = ["--config.total=1", "--config.schedule.warmup=0"]
  config = tiny.load("siglip", "smoke", *flags)
  return config | {"evals": evals}


@pytest.mark.slow
def test_all_run_in_training_and_are_logged(tmp_path):
  latest = loop.fit(experiment.build(in_training()), tmp_path)
  for name in (
    "knn/own/top1", "knn/knn/top5", "linear_probe/probe/lr",
    "few_shot/shots/1shot_top1", "collapse/collapse/alignment",
  ):  # fmt: skip
    assert isinstance(latest[f"eval/{name}"], float), name
  assert latest["eval/neighbors/pictures/nearest_images"].size[0] > 3 * 96
  tasks = {name.split("/")[1] for name in latest if name.startswith("eval/")}
  texts = {"retrieval", "zero_shot", "zero_shot_multi_label", "gallery"}
  words = {"labels", "zero_shot_labels"}  # Need a classifier.
  told = {"captioning", "zero_shot_captions"}  # Need a decoder,
  told |= {"reconstruction"}  # or one of patches.
  maps = {"attention"}  # Needs a class token.
  others = texts | words | told | maps
  assert tasks | others == {*registry.names("evals")}


@pytest.mark.slow
def test_a_plan_opens_neither_source():
  config = in_training()
  config["evals"]["knn"]["train"] = {"name": "folder", "root": "nowhere"}
  assert plan.plan(config, jax.devices()[:1])
  config["evals"]["knn"]["train"] = {"name": "folder", "rout": "nowhere"}
  with pytest.raises(errors.UserError, match="evals.knn.train.rout"):
    plan.plan(config, jax.devices()[:1])
