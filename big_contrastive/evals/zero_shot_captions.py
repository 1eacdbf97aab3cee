"""Zero-shot classification by a decoder: the class whose text is likeliest."""

from collections.abc import Iterator

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator, captioning, zero_shot


def prepare(source: Source, *, template: str = "{c}") -> Evaluator:
  """Returns run(embed), which yields top1 and, of six classes or more, top5.

  A class's score is the log-likelihood of its text, given the image: a sum over
  tokens, not their mean, as in CapPa (arXiv:2306.07915, section 4.2). That
  takes a pass of the decoder for each image and each class. Also yields
  `chance` for top1; `unlabeled`, records without a label, are left out. Classes
  with as much as the right one count against the model.

  Args:
    source: labeled records, with the names of the classes.
    template: of texts, with {c} in the place of a class name.
  """
  if not source.classes:
    allowed = "a source with the names of its classes"
    raise errors.UserError("classes of source", None, allowed, "Name them.")
  if "{c}" not in template:
    allowed, remedy = "a text with {c} in it", 'Write "a photo of a {c}".'
    raise errors.UserError("template", template, allowed, remedy)
  names = list(source.classes)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    texts = [template.replace("{c}", name) for name in names]
    score, label = captioning.require(embed).likelihood(source, texts)
    known = np.flatnonzero(label >= 0)
    if not len(known):
      thing, allowed = "labels of source", "a record with a label"
      raise errors.UserError(thing, "none", allowed, "Give another source.")
    ahead = zero_shot.ranks(score[known], label[known], names)
    yield "top1", float(np.mean(ahead < 1))
    if len(names) > 5:
      yield "top5", float(np.mean(ahead < 5))
    yield "chance", 1 / len(names)
    if missing := len(label) - len(known):
      yield "unlabeled", float(missing)

  return run
