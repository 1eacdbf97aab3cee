"""Zero-shot classification: the class whose prompts are nearest."""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.data.files import label_matching
from big_contrastive.data.files.class_names import Names
from big_contrastive.data.files.class_names import read as _listed
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator, retrieval


def prepare(
  source: Source,
  *,
  classes: str | list | None = None,
  templates: str | list = ("{c}",),
  match: label_matching.By = "name",
  only: list | tuple = (),
  width: int | None = None,
) -> Evaluator:
  """Returns run(embed), which yields top1 and top5.

  Also yields mean_per_class_recall, the mean, over the classes that occur, of
  top1 among their images. The three are CLIP_benchmark's acc1, acc5 and
  mean_per_class_recall. And the accuracy of guessing: chance for top1, and
  chance_top5, which is 1 with at most five classes.

  A class's vector is the mean of its prompts' unit embeddings, normalized
  again (CLIP, arXiv:2103.00020, section 3.1.4).

  Args:
    source: labeled records.
    classes: names: a list; a file with one per line; "table.tsv:column", by
      row; "file.json:key"; None for the source's own.
    templates: prompts in which {c} is the class name: a list, a file with one
      per line, or "file.json:key".
    match: how labels map to indices in `classes`. "name": by the source's class
      names, in any order; names that are numbers, and labels without names, are
      the indices, and there must be as many as names in the list. "number":
      labels are the indices, from 0 on, and not all need occur. "order": the
      list has the source's classes, or the labels that occur, in their order.
    only: indices in `classes`, ascending: the classes that there are, of a
      larger list, such as the 200 of ImageNet-A; none for all.
    width: see Embed.narrow.

  Raises:
    UserError: if `classes` and the source's classes don't fit.
  """
  names = _listed(classes, "classes") if classes is not None else source.classes
  if not names:
    allowed = "class names, or a source that knows them"
    remedy = "Give a list, a file, table.tsv:column or file.json:key."
    raise errors.UserError("classes", classes, allowed, remedy)
  prompts = read_templates(templates)
  kept = _kept(only, len(names))
  there = [names[i] for i in kept]
  source_names = None if classes is None else source.classes
  if source_names and match != "order":  # Fail early.
    label_matching.fit(names, source_names, match, "classes")

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    embed = embed.narrow(width)
    ztxt = class_vectors(embed, there, prompts)
    data = embed.images(source)
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
    label = _among(label, kept)
    ahead = ranks(data.zimg @ ztxt.T, label, there)
    yield "top1", float(np.mean(ahead < 1))
    yield "top5", float(np.mean(ahead < 5))
    yield "mean_per_class_recall", per_class(ahead < 1, label)
    yield "chance", 1 / len(there)
    yield "chance_top5", min(1.0, 5 / len(there))

  return run


def read_templates(templates: str | Sequence[str]) -> list[str]:
  """Returns the prompts of `prepare`; each must have {c} in it."""
  prompts = _listed(templates, "templates")
  if not prompts:
    allowed = "one template or more"
    raise errors.UserError("templates", prompts, allowed, "Add one.")
  for template in prompts:
    if "{c}" not in template:
      remedy = 'Write it like "a photo of a {c}."'
      raise errors.UserError(
        "templates", template, "texts with {c} in them", remedy
      )
  return prompts


def class_vectors(
  embed: Embed, names: Sequence[str], prompts: Sequence[str]
) -> np.ndarray:
  """Returns each class's normalized mean prompt, float32 [k, d]."""
  texts = [t.replace("{c}", name) for name in names for t in prompts]
  ztxt = embed.texts(texts).reshape(len(names), len(prompts), -1).mean(axis=1)
  with np.errstate(invalid="ignore"):  # 0 / 0 if prompts cancel out.
    ztxt /= np.linalg.norm(ztxt, axis=-1, keepdims=True)
  finite.unit(ztxt, "classes", lambda i: repr(names[i]))
  return ztxt


def _kept(only: Sequence[int], count: int) -> list[int]:
  """The indices of the classes that there are, checked."""
  fine = all(type(i) is int and 0 <= i < count for i in only)
  if not fine or list(only) != sorted({*only}):
    allowed = f"different numbers from 0 to {count - 1}, ascending"
    remedy = "They are places in classes."
    raise errors.UserError("only", [*only][:8], allowed, remedy)
  return list(only) or list(range(count))


def _among(label: np.ndarray, kept: Sequence[int]) -> np.ndarray:
  """Each label's place among the classes that there are."""
  place = np.searchsorted(kept, label).clip(max=len(kept) - 1)
  wrong = np.flatnonzero(np.asarray(kept)[place] != label)
  if len(wrong):
    allowed = f"the {len(kept)} classes of only"
    thing, remedy = "labels of the evaluation data", "Is it the right list?"
    raise errors.UserError(thing, int(label[wrong[0]]), allowed, remedy)
  return place


def ranks(
  scores: np.ndarray, label: np.ndarray, names: Sequence[str] = ()
) -> np.ndarray:
  """Returns for each row how many other columns score as high as its label.

  A tie counts against the model: one that embeds everything alike gets nothing
  right. But of columns with the same name, which no model can distinguish
  (ImageNet has two), the first is taken, as in CLIP_benchmark.

  A score that is not finite ranks ahead of all others; if it is the label's
  own, the rank is retrieval.NEVER.
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
