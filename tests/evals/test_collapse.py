"""Signs of collapse against all pairs in float64, and where they are known."""

import math

import numpy as np
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.evals import _cosines, _linear, collapse

SOURCE = planted.clusters(53, width=12)


def figures(source, devices=1, texts=None, **kwargs):
  run = collapse.prepare(source, **kwargs)
  return dict(run(planted.model(devices, texts)))


@pytest.mark.parametrize("on", ["features", "embeddings"])
@pytest.mark.parametrize("devices", [1, 8])
def test_the_figures_are_those_of_all_pairs_in_float64(
  devices, on, monkeypatch
):
  """In chunks, over rows that 8 devices cannot split evenly."""
  monkeypatch.setattr(_cosines, "_CHUNK", 20)
  monkeypatch.setattr(collapse, "_CHUNK", 20)
  monkeypatch.setattr(_linear, "_CHUNK", 20)
  found = figures(SOURCE, devices, on=on)
  z = planted.unit(SOURCE.x.astype(np.float64))
  apart = [
    math.exp(-2 * np.sum((z[i] - z[j]) ** 2))
    for i in range(53)
    for j in range(i)
  ]
  s = np.linalg.svd(z, compute_uv=False)
  share = s / s.sum()
  want = {
    "std": np.std(z, axis=0).mean(),
    "std_uniform": 12**-0.5,
    "effective_rank": math.exp(-np.sum(share * np.log(share))),
    "uniformity": math.log(np.mean(apart)),
  }
  assert found == pytest.approx(want, rel=1e-5)


def test_vectors_that_are_all_the_same_have_collapsed():
  found = figures(planted.Data(np.tile([[1.0, 2, 3, 4]], (40, 1))))
  assert found["std"] < 1e-6 and abs(found["uniformity"]) < 1e-6
  assert found["effective_rank"] == pytest.approx(1, abs=1e-4)


def test_vectors_all_over_the_sphere_have_not():
  x = np.random.default_rng(0).normal(size=(4000, 32))
  found = figures(planted.Data(x), devices=8)
  assert found["std"] == pytest.approx(found["std_uniform"], rel=0.01)
  assert found["effective_rank"] == pytest.approx(32, rel=0.01)
  # Squared distances are 2 +- 2 / sqrt(d): a little above log exp(-4).
  assert -4 < found["uniformity"] < -3.6


def test_the_effective_rank_counts_directions_that_are_used_alike():
  x = np.repeat(np.eye(6)[:4], 5, axis=0)
  assert figures(planted.Data(x))["effective_rank"] == pytest.approx(4)


def test_alignment_is_that_of_images_and_all_their_captions():
  """By hand: distances 0 and 2 of the first, 4 of the second, none of one."""
  source = planted.Data([[1, 0], [0, 1], [1, 0]], texts=[["a", "b"], ["c"], []])
  texts = {"a": [1, 0], "b": [0, 1], "c": [0, -1]}
  assert figures(source, texts=texts)["alignment"] == pytest.approx(2)
  # Neither without captions nor without a text tower, nor of features.
  bare = planted.Data(source.x)
  for found in (
    figures(bare, texts=texts),
    figures(source),
    figures(source, texts=texts, on="features"),
  ):
    assert "alignment" not in found and "uniformity" in found


def test_wrong_inputs_are_named():
  with pytest.raises(errors.UserError, match="source = '1 record'"):
    collapse.prepare(planted.Data([[1, 0]]))
  with pytest.raises(errors.UserError, match="on = 'tokens'"):
    collapse.prepare(SOURCE, on="tokens")
  with pytest.raises(errors.RunError, match="1 of 2 images.*record 1"):
    figures(planted.Data([[1, 0], [0, 0]]), on="features")
