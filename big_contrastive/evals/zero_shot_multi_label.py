"""Zero-shot classification of images that have several labels, as ReaL's."""

from collections.abc import Iterator, Sequence

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.files import class_names, label_matching
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator, zero_shot

_LOWEST = np.finfo(np.float32).min  # No other score is ahead of it.


def prepare(
  source: Source,
  *,
  classes: str | list | None = None,
  templates: str | list = ("{c}",),
) -> Evaluator:
  """Returns run(embed), which yields top1: ReaL accuracy (arXiv:2006.07159).

  A prediction is right if it is one of the image's labels. Images without any
  are left out; how many they are is yielded as `unlabeled`, how many are left
  as `images`. `chance` is the accuracy of guessing.

  Args:
    source: records with "labels", or a "label".
    classes: names, by label; see zero_shot. None for the source's own.
    templates: see zero_shot.

  Raises:
    UserError: if there are not as many names as the source has classes.
  """
  names = source.classes
  if classes is not None:
    names = class_names.read(classes, "classes")
  if not names:
    allowed = "class names, or a source that knows them"
    raise errors.UserError("classes", classes, allowed, "Give a list or file.")
  if source.classes and len(source.classes) != len(names):
    allowed = f"{len(source.classes)}, as many as the data has classes"
    remedy = "Is a line too many, or one missing?"
    value = f"{len(names)} names"
    raise errors.UserError("classes", value, allowed, remedy)
  prompts = zero_shot.read_templates(templates)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    labels = [*_labels(source)]
    some = np.array([i for i, several in enumerate(labels) if several])
    if not len(some):
      thing, allowed = "labels of source", "a record with a label"
      raise errors.UserError(thing, "none", allowed, "Give another source.")
    truth = np.zeros((len(some), len(names)), bool)
    for row, i in enumerate(some):
      label_matching.check_labels(np.array(labels[i]), names)
      truth[row, labels[i]] = True
    ztxt = zero_shot.class_vectors(embed, names, prompts)
    score = embed.images(source).zimg[some] @ ztxt.T
    yield "top1", float(np.mean(right(score, truth, names)))
    yield "chance", float(np.mean(truth.sum(1) / len(names)))
    yield "images", float(len(some))
    yield "unlabeled", float(len(labels) - len(some))

  return run


def _labels(source: Source) -> Iterator[list[int]]:
  """The labels of each record."""
  for record in evaluation.read_all(source):
    one = record.get("label", -1)
    yield list(record.get("labels", [one] if one >= 0 else []))


def right(
  score: np.ndarray, truth: np.ndarray, names: Sequence[str]
) -> np.ndarray:
  """Returns whether the highest score of each row is one that is true, bool.

  Ties are those of zero_shot.ranks.

  Args:
    score: [n, k].
    truth: bool [n, k], True somewhere in each row.
    names: of the classes.
  """
  best = np.where(truth, score, -np.inf).argmax(1)
  others = truth.copy()
  others[np.arange(len(best)), best] = False
  rest = np.where(others & np.isfinite(score), _LOWEST, score)
  return zero_shot.ranks(rest, best, names) < 1
