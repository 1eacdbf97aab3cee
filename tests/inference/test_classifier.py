"""A classifier of captions' words: loaded, evaluated, moved elsewhere."""

import pathlib

import jax
import numpy as np
import pytest

import big_contrastive
from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.labels import synsets
from big_contrastive.evals import labels
from big_contrastive.inference import classifier
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models import build

TOWER = str(pathlib.Path(__file__).parents[1] / "normed_tower.py")
SHAPES = "shapes:split=heldout,train_size=512,size=32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A checkpoint whose weights are random, with a vocabulary; its path."""
  section = {
    "image": {"tower": TOWER, "res": 16, "width": 24},
    "heads": {"classifier": {"name": "classifier", "classes": 48}},
  }
  built = build.build_model(section)
  r = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: r.normal(size=x.shape).astype(x.dtype), built.shapes
  )
  statistics = jax.tree.map(
    lambda x: np.ones(x.shape, x.dtype), built.statistics
  )
  params["img"]["norm"] |= statistics["img"]["norm"]
  spec = {"kind": "synsets", "length": 12, "eos": False}
  bundle = ModelBundle(
    section, params, spec, synsets.SHAPES.read_bytes(),
    [("resize", {"size": 16})],
  )  # fmt: skip
  path = tmp_path_factory.mktemp("labels") / "model"
  model_files.write(bundle, path, "checkpoint")
  return path


@pytest.fixture(scope="module")
def model(trained):
  return big_contrastive.load(trained)


def test_logits_are_those_of_the_features(model):
  source = build_source(SHAPES, "x")
  embed = model.embedder.bound(model.params)
  assert not embed.has_text and embed.classes.count == 48
  columns = np.array([47, 3, 8])
  found, label = embed.classes.logits(source, columns)
  linear = jax.device_get(model.params["classifier"]["linear"])
  x = embed.features(source).features.astype(np.float64)
  expected = x @ linear["kernel"][:, columns] + linear["bias"][columns]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  assert label.tolist() == [source[i]["label"] for i in range(len(source))]
  figures = dict(labels.prepare(source)(embed))
  assert 0 < figures["map"] < 1 and figures["unlabeled"] == 0


def test_the_vocabulary_travels_with_the_model(trained, model, tmp_path):
  again = model_files.read(trained)
  model_files.write(again, tmp_path / "copy", "checkpoint")
  copied = big_contrastive.load(tmp_path / "copy")
  texts = ["a red circle", "two moons"]
  rows = [m.embedder.labels.rows(texts) for m in (model, copied)]
  np.testing.assert_array_equal(*rows)
  names = [model.embedder.labels.decode(row) for row in rows[0]]
  assert names == ["red, circle", "moon"]


def test_other_classes_get_the_mean_of_their_names_columns(model):
  linear = jax.device_get(model.params["classifier"]["linear"])
  found = synsets.Vocabulary(synsets.SHAPES.read_bytes())
  red, circle = (found.heads.index(w) for w in ("red", "circle"))
  rows = classifier.transferred(model, ["red circle", "zeppelin", "circles"])
  assert rows.unknown == ["zeppelin"] and rows.kernel.shape == (24, 3)
  mean = linear["kernel"][:, [red, circle]].mean(1)
  np.testing.assert_allclose(rows.kernel[:, 0], mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(rows.kernel[:, 1], 0)
  np.testing.assert_allclose(
    rows.kernel[:, 2], linear["kernel"][:, circle], rtol=1e-6
  )
  bias = linear["bias"][[red, circle]].mean(), 0, linear["bias"][circle]
  np.testing.assert_allclose(rows.bias, bias, rtol=1e-5)


def test_a_model_without_a_classifier_says_so(loaded):
  with pytest.raises(errors.UserError, match="classifier is missing"):
    classifier.transferred(loaded, ["dog"])
