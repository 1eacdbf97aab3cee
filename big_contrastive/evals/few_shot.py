"""Few-shot classification by ridge regression, in closed form."""

from collections.abc import Iterator, Sequence

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator, _labeled, _linear

_BIAS = 100.0  # So large a constant feature is as good as not regularized.


def prepare(
  source: Source,
  *,
  train: Source,
  on: _labeled.On = "features",
  shots: int | list | tuple = (1, 5, 10),
  l2: float | list | tuple = 1024.0,
  seeds: int = 3,
  held_out: int = 10,
) -> Evaluator:
  """Returns run(embed), which yields 1shot_top1, 5shot_top1, ...

  big_vision's few-shot evaluation: of s training rows of each class, features
  get mean 0 and deviation 1, and a constant one of 100 is added; targets are 1
  for the class and -1 for others; weights minimize squared errors + l2
  |weights|^2. A figure is the mean over several draws of the rows.

  Also yields chance, the accuracy of guessing. With several l2, 1shot_l2, ...
  is the one that is best, over all draws, on training rows that were not
  drawn; the rows of `source` choose nothing. (big_vision has one, 2^10.) A
  record without a label, or with -1, is left out; how many there are is
  yielded as unlabeled and unlabeled_train.

  Args:
    source: labeled records.
    train: labeled records of the same classes, other data than `source`.
    on: the image tower's pooled "features", or "embeddings".
    shots: how many rows of each class; one number or several.
    l2: the strength of the regularization; one or several.
    seeds: draws of the rows; draw i has the seed i.
    held_out: with several l2: other rows of each class, as far as there are,
      that choose.
  """
  _labeled.choice_on(on)
  _labeled.require_other(source, train)
  counts = list(shots) if isinstance(shots, list | tuple) else [shots]
  strengths = list(l2) if isinstance(l2, list | tuple) else [l2]
  _check(counts, strengths, seeds, held_out)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    task = _labeled.task(embed, source, train, on)
    _check_rows(task, counts, held_out if len(strengths) > 1 else 0)
    for count in counts:
      test, chosen = _accuracies(task, count, strengths, seeds, held_out, embed)
      i = int(np.argmax(chosen))
      yield f"{count}shot_top1", float(test[i])
      if len(strengths) > 1:
        yield f"{count}shot_l2", float(strengths[i])
    yield "chance", 1 / task.classes
    yield from _labeled.unlabeled(task)

  return run


def _accuracies(
  task: _labeled.Task,
  count: int,
  l2: Sequence[float],
  seeds: int,
  held_out: int,
  embed: Embed,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns each l2's accuracy on the test rows and on those that choose."""
  train, test, chosen = task.train, np.zeros(len(l2)), np.zeros(len(l2))
  for seed in range(seeds):
    drawn, rest = _draw(train.label, count, held_out, seed)
    x = train.x[drawn].astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5
    target = 2.0 * (train.label[drawn, None] == np.arange(task.classes)) - 1
    fitted = ridge((x - mean) / std, target, l2)
    scale = _linear.Scale.of(mean, std)
    ahead = _linear.ranks(scale(task.test.x), task.test.label, fitted, embed)
    test += np.mean(ahead < 1, axis=1) / seeds
    if len(l2) > 1:
      ahead = _linear.ranks(
        scale(train.x[rest]), train.label[rest], fitted, embed
      )
      chosen += np.mean(ahead < 1, axis=1)
  return test, chosen


def ridge(
  x: np.ndarray, target: np.ndarray, l2: Sequence[float]
) -> _linear.Classifiers:
  """Returns a classifier for each of s strengths.

  They minimize |(x, 100) (weight, bias / 100) - target|^2 + l2 |(weight, bias
  / 100)|^2.

  Args:
    x: float64 [n, w].
    target: float64 [n, c].
    l2: the strengths, above 0.
  """
  x = np.pad(x, ((0, 0), (0, 1)), constant_values=_BIAS)
  # (x'x + l2)^-1 x' = x' (xx' + l2)^-1: one eigendecomposition for all l2, of
  # the smaller of the two.
  if len(x) >= x.shape[1]:
    values, vectors = np.linalg.eigh(x.T @ x)
    left, right = vectors, vectors.T @ (x.T @ target)
  else:
    values, vectors = np.linalg.eigh(x @ x.T)
    left, right = x.T @ vectors, vectors.T @ target
  fitted = np.stack([(left / (values + s)) @ right for s in l2])
  return _linear.Classifiers(fitted[:, :-1], fitted[:, -1] * _BIAS)


def _draw(
  label: np.ndarray, count: int, held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the drawn rows, `count` of each class, and others that choose."""
  rng, drawn, rest = np.random.default_rng(seed), [], []
  for k in np.unique(label):
    rows = rng.permutation(np.flatnonzero(label == k))
    drawn.append(rows[:count])
    rest.append(rows[count : count + held_out])
  return np.concatenate(drawn), np.concatenate(rest)


def _check(
  shots: list[int], l2: list[float], seeds: int, held_out: int
) -> None:
  whole = "a whole number from 1 up"
  if not shots or not all(type(s) is int and s > 0 for s in shots):
    raise errors.UserError("shots", shots, f"{whole}, or a list", "1 is usual.")
  if len({*shots}) < len(shots):
    raise errors.UserError("shots", shots, "each number once", "Drop one.")
  fine = [type(v) in (int, float) and 0 < v < np.inf for v in l2]
  if not l2 or not all(fine):
    allowed = "a number above 0, or a list of them"
    raise errors.UserError("l2", l2, allowed, "1024 is big_vision's.")
  for name, value in {"seeds": seeds, "held_out": held_out}.items():
    if value < 1:
      raise errors.UserError(name, value, whole, "Raise it.")


def _check_rows(task: _labeled.Task, shots: list[int], more: int) -> None:
  """Raises UserError unless each class of the training rows has enough."""
  rows = np.bincount(task.train.label, minlength=task.classes)
  least = int(rows[rows > 0].min())
  # Of each class one more row, if rows are to choose.
  most = least - bool(more)
  if max(shots) > most:
    k = int(np.flatnonzero(rows == least)[0])
    allowed = f"at most {most}: train has {least} rows of class {k}"
    if more:
      allowed += ", and one must be left to choose l2"
    raise errors.UserError("shots", max(shots), allowed, "Lower it.")
