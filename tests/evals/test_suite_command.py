"""evaluate --suite: models times sets, each once, and one table."""

import csv
import dataclasses
import functools
import io
import json
import shutil

import numpy as np
import pytest
import stand_ins
import test_convert

import making
from big_contrastive import evaluate
from big_contrastive.config import errors
from big_contrastive.inference.embedder import Embedder
from big_contrastive.interop import model_files

SETS = "imagenet/val,flickr30k"
NAMES = ["red cat", "dog", "photo"]


def picture(i):
  pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
  return making.encoded(pixels, "WEBP", lossless=True)


@pytest.fixture
def data(tmp_path):
  """A set for classification and one for retrieval, of real images."""
  folder, labels = tmp_path / "data", [0, 0, 1, 1, 2, 2, 2]
  samples = [(picture(i), "cls", b"%d" % k) for i, k in enumerate(labels)]
  templates = ["a {c}", "a photo of a {c}"]
  lists = dict(classnames=NAMES, zeroshot_classification_templates=templates)
  stand_ins.wds(folder / "wds_imagenet1k", samples, 2, **lists)
  samples = [(picture(i), "txt", b"a cat\ntwo cats %d" % i) for i in range(5)]
  kind = ["retrieval"]
  stand_ins.wds(folder / "wds_flickr30k", samples, dataset_type=kind)
  return folder


@pytest.fixture
def embedded(monkeypatch):
  """How many records each call to embed images has had."""
  sizes, real = [], Embedder.images

  def images(self, params, source, before=lambda: None):
    sizes.append(len(source))
    return real(self, params, source, before)

  monkeypatch.setattr(Embedder, "images", images)
  return sizes


@pytest.fixture(scope="module")
def loaded():
  """Loads a path once: what a model has compiled serves all tests."""
  return functools.cache(evaluate.load)


@pytest.fixture
def run(monkeypatch, capsys, data, loaded, tmp_path):
  """run(*models, suite=..., out=...) -> what it prints."""
  monkeypatch.setattr(
    evaluate,
    "load",
    lambda path, where, **kwargs: loaded(path, where=where, texts=True),
  )

  def command(*models, suite=SETS, out=None):
    out = out or tmp_path / "out"
    words = ["--suite", suite, "--data", data, "--out", out, "--model", *models]
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, words)])
    evaluate.run()
    return capsys.readouterr().out

  return command


def table(tmp_path):
  return json.loads((tmp_path / "out" / "table.json").read_text())


def test_what_is_done_is_not_done_again(run, small, data, embedded, tmp_path):
  first = run(small)
  assert embedded == [7, 5]
  rows = table(tmp_path)
  assert [row["examples"] for row in rows] == [7] * 3 + [5] * 3 + [10] * 3
  assert all(0 < row["chance"] <= 1 for row in rows)
  of_csv = csv.DictReader(
    io.StringIO((tmp_path / "out" / "table.csv").read_text())
  )
  assert [float(row["value"]) for row in of_csv] == [r["value"] for r in rows]
  assert first == (tmp_path / "out" / "table.md").read_text()
  del embedded[:]
  assert run(small) == first and embedded == []
  # The same model elsewhere is the same; it has a column of its own.
  copy = shutil.copytree(small, tmp_path / "copy")
  both = run(small, copy).splitlines()
  assert embedded == [] and both[0].endswith(f" {small} | {copy} |")
  assert [row["value"] for row in table(tmp_path)] == 2 * [
    row["value"] for row in rows
  ]
  # Other prompts: that set alone. Another model: all of them.
  prompts = data / "wds_imagenet1k" / "zeroshot_classification_templates.txt"
  prompts.write_text("two cats and a {c}\n")
  run(small)
  assert embedded == [7]
  other = test_convert.model()
  other.params["t"] += 1  # No cosine depends on it, but it is another model.
  model_files.write(other, tmp_path / "other", "checkpoint")
  run(tmp_path / "other")
  assert embedded == [7, 7, 5]


def test_a_killed_run_goes_on_where_it_was(
  run, small, embedded, tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    real = Embedder.images

    def killed(self, params, source, before):
      if len(source) == 5:
        raise KeyboardInterrupt
      return real(self, params, source, before)

    patch.setattr(Embedder, "images", killed)
    with pytest.raises(KeyboardInterrupt):
      run(small)
  assert embedded == [7]
  told = run(small)
  assert embedded == [7, 5]
  assert told == run(small, out=tmp_path / "anew") and embedded[2:] == [7, 5]


def test_the_figures_are_those_of_the_task(
  run, small, data, tmp_path, monkeypatch, capsys
):
  run(small, suite="imagenet/val")
  words = [
    "--checkpoint", small, "--task", "zero_shot", "--match", "number",
    "--data", f"wds:{data}/wds_imagenet1k/test/{{0..1}}.tar,label=cls,"
    "caption=none",
    "--classes", data / "wds_imagenet1k" / "classnames.txt",
    "--templates",
    data / "wds_imagenet1k" / "zeroshot_classification_templates.txt",
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", ["evaluate", *map(str, words)])
  evaluate.run()
  want = json.loads(capsys.readouterr().out)
  for row in table(tmp_path):
    assert row["value"] == want[f"zero_shot/{row['metric']}"]


def test_every_model_is_checked_before_the_first_is_evaluated(
  run, small, embedded, tmp_path
):
  whole = test_convert.model()
  images = dataclasses.replace(
    whole,
    model={"image": whole.model["image"]},
    params={"img": whole.params["img"]},
    tokenizer={},
    blob=b"",
  )
  model_files.write(images, tmp_path / "images", "checkpoint")
  for other, said in (
    (tmp_path / "images", "text tower is missing; .*images has none"),
    (tmp_path / "nowhere", "--model = .*nowhere'; expected"),
  ):
    with pytest.raises(errors.UserError, match=said):
      run(small, other)
  assert embedded == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("--suite coco", "--model is missing"),
    ("--suite coco --model a a", "--model = .*each once"),
    ("--suite coco --model a --task knn", "--task = 'knn'; expected left out"),
    ("--suite coco --model a --k 5", "= '--k 5'; expected none"),
    ("--suite cocoa --model a", "--suite = 'cocoa'.*mean 'coco'"),
    ("--suite coco --model a", "data of coco/test = 'nowhere'"),
    ("--suite coco --model a --out /x/y", "--out = '/x/y'; expected a path in"),
    (f"--suite coco --model a --out {__file__}", "--out = .*a folder"),
    ("--task knn", "--checkpoint is missing"),
    ("--task knn --checkpoint a --out x", "--out = 'x'; expected left out"),
    ("--checkpoint a", "--task is missing; .*or --suite"),
  ],
)
def test_wrong_flags_are_one_line(words, said, monkeypatch):
  monkeypatch.setattr(
    "sys.argv", ["evaluate", "--data", "nowhere", *words.split()]
  )
  with pytest.raises(errors.UserError, match=said):
    evaluate.run()
