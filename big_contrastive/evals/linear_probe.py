"""A linear classifier on the features of a frozen model."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import (
  Embed,
  Evaluator,
  _labeled,
  _linear,
  _softmax_regression,
)

_TOLERANCE = 1e-5  # Of the gradient of the mean cross entropy.

# x, label, strengths or rates -> a classifier for each of the latter.
Fit = Callable[[np.ndarray, np.ndarray, Sequence[float]], _linear.Classifiers]


class _Sweep(NamedTuple):
  """One hyperparameter: its name in the figures, its values, the solver."""

  name: str
  values: list[float]  # Of values that are as good, the first is taken.
  fit: Fit


def prepare(
  source: Source,
  *,
  train: Source,
  on: _labeled.On = "features",
  solver: Literal["lbfgs", "sgd"] = "lbfgs",
  normalize: Literal["batch_norm", "none"] = "batch_norm",
  held_out: float = 0.1,
  seed: int = 0,
  l2: list | tuple = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0),
  steps: int = 1000,
  rates: list | tuple = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0),
  epochs: int = 100,
  batch_size: int = 1024,
  momentum: float = 0.9,
) -> Evaluator:
  """Returns run(embed), which yields top1 and, of six classes or more, top5.

  Features are computed once, without augmentation. The solver fits softmax
  regression for each value of its hyperparameter to a part of the training
  rows; the value with the best val_top1, on the rest of them, is fitted again
  to all training rows, and that classifier is the one that top1 is of. The
  rows of `source` choose nothing.

  Also yields val_top1; what was chosen, as l2 by "lbfgs" or as lr by "sgd",
  which says which of the two it was; and the accuracy of guessing, chance and
  chance_top5. A record without a label, or with -1, is left out; how many
  there are is yielded as unlabeled and unlabeled_train.

  Args:
    source: labeled records.
    train: labeled records of the same classes, other data than `source`.
    on: the image tower's pooled "features", or "embeddings".
    solver: "lbfgs" minimizes mean cross entropy + l2 / 2 |weight|^2 over all
      rows at once, to the minimum; "sgd" is SGD with momentum and a cosine
      schedule, without decay, at all rates in one product.
    normalize: "batch_norm": features get mean 0 and variance 1 over the
      training rows, as by MAE's BatchNorm without affine (arXiv:2111.06377,
      appendix A.1), whose moments are those of each batch in training and
      running averages in evaluation; "none": they stay as they are.
    held_out: the part of each class's training rows that chooses.
    seed: of the choice of these rows, and of the order of the others.
    l2: of "lbfgs": strengths. With scikit-learn's C, l2 = 1 / (rows * C).
    steps: of "lbfgs": at most so many for each strength.
    rates: of "sgd": learning rates of 256 rows; times batch_size / 256.
    epochs, batch_size, momentum: of "sgd".
  """
  _labeled.choice_on(on)
  _labeled.require_other(source, train)
  errors.choice("solver", solver, ("lbfgs", "sgd"))
  errors.choice("normalize", normalize, ("batch_norm", "none"))
  _check_positive({"l2": l2, "rates": rates})
  _check_whole({"steps": steps, "epochs": epochs, "batch_size": batch_size})
  if not 0 < held_out < 1:
    allowed, remedy = "a part between 0 and 1", "0.1 is a tenth."
    raise errors.UserError("held_out", held_out, allowed, remedy)
  if not 0 <= momentum < 1:
    allowed, remedy = "a number from 0 up to 1, but below", "0.9 is usual."
    raise errors.UserError("momentum", momentum, allowed, remedy)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    task = _labeled.task(embed, source, train, on)
    scale = _scale(task.train.x, normalize)
    x, label = scale(task.train.x), task.train.label
    sweep = _lbfgs(l2, task.classes, embed, steps)
    if solver == "sgd":
      options = {"epochs": epochs, "batch_size": batch_size}
      options |= {"momentum": momentum, "seed": seed}
      sweep = _sgd(rates, task.classes, embed, options)
    held = _held_out(label, held_out, seed)
    best, val_top1 = _chosen(sweep, x, label, held, embed)
    (ahead,) = _linear.ranks(
      scale(task.test.x), task.test.label, sweep.fit(x, label, [best]), embed
    )
    yield "top1", float(np.mean(ahead < 1))
    if task.classes > 5:
      yield "top5", float(np.mean(ahead < 5))
    yield "val_top1", val_top1
    yield sweep.name, best
    yield "chance", 1 / task.classes
    if task.classes > 5:
      yield "chance_top5", 5 / task.classes
    yield from _labeled.unlabeled(task)

  return run


def _check_positive(given: dict[str, Sequence[float]]) -> None:
  for name, values in given.items():
    fine = [type(v) in (int, float) and 0 < v < np.inf for v in values]
    if not values or not all(fine):
      allowed, remedy = "one number above 0 or more", "They are a sweep."
      raise errors.UserError(name, values, allowed, remedy)


def _check_whole(given: dict[str, int]) -> None:
  for name, value in given.items():
    errors.at_least(name, value, 1)


def _scale(x: np.ndarray, normalize: str) -> _linear.Scale:
  if normalize == "none":
    return _linear.Scale(np.float32(0), np.float32(1))
  mean, variance = _linear.moments(x)
  return _linear.Scale.of(mean, np.sqrt(variance + 1e-6))


def _lbfgs(
  l2: Sequence[float], classes: int, embed: Embed, steps: int
) -> _Sweep:
  def fit(x: np.ndarray, label: np.ndarray, values: Sequence[float]) -> Any:
    return _softmax_regression.lbfgs(
      x, label, classes, values, embed, steps=steps, tolerance=_TOLERANCE
    )

  return _Sweep("l2", sorted(map(float, l2), reverse=True), fit)


def _sgd(
  rates: Sequence[float], classes: int, embed: Embed, options: dict[str, Any]
) -> _Sweep:
  def fit(x: np.ndarray, label: np.ndarray, values: Sequence[float]) -> Any:
    return _softmax_regression.sgd(x, label, classes, values, embed, **options)

  return _Sweep("lr", sorted(map(float, rates)), fit)


def _chosen(
  sweep: _Sweep,
  x: np.ndarray,
  label: np.ndarray,
  held: np.ndarray,
  embed: Embed,
) -> tuple[float, float]:
  """Returns the best value of a sweep, and its top1 on the rows held out."""
  rest = np.where(held, _softmax_regression.NONE, label)
  fitted = sweep.fit(x, rest, sweep.values)
  ahead = _linear.ranks(x[held], label[held], fitted, embed)
  top1 = np.mean(ahead < 1, axis=1)
  i = int(np.argmax(top1))
  if len(sweep.values) > 1 and i in (0, len(sweep.values) - 1):
    logging.warning(
      "linear_probe: %s = %g, the best of %s, is at their end: try more",
      sweep.name, sweep.values[i], sweep.values,
    )  # fmt: skip
  return sweep.values[i], float(top1[i])


def _held_out(label: np.ndarray, part: float, seed: int) -> np.ndarray:
  """Returns which rows choose: that part of each class, bool [n].

  At least one row of each class, but never its only one.
  """
  held, rng = np.zeros(len(label), bool), np.random.default_rng(seed)
  for k in np.unique(label):
    rows = rng.permutation(np.flatnonzero(label == k))
    count = min(max(1, round(part * len(rows))), len(rows) - 1)
    held[rows[:count]] = True
  if not held.any():
    allowed = "two records or more of a class"
    remedy = "Nothing could choose among the solver's values."
    raise errors.UserError("train", "one of each class", allowed, remedy)
  return held
