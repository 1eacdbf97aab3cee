"""Ranks: NaN never is right, and no figure is 1 whatever the model is."""

import math

import numpy as np
import pytest
from test_evals import Source, embed_images, embed_texts, model

from big_contrastive.config import errors
from big_contrastive.evals import gallery, retrieval, zero_shot

BAD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", BAD)
def test_scores_that_are_not_finite_never_make_a_label_right(value):
  r = np.random.default_rng(0)
  label = r.integers(0, 6, 300)
  scores = r.normal(size=(300, 6)) + 2 * np.eye(6)[label]
  sound = zero_shot.ranks(scores, label)
  bad = r.random(scores.shape) < 0.1
  found = zero_shot.ranks(np.where(bad, value, scores), label)
  own = bad[np.arange(300), label]
  assert (found >= sound).all() and own.any()
  assert (found[own] == retrieval.NEVER).all()
  # By hand: each bad column is ahead, and of the others those that were.
  ahead = scores > scores[np.arange(300), label][:, None]
  np.testing.assert_array_equal(found[~own], (ahead | bad)[~own].sum(axis=1))


@pytest.mark.parametrize("value", BAD)
def test_vectors_that_are_not_finite_never_find_nor_are_found(value):
  r = np.random.default_rng(0)
  z, ids = r.normal(size=(60, 8)), np.arange(60) // 2
  texts = z + 0.3 * r.normal(size=z.shape)
  sound = retrieval.first_match(z, ids, texts, ids)
  queries, candidates = z.copy(), texts.copy()
  queries[::7, 0] = value
  candidates[::5, 0] = value
  with np.errstate(invalid="ignore"):
    found = retrieval.first_match(queries, ids, candidates, ids)
  assert (found >= sound).all()
  assert (found[::7] == retrieval.NEVER).all()
  # 12 candidates are ahead of all, of which one at most would match.
  assert (found >= 11).all()


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", "b")])
def test_nothing_is_right_about_nan_whatever_the_classes_are_called(names):
  for scores in (np.full((2, 2), np.nan), np.full((2, 2), np.inf)):
    found = zero_shot.ranks(scores, np.array([0, 1]), names)
    assert (found == retrieval.NEVER).all()
  alone = zero_shot.ranks(np.full((1, 1), np.nan), np.array([0]))
  assert alone == retrieval.NEVER


def test_a_query_without_a_match_is_never_right():
  z = np.eye(3)
  found = retrieval.first_match(z, np.arange(3), z[:2], np.arange(2))
  assert found.tolist() == [0, 0, retrieval.NEVER]


def test_prompts_that_cancel_out_name_their_class():
  source = Source(["x"], [0], [0], ["cat", "dog"])
  texts = {
    "a cat": [1, 0],
    "no cat": [-1, 0],
    "a dog": [0, 1],
    "no dog": [1, 0],
  }
  evaluator = zero_shot.prepare(source, templates=["a {c}", "no {c}"])
  with pytest.raises(
    errors.RunError, match="1 of 2 classes are not finite.*'cat'"
  ):
    dict(evaluator(model(embed_images([[1, 0]], source), embed_texts(texts))))


def test_the_gallery_shows_nothing_in_green_that_is_not_finite(monkeypatch):
  source, shown = Source(["a", "b"], [0, 1]), []
  monkeypatch.setattr(gallery, "_cell", lambda *args: shown.append(args[-1]))
  texts = {"a": [np.nan, 0], "b": [0, 1]}
  evaluator = gallery.prepare(source, rows=1, columns=2)
  list(
    evaluator(model(embed_images([[1, 0], [0, 1]], source), embed_texts(texts)))
  )
  right = {text for found in shown for text, right in found if right}
  assert len(shown) == 2 and right == {"b"}


@pytest.mark.parametrize("classes", [4, 5, 6, 20])
def test_top5_has_its_chance_beside_it(classes):
  """It is 1 of five classes, whatever the model is."""
  names = [f"c{i}" for i in range(classes)]
  source = Source(names, range(classes), list(range(classes)), names)
  z = np.eye(classes)
  texts = embed_texts(dict(zip(names, z, strict=True)))
  found = dict(zero_shot.prepare(source)(model(embed_images(z, source), texts)))
  assert found["top1"] == found["top5"] == 1
  assert found["chance_top5"] == min(1, 5 / classes)
