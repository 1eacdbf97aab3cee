"""The probe's solvers against their conditions in float64, and its choices."""

import numpy as np
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.evals import (
  _linear,
  _softmax_regression,
  linear_probe,
)

TRAIN = planted.clusters(190, spread=2.0, seed=1)
TEST = planted.clusters(83, spread=2.0, seed=2)
L2 = [1e-3, 1.0, 1e-1]


def softmax(x, label, weight, bias):
  """Probabilities less one-hot labels, [n, c], in float64."""
  logits = x.astype(np.float64) @ weight + bias
  p = np.exp(logits - logits.max(axis=1, keepdims=True))
  return p / p.sum(axis=1, keepdims=True) - np.eye(p.shape[1])[label]


def gradient(x, label, weight, bias, l2):
  """Its largest element, of mean cross entropy + l2 / 2 |weight|^2."""
  error = softmax(x, label, weight, bias)
  of_weight = x.T.astype(np.float64) @ error / len(x) + l2 * weight
  return max(np.abs(of_weight).max(), np.abs(error.mean(axis=0)).max())


@pytest.mark.parametrize("devices", [1, 8])
def test_lbfgs_ends_where_the_gradient_in_float64_is_zero(devices, monkeypatch):
  """Over several tiles, the last one padded; some of the rows are left out."""
  monkeypatch.setattr(_softmax_regression, "_TILE", 72)
  left_out = np.arange(190) % 5 == 0
  label = np.where(left_out, _softmax_regression.NONE, TRAIN.label)
  fitted = _softmax_regression.lbfgs(
    TRAIN.x, label, 7, L2, planted.model(devices), steps=200, tolerance=1e-5
  )
  x, label = TRAIN.x[~left_out], TRAIN.label[~left_out]
  for l2, weight, bias in zip(L2, *fitted, strict=True):
    assert gradient(x, label, weight, bias, l2) < 1.5e-5
    # And nowhere near: the condition can fail.
    assert gradient(x, label, 1.01 * weight, bias, l2) > 1e-4
  norms = np.linalg.norm(fitted.weight, axis=(1, 2))
  assert norms[0] > norms[2] > norms[1]


def test_lbfgs_that_has_not_ended_says_so(caplog):
  _softmax_regression.lbfgs(
    TRAIN.x, TRAIN.label, 7, [1e-3], planted.model(), steps=2, tolerance=1e-5
  )
  assert "after 2 steps of L-BFGS, not 1e-05" in caplog.text


@pytest.mark.parametrize("devices", [1, 8])
def test_sgd_at_several_rates_is_pytorchs_at_each(devices):
  """A batch that 8 devices cannot share evenly, and rows that are left over."""
  rates, epochs, size = [0.3, 4.0], 3, 30
  label = np.where(np.arange(190) < 20, _softmax_regression.NONE, TRAIN.label)
  fitted = _softmax_regression.sgd(
    TRAIN.x, label, 7, rates, planted.model(devices),
    epochs=epochs, batch_size=size, momentum=0.8, seed=3,
  )  # fmt: skip
  for i, rate in enumerate(rates):
    w, b = np.zeros((16, 7)), np.zeros(7)
    v = [np.zeros_like(w), np.zeros_like(b)]
    step, total = 0, epochs * (170 // size)
    for epoch in range(epochs):
      r = np.random.default_rng((3, epoch))
      order = r.permutation(np.arange(20, 190))
      for rows in np.split(order[: 170 // size * size], 170 // size):
        error = softmax(TRAIN.x[rows], TRAIN.label[rows], w, b) / size
        now = rate * size / 256 * (1 + np.cos(np.pi * step / total)) / 2
        grads = TRAIN.x[rows].T.astype(np.float64) @ error, error.sum(axis=0)
        v = [0.8 * a + g for a, g in zip(v, grads, strict=True)]
        w, b, step = w - now * v[0], b - now * v[1], step + 1
    np.testing.assert_allclose(fitted.weight[i], w, rtol=0, atol=2e-5)
    np.testing.assert_allclose(fitted.bias[i], b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_ranks_are_those_of_numpy_and_ties_count_against(devices, monkeypatch):
  monkeypatch.setattr(_linear, "_CHUNK", 20)
  r = np.random.default_rng(0)
  weight, bias = r.normal(size=(3, 16, 7)), r.normal(size=(3, 7))
  weight[1, :, 3], bias[1, 3] = weight[1, :, 4], bias[1, 4]  # Two alike.
  weight[2, 0, 5] = np.inf
  classifiers = _linear.Classifiers(weight, bias)
  found = _linear.ranks(TEST.x, TEST.label, classifiers, planted.model(devices))
  assert found.shape == (3, 83)
  with np.errstate(invalid="ignore"):
    scores = np.einsum("nw,swc->snc", TEST.x, weight) + bias[:, None]
  own = np.take_along_axis(scores, TEST.label[None, :, None], axis=2)
  scores[1, :, 3] = scores[1, :, 4]
  want = np.sum(scores >= own, axis=2) - 1
  np.testing.assert_array_equal(found[:2], want[:2])
  alike = np.isin(TEST.label, (3, 4))
  assert alike.any() and (found[1, alike] >= 1).all()
  # What is not finite is ahead of all others, and never right itself.
  fine = np.delete(scores[2], 5, axis=1)
  ahead = np.sum(fine >= own[2], axis=1)
  of_5 = TEST.label == 5
  np.testing.assert_array_equal(found[2, ~of_5], ahead[~of_5])
  assert of_5.any() and (found[2, of_5] > 7).all()


# --- The evaluator.

FAST = {
  "lbfgs": {"l2": [1e-2, 1.0, 0.1]},
  "sgd": {"rates": [0.03, 3.0, 0.3], "epochs": 10, "batch_size": 64},
}
CHOSEN = {"lbfgs": "l2", "sgd": "lr"}


def probe(solver, source=TEST, train=TRAIN, devices=1, **kwargs):
  """The figures, from what may be fast."""
  run = linear_probe.prepare(
    source, train=train, solver=solver, **(FAST[solver] | kwargs)
  )
  return dict(run(planted.model(devices)))


@pytest.mark.parametrize("solver", FAST)
def test_it_says_what_it_chose_and_any_number_of_devices_says_the_same(solver):
  found = probe(solver)
  assert list(found) == [
    "top1", "top5", "val_top1", CHOSEN[solver], "chance", "chance_top5"
  ]  # fmt: skip
  assert found["chance"] == 1 / 7 and found["chance_top5"] == 5 / 7
  assert found[CHOSEN[solver]] in [*FAST[solver].values()][0]
  assert 0.6 < found["top1"] < 1 and 0.6 < found["val_top1"] < 1
  assert found == probe(solver, devices=8)


@pytest.mark.parametrize("solver", FAST)
def test_what_is_chosen_is_best_on_the_rows_held_out_and_fitted_to_all(solver):
  """By hand: each value alone, the held-out accuracy, the fit to all rows."""
  found = probe(solver, normalize="none", held_out=0.3, seed=4)
  held = linear_probe._held_out(TRAIN.label, 0.3, 4)
  label = np.where(held, _softmax_regression.NONE, TRAIN.label)
  values = sorted([*FAST[solver].values()][0], reverse=solver == "lbfgs")

  def fitted(label, value):
    embed = planted.model()
    if solver == "lbfgs":
      options = {"steps": 1000, "tolerance": 1e-5}
      fit = _softmax_regression.lbfgs
    else:
      options = {"epochs": 10, "batch_size": 64, "momentum": 0.9, "seed": 4}
      fit = _softmax_regression.sgd
    return fit(TRAIN.x, label, 7, [value], embed, **options)

  def top1(fit, data, rows):
    scores = data.x[rows] @ fit.weight[0] + fit.bias[0]
    return np.mean(scores.argmax(axis=1) == data.label[rows])

  right = [top1(fitted(label, v), TRAIN, held) for v in values]
  best = values[int(np.argmax(right))]
  assert found[CHOSEN[solver]] == best and found["val_top1"] == max(right)
  whole = fitted(TRAIN.label, best)
  assert found["top1"] == top1(whole, TEST, slice(None))


def test_the_rows_that_are_evaluated_choose_nothing():
  shuffled = np.random.default_rng(0).permutation(TEST.label)
  found = probe("lbfgs"), probe("lbfgs", planted.Data(TEST.x, shuffled))
  assert found[0]["l2"] == found[1]["l2"]
  assert found[0]["val_top1"] == found[1]["val_top1"]
  assert found[1]["top1"] < 0.35 < found[0]["top1"]


def test_held_out_rows_are_of_every_class_and_of_the_seed():
  label = np.repeat([0, 1, 2, 3], [1, 2, 10, 31])
  held = linear_probe._held_out(label, 0.2, 0)
  assert np.bincount(label[held], minlength=4).tolist() == [0, 1, 2, 6]
  np.testing.assert_array_equal(held, linear_probe._held_out(label, 0.2, 0))
  assert (held != linear_probe._held_out(label, 0.2, 1)).any()
  most = linear_probe._held_out(label, 0.99, 0)
  assert np.bincount(label[~most]).tolist() == [1, 1, 1, 1]
  with pytest.raises(errors.UserError, match="train = 'one of each class'"):
    linear_probe._held_out(np.arange(5), 0.1, 0)


def test_batch_norm_makes_the_scale_of_features_unimportant():
  """But for the part of each that has the floor of the variance."""
  scale, shift = np.geomspace(1, 100, 16), np.linspace(-50, 50, 16)
  moved = [planted.Data(s.x * scale + shift, s.label) for s in (TEST, TRAIN)]
  for solver in FAST:
    assert probe(solver) == probe(solver, *moved)
  raw = probe("sgd", *moved, normalize="none")
  assert raw != probe("sgd", normalize="none")
  # A constant feature is no division by zero.
  flat = [planted.Data(np.pad(s.x, ((0, 0), (0, 1)), constant_values=3.0),
                       s.label) for s in (TEST, TRAIN)]  # fmt: skip
  assert probe("lbfgs", *flat) == probe("lbfgs")


def test_moments_are_those_of_numpy(monkeypatch):
  monkeypatch.setattr(_linear, "_CHUNK", 50)
  x = (TRAIN.x + np.float32(1000)).astype(np.float32)
  mean, variance = _linear.moments(x)
  np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0))
  np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=0))


def test_separable_classes_are_told_apart_and_noise_is_not():
  apart = [planted.clusters(n, spread=0.1, seed=n) for n in (50, 140)]
  assert probe("lbfgs", *apart)["top1"] == 1
  r = np.random.default_rng(0)
  noise = [planted.Data(r.normal(size=s.x.shape), s.label)
           for s in (planted.clusters(400), TRAIN)]  # fmt: skip
  assert abs(probe("lbfgs", *noise)["top1"] - 1 / 7) < 0.07


def test_a_choice_at_the_end_of_the_sweep_is_told(caplog):
  probe("lbfgs", l2=[1e5, 1e-2])
  assert "l2 = 0.01, the best of [100000.0, 0.01], is at their" in caplog.text
  caplog.clear()
  probe("lbfgs", l2=[0.1])
  assert not caplog.text


def test_records_without_a_label_are_left_out_and_counted():
  """The rest give the figures of a source without them."""
  x = np.concatenate([TRAIN.x, TRAIN.x[:9] * 30])
  label = np.concatenate([TRAIN.label, np.full(9, -1)])
  found = probe("sgd", train=planted.Data(x, label))
  assert found == probe("sgd") | {"unlabeled_train": 9.0}


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"train": TEST}, "train = 'the data of source'; expected other data"),
    ({"solver": "adam"}, "solver = 'adam'; expected one of lbfgs, sgd"),
    ({"normalize": "unit"}, "normalize = 'unit'"),
    ({"on": "tokens"}, "on = 'tokens'"),
    ({"l2": []}, "l2 = "),
    ({"l2": [1e-3, 0.0]}, "l2 = .*above 0"),
    ({"rates": ["1"]}, "rates = "),
    ({"held_out": 0.0}, "held_out = 0.0; expected a part between"),
    ({"held_out": 1.0}, "held_out = 1.0"),
    ({"momentum": 1.0}, "momentum = 1.0"),
    ({"steps": 0}, "steps = 0; expected a whole number"),
    ({"epochs": 0}, "epochs = 0"),
    ({"batch_size": -1}, "batch_size = -1"),
  ],
)
def test_wrong_arguments_are_named(kwargs, said):
  with pytest.raises(errors.UserError, match=said):
    linear_probe.prepare(TEST, **({"train": TRAIN} | kwargs))


@pytest.mark.peers
def test_lbfgs_finds_scikit_learns_minimum():
  linear_model = pytest.importorskip("sklearn.linear_model")
  for l2 in (1e-1, 1e-3):
    theirs = linear_model.LogisticRegression(
      C=1 / (190 * l2), tol=1e-9, max_iter=10_000
    )
    theirs.fit(TRAIN.x.astype(np.float64), TRAIN.label)
    ours = _softmax_regression.lbfgs(
      TRAIN.x, TRAIN.label, 7, [l2], planted.model(), steps=1000, tolerance=1e-6
    )
    # Any constant may be added to all biases.
    bias = ours.bias[0] - ours.bias[0].mean()
    own = theirs.intercept_ - theirs.intercept_.mean()
    np.testing.assert_allclose(bias, own, rtol=0, atol=2e-3)
    np.testing.assert_allclose(
      ours.weight[0], theirs.coef_.T, rtol=0, atol=2e-3
    )
