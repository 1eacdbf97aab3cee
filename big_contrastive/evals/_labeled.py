"""Labeled vectors of data sets, with the labels of one in those of another."""

import logging
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.data.files import label_matching
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed

On = Literal["features", "embeddings"]


class Rows(NamedTuple):
  """Labeled records: x float32 [n, w], label int [n], record int [n].

  `unlabeled` is the number of records without a label, which are left out;
  `record` says where in the source a row comes from.
  """

  x: np.ndarray
  label: np.ndarray
  record: np.ndarray
  unlabeled: int


class Task(NamedTuple):
  """Rows to classify, rows to learn from, and the number of classes."""

  test: Rows
  train: Rows
  classes: int


def vectors(
  embed: Embed, source: Source, on: On, unit: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a vector and a label for each record of a source.

  Args:
    embed: the model.
    source: the records.
    on: "features": the image tower's pooled features; "embeddings": zimg.
    unit: whether to normalize; embeddings always are.

  Raises:
    RunError: for vectors that are not finite or, with `unit`, are zero.
  """
  if on == "embeddings":
    data = embed.images(source)
    return data.zimg, data.label
  found = embed.features(source)
  x = found.features
  if unit:
    with np.errstate(invalid="ignore"):
      x = x / np.linalg.norm(x, axis=1, keepdims=True)
    finite.unit(x, "images", source.name)
  return x, found.label


def task(
  embed: Embed, source: Source, train: Source, on: On, unit: bool = False
) -> Task:
  """Returns the rows of two sources, with labels in the classes of `train`.

  Classes are the names that `train` has, or else those of `source`, or else
  the labels from 0 to the largest in `train`; those of the rows that are
  classified never are. Where both have names, labels are matched by name.

  Args:
    embed, on, unit: see `vectors`.
    source: the records to classify.
    train: the records to learn from; if it is `source` itself, they are
      embedded once.

  Raises:
    UserError: if no record of a source has a label, or a label of `source` is
      no class.
  """
  learn = _labeled(embed, train, on, unit, "train")
  test = learn
  if source is not train:
    test = _labeled(embed, source, on, unit, "source")
  names, others = train.classes, source.classes
  count = len(names or others or ()) or int(learn.label.max()) + 1
  _check_classes(learn.label, count, "train")
  label = test.label
  if names and others:
    label = label_matching.places(label, names, others, "name", "train.classes")
  _check_classes(label, count, "source")
  _tell_absent(learn.label, names or others or range(count))
  return Task(test._replace(label=label), learn, count)


def unlabeled(task: Task) -> Iterator[tuple[str, float]]:
  """Yields how many records have no label, where there are any."""
  same = task.train.record is task.test.record
  counts = {"unlabeled": task.test.unlabeled}
  counts["unlabeled_train"] = 0 if same else task.train.unlabeled
  yield from ((name, float(n)) for name, n in counts.items() if n)


def require_other(source: Source, train: Source) -> None:
  """Raises UserError if the rows to learn from are those to classify."""
  if train is source:
    allowed = "other data than source"
    remedy = "What is learned by heart says nothing: name the training split."
    raise errors.UserError("train", "the data of source", allowed, remedy)


def choice_on(on: Any) -> None:
  """Raises UserError for an argument `on` that is neither."""
  errors.choice("on", on, ("features", "embeddings"))


def _labeled(
  embed: Embed, source: Source, on: On, unit: bool, name: str
) -> Rows:
  x, label = vectors(embed, source, on, unit)
  record = np.flatnonzero(label >= 0)
  if not len(record):
    thing, allowed = f"labels of {name}", "a record with a label, 0 or more"
    remedy = "Give a source with labels."
    raise errors.UserError(thing, "none", allowed, remedy)
  missing = len(label) - len(record)
  if missing:
    x, label = x[record], label[record]
  return Rows(x, label, record, missing)


def _check_classes(label: np.ndarray, count: int, name: str) -> None:
  if label.max() >= count:
    thing, value = f"labels of {name}", f"{label.min()} to {label.max()}"
    allowed = f"0 to {count - 1}, the classes of train"
    remedy = "Both need the same classes."
    raise errors.UserError(thing, value, allowed, remedy)


def _tell_absent(label: np.ndarray, names: Any) -> None:
  """Logs classes without a training row: their records are all wrong."""
  absent = np.flatnonzero(np.bincount(label, minlength=len(names)) == 0)
  if len(absent):
    listed = finite.listed([repr(names[i]) for i in absent[:4]], len(absent))
    logging.warning("no row of train is of the classes %s", listed)
