"""Zero-shot classification by a classifier of captions' words."""

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator, labels, zero_shot

_NEVER = -1e30  # Below the log-probability of all that can be found.


BY = ("probability", "logit")


def prepare(
  source: Source, *, by: Literal["probability", "logit"] = "probability"
) -> Evaluator:
  """Returns run(embed), which yields top1 and, of six classes or more, top5.

  The words of a class's name are labels of the model's vocabulary. A class
  without such a word can't be found, and is wrong for its images: how many
  there are is yielded as `nameless` and logged. Classes with as much as the
  right one count against the model.

  Args:
    source: labeled records, with the names of the classes.
    by: a class's score. "probability": the log-probability that an image has
      all labels of the name, the sum of log sigmoid(logit), for CatLIP;
      "logit": the mean of their logits, for SuperClass, whose logits mean
      nothing alone.
  """
  errors.choice("by", by, BY)
  if not source.classes:
    allowed = "a source with the names of its classes"
    raise errors.UserError("classes of source", None, allowed, "Name them.")
  names = list(source.classes)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    classes = labels.require(embed)
    rows = classes.rows(names)
    used = np.unique(rows[rows < classes.count])
    if not len(used):
      thing, allowed = "classes of source", "words of the model's vocabulary"
      raise errors.UserError(thing, names[:3], allowed, "They have none.")
    logits, label = classes.logits(source, used)
    known = np.flatnonzero(label >= 0)
    if not len(known):
      thing, allowed = "labels of source", "a record with a label"
      raise errors.UserError(thing, "none", allowed, "Give another source.")
    each = logits[known].astype(np.float64)
    has = np.array([np.isin(used, row) for row in rows], np.float64)
    nameless = np.flatnonzero(~has.any(1))
    if by == "probability":
      score = -np.logaddexp(0, -each) @ has.T
    else:
      score = each @ (has / np.maximum(1, has.sum(1, keepdims=True))).T
    score[:, nameless] = _NEVER
    ahead = zero_shot.ranks(score, label[known])
    yield "top1", float(np.mean(ahead < 1))
    if len(names) > 5:
      yield "top5", float(np.mean(ahead < 5))
    yield "chance", 1 / len(names)
    yield "nameless", float(len(nameless))
    if len(nameless):
      few = [repr(names[i]) for i in nameless[:4]]
      listed = finite.listed(few, len(nameless))
      logging.warning("no word of the vocabulary names the classes %s", listed)
    if missing := len(label) - len(known):
      yield "unlabeled", float(missing)

  return run
