"""Zero-shot classification: the class whose prompts are nearest."""

import collections
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from big_contrastive import errors, finite
from big_contrastive.data import files
from big_contrastive.evals import retrieval

Result = Iterator[tuple[str, float]]


def prepare(
  source: Any,
  *,
  classes: str | list | None = None,
  templates: str | list = ("{c}",),
) -> Callable[[Callable, Callable], Result]:
  """Returns run(embed_images, embed_texts), which yields top1 and top5.

  top5 only where there are more than five classes: with fewer it is 1, whatever
  the model is. And mean_per_class_recall, the mean over the classes that occur
  of the top1 among their images, and chance, the top1 of guessing:
  CLIP_benchmark's definitions of acc1, acc5 and mean_per_class_recall.

  A class's vector is the mean of its prompts' unit embeddings, made unit
  again (CLIP, arXiv:2103.00020, section 3.1.4).

  Args:
    source: labelled records.
    classes: names by label: a list; a file with one a line; "table.tsv:column",
      by row; "file.json:key"; None for the source's own.
    templates: prompts in which {c} is the class name: a list, a file with one
      a line, or "file.json:key".
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

  def run(embed_images: Callable, embed_texts: Callable) -> Result:
    texts = [t.replace("{c}", name) for name in names for t in prompts]
    ztxt = embed_texts(texts).reshape(len(names), len(prompts), -1).mean(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0, of prompts that cancel out.
      ztxt /= np.linalg.norm(ztxt, axis=-1, keepdims=True)
    finite.unit(ztxt, "classes", lambda i: repr(names[i]))
    data = embed_images(source)
    check_labels(data.label, names)
    ahead = ranks(data.zimg @ ztxt.T, data.label, names)
    yield "top1", float(np.mean(ahead < 1))
    if len(names) > 5:
      yield "top5", float(np.mean(ahead < 5))
    yield "mean_per_class_recall", per_class(ahead < 1, data.label)
    yield "chance", 1 / len(names)

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
  found = np.isfinite(right[:, 0])
  return np.where(found, ahead.sum(axis=1) - 1, retrieval.NEVER)


def per_class(right: np.ndarray, label: np.ndarray) -> float:
  """Returns the mean over classes of the mean within each class."""
  _, place, count = np.unique(label, return_inverse=True, return_counts=True)
  return float(np.mean(np.bincount(place, weights=right) / count))


def check_labels(label: np.ndarray, names: list[str]) -> None:
  """Raises UserError unless every label has a name."""
  if label.min() < 0 or label.max() >= len(names):
    raise errors.UserError(
      "labels of the evaluation data",
      f"{label.min()} to {label.max()}",
      f"0 to {len(names) - 1}, one for each class name",
      "Give a source with labels, and as many class names.",
    )


def _listed(value: str | list | tuple, where: str) -> list[str]:
  """A list as it is; a file's lines, a table's column, or a JSON file's key."""
  if not isinstance(value, str):
    if not all(isinstance(text, str) for text in value):
      remedy = "Put quotation marks round them."
      raise errors.UserError(where, value, "a list of texts", remedy)
    return list(value)
  path, _, key = value.partition(":")
  if not pathlib.Path(path).is_file():
    remedy = "Give a list, a file, table.tsv:column or file.json:key."
    raise errors.UserError(where, value, "a file that exists", remedy)
  if path.endswith(".json"):
    return _of_json(pathlib.Path(path), key, where)
  if key:
    rows = files.read_table(path)
    files.column(rows, key, where)
    return [row[key] for row in rows]
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as e:
    raise errors.UserError(where, path, "a file in UTF-8", f"{e}.") from e
  return text.rstrip().splitlines()


def _of_json(path: pathlib.Path, key: str, where: str) -> list[str]:
  """The list under a key, as in CLIP_benchmark's files."""
  allowed = '{"NAME": ["text", ...], ...}'
  try:
    content = json.loads(path.read_text())
  except ValueError as e:
    remedy = f"It can't be read: {e}."
    raise errors.UserError(where, str(path), allowed, remedy) from e
  if not isinstance(content, dict):
    remedy = f"It holds a {type(content).__name__}."
    raise errors.UserError(where, str(path), allowed, remedy)
  listed = content[errors.choice(where, key, content)]
  if not isinstance(listed, list) or not all(
    isinstance(x, str) for x in listed
  ):
    remedy = f"Under {key!r} it has something else."
    raise errors.UserError(where, str(path), allowed, remedy)
  return listed
