"""Multi-label mAP and zero-shot by labels, against counting by hand."""

import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data.source import Records
from big_contrastive.evals import Classes, Embed, labels, zero_shot_labels

WORDS = ["dog", "cat", "car", "tree", "sky", "sea", "red", "fog"]


def rows(texts):
  """Numbers of words, padded with 8 and 9, which are no classes."""
  out = np.full((len(texts), 5), 8, np.int32)
  for row, text in zip(out, texts, strict=True):
    found = [WORDS.index(w) for w in text.split() if w in WORDS][:4]
    row[: len(found)] = found
    row[4] = 9
  return out


def embed(logits, label=None):
  asked = []

  def of(source, columns):
    asked.append(list(columns))
    given = np.full(len(source), -1) if label is None else np.array(label)
    return logits[:, columns], given

  classes = Classes(8, rows, of)
  made = Embed(None, None, None, None, has_text=False, classes=classes)
  return made, asked


def pairs(*texts):
  return Records(
    [{"image": b"", "id": i, "text": t} for i, t in enumerate(texts)]
  )


def by_hand(score, truth):
  """Over all images that are true: precision among those not below it."""
  found = []
  for i in np.flatnonzero(truth):
    above = score >= score[i]
    found.append(truth[above].mean())
  return np.mean(found)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_the_mean_precision_at_what_is_true(seed):
  r = np.random.default_rng(seed)
  score = r.integers(0, 6, 30).astype(np.float32)  # Many are equal.
  truth = r.uniform(size=30) < 0.3
  truth[0] = True
  got = labels.average_precision(score, truth)
  np.testing.assert_allclose(got, by_hand(score, truth), rtol=1e-12)
  order = r.permutation(30)
  again = labels.average_precision(score[order], truth[order])
  np.testing.assert_allclose(again, got, rtol=1e-12)
  assert labels.average_precision(truth.astype(np.float32), truth) == 1
  same = labels.average_precision(np.zeros(30, np.float32), truth)
  np.testing.assert_allclose(same, truth.mean())


def test_the_mean_is_over_classes_that_some_images_have(monkeypatch):
  source = pairs(["dog sky", "cat sky dog"], "sky car", "sky dog", "sky", "sky")
  r = np.random.default_rng(0)
  logits = r.normal(size=(5, 8)).astype(np.float32)
  made, asked = embed(logits)
  figures = dict(labels.prepare(source)(made))
  truth = np.zeros((5, 8), bool)
  truth[[0, 2], 0] = truth[0, 1] = truth[1, 2] = True
  expected = [by_hand(logits[:, v], truth[:, v]) for v in (0, 1, 2)]
  np.testing.assert_allclose(figures["map"], np.mean(expected), rtol=1e-12)
  np.testing.assert_allclose(figures["chance"], (2 + 1 + 1) / 5 / 3)
  assert figures["classes"] == 3  # All have the sky: no order is wrong.
  assert figures["labels"] == 9 / 5 and figures["unlabeled"] == 0
  assert asked == [[0, 1, 2]]
  monkeypatch.setattr(labels, "_LOGITS", 10)
  made, asked = embed(logits)
  assert dict(labels.prepare(source)(made)) == figures
  assert asked == [[0, 1], [2]]
  made, asked = embed(logits)
  assert dict(labels.prepare(source, least=2)(made))["classes"] == 1


def test_images_without_a_label_are_counted():
  made, _ = embed(np.zeros((3, 8), np.float32))
  figures = dict(labels.prepare(pairs("nothing", "dog", "cat"))(made))
  np.testing.assert_allclose(figures["unlabeled"], 1 / 3)
  with pytest.raises(errors.UserError, match="captions of source = 'none'"):
    dict(labels.prepare(pairs("no", "none", "x"))(made))


def test_a_class_scores_the_probability_of_all_its_words():
  names = ["red car", "dog", "cat", "red sea", "tree", "what"]
  source = Records([{"image": b"", "id": i} for i in range(40)])
  source.classes = names
  r = np.random.default_rng(0)
  logits = r.normal(size=(40, 8)).astype(np.float32)
  label = r.integers(0, 6, 40)
  label[:3] = -1, 5, 5
  made, asked = embed(logits, label)
  figures = dict(zero_shot_labels.prepare(source)(made))
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  column = {w: p[:, i] for i, w in enumerate(WORDS)}
  score = np.stack(
    [
      column["red"] * column["car"], column["dog"], column["cat"],
      column["red"] * column["sea"], column["tree"], 0 * column["dog"],
    ], 1,
  )  # fmt: skip
  known = label >= 0
  rank = (score > score[np.arange(40), label][:, None]).sum(1)[known]
  np.testing.assert_allclose(figures["top1"], np.mean(rank < 1))
  np.testing.assert_allclose(figures["top5"], np.mean(rank < 5))
  assert figures["chance"] == 1 / 6 and figures["nameless"] == 1
  assert figures["unlabeled"] == 1
  assert asked == [[0, 1, 2, 3, 5, 6]]
  made, _ = embed(logits, label)
  figures = dict(zero_shot_labels.prepare(source, by="logit")(made))
  column = {w: logits[:, i].astype(np.float64) for i, w in enumerate(WORDS)}
  score = np.stack(
    [
      (column["red"] + column["car"]) / 2, column["dog"], column["cat"],
      (column["red"] + column["sea"]) / 2, column["tree"],
      np.full(40, -np.inf),
    ], 1,
  )  # fmt: skip
  rank = (score > score[np.arange(40), label][:, None]).sum(1)[known]
  np.testing.assert_allclose(figures["top1"], np.mean(rank < 1))


def test_what_is_missing_is_named():
  source = Records([{"image": b"", "id": 0}])
  with pytest.raises(errors.UserError, match="classes of source is missing"):
    zero_shot_labels.prepare(source)
  source.classes = ["what", "ever"]
  made, _ = embed(np.zeros((1, 8), np.float32), [0])
  with pytest.raises(errors.UserError, match="words of the model's vocabulary"):
    dict(zero_shot_labels.prepare(source)(made))
  without = Embed(None, None, None, None)
  for run in (labels.prepare(pairs("dog")), zero_shot_labels.prepare(source)):
    with pytest.raises(errors.UserError, match="classifier is missing"):
      dict(run(without))
