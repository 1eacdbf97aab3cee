"""Multi-label classification: are a caption's words seen in its image?"""

from collections.abc import Iterator

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.evals import Classes, Embed, Evaluator

_LOGITS = 2**27  # In memory at a time.


def prepare(source: Source, *, least: int = 1) -> Evaluator:
  """Returns run(embed), which yields the mean average precision of classes.

  An image has the labels of all its captions, by the model's own vocabulary.
  For each class that `least` images or more have, and not all, the images are
  put in the order of its logit: the average precision is the mean, over the
  images that have the label, of the share of labeled ones among those with the
  same logit or a larger one. `map` is its mean over classes; `chance` that of a
  random order, nearly: the mean share of images that have a label.

  Also yields the number of `classes`, the share of images without any label as
  `unlabeled`, and `labels`, how many an image has on average.

  Args:
    source: images with captions.
    least: images of a class.
  """
  errors.at_least("least", least, 1)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    classes, n = require(embed), len(source)
    image, label = _labels(source, classes)
    counts = np.bincount(label, minlength=classes.count)
    chosen = np.flatnonzero((counts >= least) & (counts < n))
    if not len(chosen):
      allowed = "captions with a word that some images have, and not all"
      remedy = "Are they in the language of the vocabulary?"
      raise errors.UserError("captions of source", "none", allowed, remedy)
    width = max(1, _LOGITS // n)
    scores = []
    for start in range(0, len(chosen), width):
      some = chosen[start : start + width]
      logits, _ = classes.logits(source, some)
      for i, c in enumerate(some):
        truth = np.zeros(n, bool)
        truth[image[label == c]] = True
        scores.append(average_precision(logits[:, i], truth))
    yield "map", float(np.mean(scores))
    yield "chance", float(np.mean(counts[chosen] / n))
    yield "classes", float(len(chosen))
    yield "labels", len(label) / n
    yield "unlabeled", 1 - len(np.unique(image)) / n

  return run


def require(embed: Embed) -> Classes:
  """Returns the classifier, or raises UserError."""
  if embed.classes is None:
    allowed = "a model with a classifier of captions' words"
    remedy = "configs/catlip.py trains one."
    raise errors.UserError("classifier", None, allowed, remedy)
  return embed.classes


def _labels(source: Source, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
  """The image and the class of each label, int64; of an image, each once."""
  found = [np.zeros((2, 0), np.int64)]
  for i, captions in enumerate(evaluation.captions(source)):
    rows = classes.rows(list(captions))
    some = np.unique(rows[rows < classes.count])
    found.append(np.stack([np.full(len(some), i), some]))
  image, label = np.concatenate(found, axis=1)
  return image, label


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
  """Returns the mean precision at the scores of what is true.

  Equal scores are one place in the order.

  Args:
    score: float [n].
    truth: bool [n], True somewhere.
  """
  order = np.argsort(-score, kind="stable")
  score, truth = score[order], truth[order]
  last = np.append(score[1:] != score[:-1], True)  # The end of each place.
  hits, seen = np.cumsum(truth)[last], np.flatnonzero(last) + 1
  new = np.diff(hits, prepend=0)
  return float((new * hits / seen).sum() / truth.sum())
