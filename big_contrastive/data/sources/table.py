"""Your own pairs: a table with captions, and images in folders or tars."""

import collections
import dataclasses
import re
from typing import Any

from big_contrastive import errors
from big_contrastive.data import files

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass
class Table:
  """Records of a table; see `source`.

  Args:
    records: (root, file name, captions, id, label or None).
    roots: what the files are read from.
    classes: names by label, None if there are no labels.
    skipped: reason -> number of rows that were left out.
  """

  records: list[tuple[int, str, list[str], int, int | None]]
  roots: list[files.Folder | files.Tar]
  classes: list[str] | None
  skipped: dict[str, int]

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    root, name, captions, ident, label = self.records[index]
    text = captions[0] if len(captions) == 1 else captions
    image = self.roots[root].read(name)
    record = {"image": image, "text": text, "id": ident}
    return record if label is None else record | {"label": label}


def source(
  split: str | None = None,
  *,
  images: str,
  captions: str,
  image: str = "image",
  caption: str = "caption",
  id: str | None = None,
  label: str | None = None,
  class_name: str | None = None,
  where: str | None = None,
  join: str | None = None,
  split_column: str = "split",
) -> Table:
  """Returns the pairs of a table, one for each image that is found.

  Args:
    split: short for where="split=<split>".
    images: folders and tars, with commas, globs allowed. A row gives one
      record for each of them that holds its file.
    captions: JSONL, CSV or TSV file.
    image: the column with the file's name, or a template: "{key}.png".
    caption: a column, or a template: "a drawing of {name}"; several with
      "|" between them are several captions. A JSONL column may hold a list.
    id: a column; rows with equal values are the same text or concept and not
      each other's negatives. By default, the row.
    label: a column; its distinct values, sorted, are the classes.
    class_name: a column that names the class; by default label's own value.
    where: "column=value" or "column=value1|value2", several with commas: the
      rows to take.
    join: "table.tsv:column": adds that table's columns by equal values.
    split_column: the column that `split` is about.

  Raises:
    UserError: for what is missing, and if no row has an image.
  """
  rows = files.read_table(captions)
  rows = _join(rows, join) if join else rows
  conditions = [where] if where else []
  conditions += [f"{split_column}={split}"] if split else []
  rows = _filter(rows, ",".join(conditions))
  for text, thing in ((image, "image"), (caption, "caption")):
    for name in _columns(text):
      files.column(rows, name, thing)
  roots = files.roots(images)
  idents = _numbered(rows, id, "id") if id else range(len(rows))
  labels = _numbered(rows, label, "label") if label else [None] * len(rows)
  skipped: collections.Counter = collections.Counter()
  records = []
  for row, ident, number in zip(rows, idents, labels, strict=True):
    texts = [t for t in _texts(row, caption) if t.strip()]
    name = _fill(row, image)
    places = [i for i, root in enumerate(roots) if name in root]
    if not texts:
      skipped["empty caption"] += 1
    elif not places:
      skipped["no image file"] += 1
    records += [(i, name, texts, ident, number) for i in places if texts]
  if not records:
    allowed = "images and captions of at least one row"
    remedy = f"Looked for {name!r}; left out: {dict(skipped)}."
    raise errors.UserError("images", images, allowed, remedy)
  classes = _classes(rows, labels, class_name or label) if label else None
  return Table(records, roots, classes, dict(skipped))


def _columns(text: str) -> list[str]:
  """The columns that captions or a file name are made of."""
  parts = text.split("|")
  return [c for p in parts for c in (_FIELD.findall(p) or [p])]


def _fill(row: files.Row, text: str) -> str:
  if not _FIELD.search(text):
    return str(row[text])
  return _FIELD.sub(lambda m: str(row[m[1]]), text)


def _texts(row: files.Row, caption: str) -> list[str]:
  texts = []
  for part in caption.split("|"):
    value = row[part] if part in row else _fill(row, part)
    texts += value if isinstance(value, list) else [str(value)]
  return texts


def _filter(rows: list[files.Row], where: str) -> list[files.Row]:
  for condition in where.split(",") if where else []:
    name, equals, values = condition.partition("=")
    if not equals:
      remedy = "Write it like split=train."
      raise errors.UserError("where", where, "column=value", remedy)
    files.column(rows, name, "where")
    wanted = values.split("|")
    kept = [row for row in rows if str(row[name]) in wanted]
    if not kept:
      seen = sorted({str(row[name]) for row in rows})[:10]
      allowed = f"a value of {name}: " + ", ".join(seen)
      raise errors.UserError("where", condition, allowed, "No row has it.")
    rows = kept
  return rows


def _join(rows: list[files.Row], join: str) -> list[files.Row]:
  path, _, name = join.rpartition(":")
  if not path:
    remedy = "Write it like classes.tsv:label."
    raise errors.UserError("join", join, "table:column", remedy)
  others = files.read_table(path, "join")
  files.column(rows, name, "join")
  files.column(others, name, "join")
  by_value = {str(other[name]): other for other in others}
  for row in rows:
    if str(row[name]) not in by_value:
      allowed = f"a {name} of {path}"
      remedy = "Add it to that table."
      raise errors.UserError(f"join: {name}", row[name], allowed, remedy)
  return [by_value[str(row[name])] | row for row in rows]


def _numbered(rows: list[files.Row], name: str, thing: str) -> list[int]:
  """Each row's value as a number: its place among the sorted values."""
  files.column(rows, name, thing)
  numbers = {v: i for i, v in enumerate(_sorted({str(r[name]) for r in rows}))}
  return [numbers[str(row[name])] for row in rows]


def _sorted(values: set[str]) -> list[str]:
  """By number if all are numbers: 9 before 10."""
  if all(v.isdigit() for v in values):
    return sorted(values, key=int)
  return sorted(values)


def _classes(
  rows: list[files.Row], labels: list[Any], name: str
) -> list[str]:
  files.column(rows, name, "class_name")
  by_label = dict(zip(labels, (str(row[name]) for row in rows), strict=True))
  return [by_label[i] for i in range(len(by_label))]
