"""Zero-shot classification: the class whose prompts are nearest."""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.data.files import label_matching
from big_contrastive.data.files.class_names import Names
from big_contrastive.data.files.class_names import read as _listed
from big_contrastive.evals import retrieval

Result = Iterator[tuple[str, float]]


def prepare(
  source: Any,
  *,
  classes: str | list | None = None,
  templates: str | list = ("{c}",),
  match: label_matching.By = "name",
) -> Callable[[Callable, Callable], Result]:
  """Returns run(embed_images, embed_texts), which yields top1 and top5.

  And mean_per_class_recall, the mean over the classes that occur of the top1
  among their images: CLIP_benchmark's definitions of acc1, acc5 and
  mean_per_class_recall. And what guessing gives: chance of top1, chance_top5,
  which is 1 where there are no more than five classes.

  A class's vector is the mean of its prompts' unit embeddings, made unit
  again (CLIP, arXiv:2103.00020, section 3.1.4).

  Args:
    source: labeled records.
    classes: names: a list; a file with one a line; "table.tsv:column", by row;
      "file.json:key"; None for the source's own.
    templates: prompts in which {c} is the class name: a list, a file with one
      a line, or "file.json:key".
    match: how labels are places in `classes`. "name": by the names that the
      source has, in any order; names that are numbers, and labels without
      names, are the places, and as many as the list has. "number": labels are
      the places, from 0 on, and not all need occur. "order": the list has the
      source's classes in their order, or the labels that occur.

  Raises:
    UserError: where `classes` and the source's don't fit.
  """
  names = _listed(classes, "classes") if classes is not None else source.classes
  if not names:
    allowed = "class names, or a source that knows them"
    remedy = "Give a list, a file, table.tsv:column or file.json:key."
    raise errors.UserError("classes", classes, allowed, remedy)
  prompts = _listed(templates, "templates")
  if not prompts:
    raise errors.UserError("templates", prompts, "one or more", "Add one.")
  for template in prompts:
    if "{c}" not in template:
      remedy = 'Write it like "a photo of a {c}."'
      raise errors.UserError(
        "templates", template, "texts with {c} in them", remedy
      )

  source_names = None if classes is None else source.classes
  if source_names and match != "order":  # Before the work.
    label_matching.fit(names, source_names, match, "classes")

  def run(embed_images: Callable, embed_texts: Callable) -> Result:
    texts = [t.replace("{c}", name) for name in names for t in prompts]
    ztxt = embed_texts(texts).reshape(len(names), len(prompts), -1).mean(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0, of prompts that cancel out.
      ztxt /= np.linalg.norm(ztxt, axis=-1, keepdims=True)
    finite.unit(ztxt, "classes", lambda i: repr(names[i]))
    data = embed_images(source)
    label = data.label
    if classes is None:
      label_matching.check_labels(label, names)
      if isinstance(names, Names) and names.from_user:
        label_matching.tell_unused(
          label, names, "classes of the evaluation data"
        )
    else:
      label = label_matching.places(
        label, names, source_names, match, "classes"
      )
    ahead = ranks(data.zimg @ ztxt.T, label, names)
    yield "top1", float(np.mean(ahead < 1))
    yield "top5", float(np.mean(ahead < 5))
    yield "mean_per_class_recall", per_class(ahead < 1, label)
    yield "chance", 1 / len(names)
    yield "chance_top5", min(1.0, 5 / len(names))

  return run


def ranks(
  scores: np.ndarray, label: np.ndarray, names: Sequence[str] = ()
) -> np.ndarray:
  """Returns for each row how many other columns score as high as its label.

  A tie counts against the model: one that embeds everything alike is right
  about nothing. But of columns with one name, which no model can tell apart
  (ImageNet has two), the first is taken, as by CLIP_benchmark.

  A score that is not finite is ahead of all others, and as the label's own it
  is never right: retrieval.NEVER.
  """
  fine = np.isfinite(scores)
  right = np.take_along_axis(scores, label[:, None], axis=1)
  ahead = ~(fine & (scores < right))
  twins = collections.defaultdict(list)
  for column, name in enumerate(names):
    twins[name].append(column)
  for columns in twins.values():
    for i, column in enumerate(columns[:-1]):
      ahead[np.ix_(label == column, columns[i + 1 :])] = False
  has_score = np.isfinite(right[:, 0])
  return np.where(has_score, ahead.sum(axis=1) - 1, retrieval.NEVER)


def per_class(right: np.ndarray, label: np.ndarray) -> float:
  """Returns the mean over classes of the mean within each class."""
  _, place, count = np.unique(label, return_inverse=True, return_counts=True)
  return float(np.mean(np.bincount(place, weights=right) / count))
