"""Few-shot ridge regression against its normal equations in float64."""

import numpy as np
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.evals import few_shot

TRAIN = planted.clusters(120, spread=2.0, seed=1)
TEST = planted.clusters(83, spread=2.0, seed=2)


def solved(x, target, l2):
  """Weights [w + 1, c] over features and a constant one of 100."""
  x = np.hstack([x, np.full((len(x), 1), 100.0)])
  return np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ target)


@pytest.mark.parametrize("rows", [5, 16, 17, 60])
def test_the_closed_form_solves_the_normal_equations(rows):
  """With more and with fewer rows than features."""
  r = np.random.default_rng(0)
  x, target = r.normal(size=(rows, 16)), r.normal(size=(rows, 3))
  strengths = [0.5, 1024.0]
  weight, bias = few_shot.ridge(x, target, strengths)
  assert weight.shape == (2, 16, 3) and bias.shape == (2, 3)
  for l2, w, b in zip(strengths, weight, bias, strict=True):
    want = solved(x, target, l2)
    np.testing.assert_allclose(w, want[:-1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(b, 100 * want[-1], rtol=0, atol=1e-7)


def drawn(label, count, seed):
  """The rows of a seed: of each class the first of a permutation, and more."""
  r = np.random.default_rng(seed)
  orders = [r.permutation(np.flatnonzero(label == k)) for k in range(7)]
  return (
    np.concatenate([o[:count] for o in orders]),
    np.concatenate([o[count : count + 4] for o in orders]),
  )


def by_hand(count, l2, seed):
  """Top-1 on the test rows and on training rows that were not drawn."""
  rows, rest = drawn(TRAIN.label, count, seed)
  x = TRAIN.x[rows].astype(np.float64)
  mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5
  target = np.where(TRAIN.label[rows][:, None] == np.arange(7), 1.0, -1.0)
  fitted = solved((x - mean) / std, target, l2)

  def top1(x, label):
    x = np.hstack([(x - mean) / std, np.full((len(x), 1), 100.0)])
    return np.mean((x @ fitted).argmax(axis=1) == label)

  return top1(TEST.x, TEST.label), top1(TRAIN.x[rest], TRAIN.label[rest])


@pytest.mark.parametrize("devices", [1, 8])
def test_figures_are_means_over_draws_of_the_formula(devices):
  run = few_shot.prepare(TEST, train=TRAIN, shots=[1, 5], seeds=3)
  found = dict(run(planted.model(devices)))
  want = {
    f"{count}shot_top1": np.mean([by_hand(count, 1024, i)[0] for i in range(3)])
    for count in (1, 5)
  }
  assert found == pytest.approx(want | {"chance": 1 / 7}, abs=1e-9)
  assert 0.2 < found["1shot_top1"] < found["5shot_top1"] < 1


@pytest.mark.parametrize("devices", [1, 8])
def test_of_several_l2_the_best_on_other_training_rows_is_taken(devices):
  strengths = [1e-3, 30.0, 1024.0, 1e6]
  run = few_shot.prepare(
    TEST, train=TRAIN, shots=6, l2=strengths, seeds=2, held_out=4
  )
  found = dict(run(planted.model(devices)))
  figures = np.array(
    [[by_hand(6, l2, i) for i in range(2)] for l2 in strengths]
  ).mean(axis=1)
  best = int(figures[:, 1].argmax())
  assert figures[:, 1].max() > figures[:, 1].min()
  assert found["6shot_l2"] == strengths[best]
  assert found["6shot_top1"] == pytest.approx(figures[best, 0], abs=1e-9)


def test_a_shot_of_each_is_enough_for_classes_far_apart():
  near = [planted.clusters(n, spread=0.01, seed=n) for n in (50, 90)]
  run = few_shot.prepare(near[0], train=near[1], shots=1)
  assert dict(run(planted.model()))["1shot_top1"] == 1


def test_a_model_that_makes_all_alike_is_never_right():
  flat = [planted.Data(np.ones_like(s.x), s.label) for s in (TEST, TRAIN)]
  run = few_shot.prepare(flat[0], train=flat[1], shots=[1, 5])
  found = dict(run(planted.model()))
  assert found["1shot_top1"] == found["5shot_top1"] == 0


def test_a_class_with_too_few_rows_is_named():
  """Of 120 rows class 0 has 18, and those from 1 on 17."""
  run = few_shot.prepare(TEST, train=TRAIN, shots=[1, 18])
  with pytest.raises(errors.UserError, match="at most 17: .* 17 rows of .* 1"):
    dict(run(planted.model()))
  run = few_shot.prepare(TEST, train=TRAIN, shots=17, l2=[1.0, 2.0])
  with pytest.raises(errors.UserError, match="at most 16: .* left to choose"):
    dict(run(planted.model()))


def test_records_without_a_label_are_left_out_and_counted():
  x = np.concatenate([TEST.x, TEST.x[:9] * 30])
  source = planted.Data(x, np.concatenate([TEST.label, np.full(9, -1)]))
  found, want = (
    dict(few_shot.prepare(s, train=TRAIN, shots=1)(planted.model()))
    for s in (source, TEST)
  )
  assert found == want | {"unlabeled": 9.0}


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"train": TEST}, "train = 'the data of source'; expected other data"),
    ({"shots": 0}, r"shots = \[0\]; expected a whole number"),
    ({"shots": []}, "shots = "),
    ({"shots": [1, 1]}, "each number once"),
    ({"l2": 0.0}, r"l2 = \[0.0\]; expected a number above 0"),
    ({"l2": []}, "l2 = "),
    ({"seeds": 0}, "seeds = 0"),
    ({"held_out": 0}, "held_out = 0"),
    ({"on": "tokens"}, "on = 'tokens'"),
  ],
)
def test_wrong_arguments_are_named(kwargs, said):
  with pytest.raises(errors.UserError, match=said):
    few_shot.prepare(TEST, **({"train": TRAIN} | kwargs))
