"""Your own pairs: a table with captions, and images in folders or tars."""

import collections
import dataclasses
import posixpath
import re
from typing import Any

from big_contrastive import errors
from big_contrastive.data import files

MAIN = "captions"
_FIELD = re.compile(r"\{([^{}]+)\}")
_INTEGER = re.compile(r"-?[0-9]+")


@dataclasses.dataclass
class Table:
  """Records of a table; see `source`.

  Args:
    records: (root, file name, captions, id, label or None).
    roots: what the files are read from.
    classes: names by label, None if there are none.
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

  def name(self, index: int) -> str:
    """Returns what a person finds the record by."""
    root, name, *_ = self.records[index]
    return f"{self.roots[root].path}:{name}"


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

  Several rows of one image are one pair with several captions, unless their
  ids or labels differ.

  Ids and labels are numbered over the whole table, so that they are the same
  whatever `split` and `where` take of it.

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
    label: a column; whole numbers are the labels, and a negative one is none;
      else the sorted values are the classes, and the places in that list the
      labels.
    class_name: a column that names the class of each label.
    where: "column=value" or "column=value1|value2", several with commas: the
      rows to take.
    join: "table.tsv:column": adds that table's columns by equal values.
    split_column: the column that `split` is about.

  Raises:
    UserError: for what is missing, and if no row has an image.
  """
  rows = files.read_table(captions)
  rows = _join(rows, join) if join else rows
  for text, thing in ((image, "image"), (caption, "caption")):
    for name in _columns(text):
      files.column(rows, name, thing)
  idents = _numbered(rows, id, "id") if id else range(len(rows))
  labels, classes = _labels(rows, label, class_name)
  places = files.roots(images)
  skipped: collections.Counter[str] = collections.Counter()
  records, missing = [], ""
  for i in _chosen(rows, where, split, split_column):
    texts, name = _captions(rows[i], caption), _file(rows[i], image)
    found = [k for k, place in enumerate(places) if name in place]
    if not found:
      skipped["no image file"] += 1
      missing = name
    elif not texts:
      skipped["empty caption"] += 1
    elif idents[i] is None:
      skipped["empty id"] += 1
    elif label and labels[i] is None:
      skipped["no label"] += 1
    else:
      records += [(k, name, texts, idents[i], labels[i]) for k in found]
  if not records:
    _raise_empty(images, places, missing, skipped)
  return Table(_merged(records, bool(id)), places, classes, dict(skipped))


def _merged(records: list[tuple], numbered: bool) -> list[tuple]:
  """One record for all rows of an image, but for those that another id has."""
  found: dict[tuple, tuple] = {}
  for root, name, texts, ident, label in records:
    key = root, name, ident if numbered else None, label
    if key in found:
      found[key][2].extend(texts)
    else:
      found[key] = (root, name, list(texts), ident, label)
  return list(found.values())


def _columns(text: str) -> list[str]:
  """The columns that captions or a file name are made of."""
  parts = text.split("|")
  return [c for p in parts for c in (_FIELD.findall(p) or [p])]


def _file(row: files.Row, image: str) -> str:
  return posixpath.normpath(_fill(row, image))


def _captions(row: files.Row, caption: str) -> list[str]:
  texts: list[str] = []
  for part in caption.split("|"):
    value = row[part] if part in row else _fill(row, part)
    texts += map(_plain, value) if isinstance(value, list) else [_plain(value)]
  return [t for t in texts if t]


def _fill(row: files.Row, template: str) -> str:
  """The template with its columns' values; "" if one of them is empty."""
  values = {name: _plain(row[name]) for name in _columns(template)}
  if not all(values.values()):
    return ""
  if template in values:
    return values[template]
  return _FIELD.sub(lambda m: values[m[1]], template)


def _plain(value: Any) -> str:
  if isinstance(value, list):
    return ", ".join(filter(None, map(_plain, value)))
  return "" if value is None else str(value).strip()


def _chosen(
  rows: list[files.Row], where: str | None, split: str | None, column: str
) -> list[int]:
  """The numbers of the rows to take."""
  conditions = [("where", c) for c in where.split(",")] if where else []
  conditions += [("split", f"{column}={split}")] if split else []
  chosen = list(range(len(rows)))
  for thing, condition in conditions:
    name, equals, values = (s.strip() for s in condition.partition("="))
    if not equals:
      remedy = "Write it like split=train."
      raise errors.UserError("where", where, "column=value", remedy)
    files.column(rows, name, "split_column" if thing == "split" else thing)
    wanted = {value.strip() for value in values.split("|")}
    seen = {_plain(rows[i][name]) for i in chosen}
    chosen = [i for i in chosen if _plain(rows[i][name]) in wanted]
    if not chosen:
      listed = ", ".join(sorted(seen)[:10]) + ", ..." * (len(seen) > 10)
      value = split if thing == "split" else condition
      remedy = f"No row has it. {errors.closest(values, seen)}"
      allowed = f"a value of the column {name}: {listed}"
      raise errors.UserError(thing, value, allowed, remedy)
  return chosen


def _join(rows: list[files.Row], join: str) -> list[files.Row]:
  path, _, name = join.rpartition(":")
  if not path:
    remedy = "Write it like classes.tsv:label."
    raise errors.UserError("join", join, "table:column", remedy)
  others = files.read_table(path, "join")
  files.column(rows, name, "join: column of captions")
  files.column(others, name, f"join: column of {path}")
  by_value: dict[str, files.Row] = {}
  for other in others:
    if by_value.setdefault(_plain(other[name]), other) is not other:
      allowed = f"values of which {path} has one row each"
      remedy = "Drop all rows but one."
      raise errors.UserError(f"join: {name}", other[name], allowed, remedy)
  for row in rows:
    if _plain(row[name]) not in by_value:
      allowed, remedy = f"a {name} of {path}", "Add it to that table."
      raise errors.UserError(f"join: {name}", row[name], allowed, remedy)
  return [by_value[_plain(row[name])] | row for row in rows]


def _numbered(rows: list[files.Row], name: str, thing: str) -> list[int | None]:
  """Each value's place among the sorted values, None where it is empty."""
  files.column(rows, name, thing)
  values = [_plain(row[name]) for row in rows]
  places = {v: i for i, v in enumerate(sorted(set(values) - {""}))}
  return [places.get(value) for value in values]


def _labels(
  rows: list[files.Row], label: str | None, class_name: str | None
) -> tuple[list[int | None], list[str] | None]:
  """Each row's label, None where it is empty, and the names by label."""
  if label is None:
    if class_name:
      remedy = "Set label to the column with the labels."
      raise errors.UserError("class_name", class_name, "None here", remedy)
    return [None] * len(rows), None
  labels = _numbered(rows, label, "label")
  values = [_plain(row[label]) for row in rows]
  if all(_INTEGER.fullmatch(v) for v in values if v):
    labels = [int(v) if v and int(v) >= 0 else None for v in values]
    if class_name is None:
      return labels, None
  name = files.column(rows, class_name or label, "class_name")
  return labels, _classes(labels, [_plain(row[name]) for row in rows])


def _classes(labels: list[int | None], names: list[str]) -> list[str]:
  by_label: dict[int, str] = {}
  for label, name in zip(labels, names, strict=True):
    if label is not None and by_label.setdefault(label, name) != name:
      pair = f"{by_label[label]} and {name}"
      allowed = f"one name for the label {label}"
      raise errors.UserError("class_name", pair, allowed, "Mend the table.")
  for i in range(len(by_label)):
    if i not in by_label:
      allowed = f"a name for each label from 0 to {max(by_label)}"
      remedy = "Leave class_name out, or use its column as the label."
      raise errors.UserError("class_name", f"none for {i}", allowed, remedy)
  return [by_label[i] for i in range(len(by_label))]


def _raise_empty(
  images: str,
  places: list[files.Folder | files.Tar],
  missing: str,
  skipped: collections.Counter[str],
) -> None:
  if skipped.most_common(1)[0][0] != "no image file":
    allowed = "rows with a caption and an image"
    remedy = "Check the columns that caption, id and label name."
    raise errors.UserError("captions", dict(skipped), allowed, remedy)
  there = [f"{p.path} holds {p.example() or 'nothing'}" for p in places[:3]]
  remedy = f"Looked for {missing!r}; {', '.join(there)}."
  raise errors.UserError("images", images, "what holds the files", remedy)
