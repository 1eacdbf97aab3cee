"""k-nearest neighbors: the classes of the nearest training rows vote."""

from collections.abc import Iterator

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import (
  Embed,
  Evaluator,
  _cosines,
  _labeled,
  zero_shot,
)

_CHUNK = 1024  # Queries at a time: memory is chunk x classes.


def prepare(
  source: Source,
  *,
  train: Source | None = None,
  on: _labeled.On = "features",
  k: int | list | tuple = 20,
  T: float = 0.07,
) -> Evaluator:
  """Returns run(embed), which yields top1 and, of six classes or more, top5.

  Each of the k nearest training rows votes for its class with the weight
  exp(cos / T) (InstDisc, arXiv:1805.01978, section 3.4; k = 20 as in DINO,
  arXiv:2104.14294). Two classes with as many votes count against the model,
  and so do rows that are equally near at the k-th place.

  Also yields k and T, without which the figures mean nothing, and the accuracy
  of guessing: chance and chance_top5. With several k, top1_k10, top5_k10, ...;
  the search is one.

  A record without a label, or with -1, neither votes nor is classified; how
  many there are is yielded as unlabeled and unlabeled_train.

  Args:
    source: labeled records.
    train: the labeled records that vote. If they are the data of `source`, or
      if none are named, a record never votes for itself.
    on: the image tower's pooled "features", made unit; or "embeddings".
    k: how many vote; one number or several.
    T: the temperature of the votes.
  """
  _labeled.choice_on(on)
  several = list(k) if isinstance(k, list | tuple) else [k]
  if not several or not all(type(n) is int and n > 0 for n in several):
    allowed = "a whole number from 1 up, or a list of them"
    raise errors.UserError("k", k, allowed, "20 is usual.")
  if len({*several}) < len(several):
    raise errors.UserError("k", k, "each number once", "Leave one out.")
  if not 0 < T < np.inf:
    raise errors.UserError("T", T, "a number above 0", "0.07 is usual.")
  bank = source if train is None else train
  own = bank is source
  _check_most(several, len(bank) - own)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    task = _labeled.task(embed, source, bank, on, unit=True)
    _check_most(several, len(task.train.x) - own)
    cosine, row = _cosines.nearest(
      task.test.x, task.train.x, max(several), embed,
      own=own, labels=(task.test.label, task.train.label),
    )  # fmt: skip
    voter, label = task.train.label[row], task.test.label
    for n in several:
      end = "" if several == [k] else f"_k{n}"
      ahead = _ranks(cosine[:, :n], voter[:, :n], label, T, task.classes)
      yield f"top1{end}", float(np.mean(ahead < 1))
      if task.classes > 5:
        yield f"top5{end}", float(np.mean(ahead < 5))
    if several == [k]:
      yield "k", float(k)
    yield "T", float(T)
    yield "chance", 1 / task.classes
    if task.classes > 5:
      yield "chance_top5", 5 / task.classes
    yield from _labeled.unlabeled(task)

  return run


def _check_most(several: list[int], most: int) -> None:
  if max(several) > most:
    allowed, value = f"at most {most}, the rows that can vote", max(several)
    raise errors.UserError("k", value, allowed, "Lower it.")


def _ranks(
  cosine: np.ndarray,
  voter: np.ndarray,
  label: np.ndarray,
  T: float,
  classes: int,
) -> np.ndarray:
  """Returns for each query how many other classes have as many votes.

  Args:
    cosine, voter: of each query's neighbors, the nearest first, the cosine
      and the class, [n, k].
    label: of the queries, [n].
    T: the temperature.
    classes: how many there are.
  """
  parts = []
  for start in range(0, len(label), _CHUNK):
    chunk = slice(start, start + _CHUNK)
    near = cosine[chunk].astype(np.float64)
    # Relative to the nearest one's vote, which no small T can make overflow.
    weight = np.exp((near - near[:, :1]) / T)
    n = len(near)
    place = np.arange(n)[:, None] * classes + voter[chunk]
    votes = np.bincount(place.ravel(), weight.ravel(), n * classes)
    parts.append(zero_shot.ranks(votes.reshape(n, classes), label[chunk]))
  return np.concatenate(parts)
