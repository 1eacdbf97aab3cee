"""Your own pairs: a table with captions, and images in folders or tars."""

import collections
import dataclasses
import functools
import logging
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import fields, folders, labels, queries, tables
from big_contrastive.data.source import Source
from big_contrastive.data.transforms.decode import ENDINGS

_FIELD = re.compile(r"\{([^{}]+)\}")
_NAMED = 5  # How many rows the log names for each reason.
Record = tuple[int, str, list[str], int, int | None]


@dataclasses.dataclass
class Table(Source):
  """Records of a table; see `source`.

  Args:
    records: (root, file name, captions, id, label or None).
    roots: the folders and tars that hold the images.
    classes: names by label, None if there are none.
    skipped: reason -> number of rows that were left out.
  """

  records: list[Record]
  roots: list[folders.Folder | folders.Tar]
  classes: list[str] | None = dataclasses.field()
  skipped: dict[str, int] = dataclasses.field()

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    root, name, captions, ident, label = self.records[index]
    record = {"image": self.roots[root].read(name), "id": ident}
    if captions:
      record["text"] = captions[0] if len(captions) == 1 else captions
    return record if label is None else record | {"label": label}

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    root, name, *_ = self.records[index]
    return f"{self.roots[root].path}:{name}"

  def outline(self) -> Iterator[str]:
    """Yields all records, in order, for a digest."""
    return (repr(record) for record in self.records)


def source(
  split: str | None = None,
  *,
  captions: str,
  images: str,
  image: str = "image",
  caption: str = "caption",
  id: str | None = None,
  label: str | None = None,
  class_name: str | None = None,
  classes: str | list | None = None,
  where: str | None = None,
  join: str | None = None,
  split_column: str = "split",
) -> Table:
  """Returns the pairs of a table, one for each image that exists.

  Several rows of one image become one pair with several captions, unless their
  ids or labels differ. docs/data.md says which values are ids, labels and
  captions, and which are missing.

  Ids and labels are numbered over the whole table, so they don't depend on
  `split` and `where`.

  Args:
    split: short for where="split=<split>".
    images: folders and tars, separated by commas, globs allowed. A row gives
      one record for each of them that contains its file.
    captions: JSONL, CSV or TSV file.
    image: the column with the file's name, or a template: "{key}.png".
    caption: a column, or a template: "a drawing of {name}"; several captions
      are separated by "|". A JSONL column may hold a list. "none" for only
      images.
    id: a column; rows with equal values are the same text or concept and not
      each other's negatives. By default, each row is its own.
    label: a column; whole numbers are the labels, and a negative one means no
      label; other values are class names, whose labels are their indices in
      sorted order.
    class_name: a column that names the class of each label.
    classes: names by label, as class_names.read takes them; the label column
      has their numbers or names.
    where: the rows to take: "column=value" or "column=value1|value2", several
      conditions separated by commas.
    join: "table.tsv:column": adds that table's columns by equal values.
    split_column: the column that `split` applies to.

  Raises:
    UserError: for a file or column that is missing, and if no row has an image.
  """
  roots = functools.cache(lambda: folders.roots(images))

  def about(row: tables.Row) -> str:
    """The image of a row, if it exists."""
    if not all(name in row for name in _columns(image)):
      return ""
    name = _file(row, image)
    return name if any(name in place for place in roots()) else ""

  rows = tables.read_table(captions, about=about)
  if join:
    queries.join(rows, join)
  alone = caption == fields.NO_CAPTION
  for text, thing in ((image, "image"), (caption, "caption")):
    for name in () if alone and thing == "caption" else _columns(text):
      tables.column(rows, name, thing)
  idents = labels.numbered(rows, id) if id else list(range(len(rows)))
  numbers, names = labels.labels(rows, label, class_name, classes)
  left_out, places = _LeftOut(rows), roots()
  records: list[Record] = []
  missing = ""
  for i in queries.chosen(rows, where, split, split_column):
    try:
      texts = [] if alone else _captions(rows[i], caption)
      name = _file(rows[i], image)
    except BadRecord as e:
      left_out.add(i, f"{e.kind}: {e}")
      continue
    holders = [k for k, place in enumerate(places) if name and name in place]
    if not holders:
      left_out.add(i, "no image file" if name else "no name of an image")
      missing = name or missing
    elif not texts and not alone:
      left_out.add(i, "empty caption")
    elif idents[i] is None:
      left_out.add(i, "empty id")
    elif label and numbers[i] is None:
      left_out.add(i, "no label")
    else:
      records += [(k, name, texts, idents[i], numbers[i]) for k in holders]
  if not records:
    _raise_empty(images, places, missing, left_out.counts)
  _tell_unused(rows, image, places)
  return Table(_merged(records, bool(id)), places, names, dict(left_out.counts))


class _LeftOut:
  """Counts the rows that are left out, and logs the first of each reason."""

  def __init__(self, rows: tables.Rows):
    self._rows = rows
    self.counts: collections.Counter[str] = collections.Counter()

  def add(self, row: int, reason: str) -> None:
    self.counts[reason] += 1
    if self.counts[reason] <= _NAMED:
      logging.info("%s is left out: %s", self._rows.at(row), reason)


def _tell_unused(
  rows: tables.Rows, image: str, places: list[folders.Folder | folders.Tar]
) -> None:
  """Logs images that no row of any split names."""
  names = set()
  for row in rows:
    try:
      names.add(_file(row, image))
    except BadRecord:
      continue
  for place in places:
    used = names | {
      os.path.relpath(n, place.path) for n in names if n[:1] == "/"
    }
    unused = (n for n in place.names() if n not in used)
    images = [n for n in unused if n.rpartition(".")[2].lower() in ENDINGS]
    if images:
      message = "%s: %d images are not used: no row of %s names them, like %s"
      first = fields.clean(images[0])
      logging.warning(message, place.path, len(images), rows.path, first)


def _merged(records: list[Record], numbered: bool) -> list[Record]:
  """Merges the rows of an image that have the same id and label."""
  by_key: dict[tuple, Record] = {}
  for root, name, texts, ident, label in records:
    key = root, name, ident if numbered else None, label
    if key in by_key:
      by_key[key][2].extend(texts)
    else:
      by_key[key] = (root, name, list(texts), ident, label)
  return list(by_key.values())


def _columns(text: str) -> list[str]:
  """The columns that a template for captions or a file name uses."""
  parts = text.split("|")
  return [c for p in parts for c in (_FIELD.findall(p) or [p])]


def _file(row: tables.Row, image: str) -> str:
  """The normalized file name of a row's image; "" if it has none."""
  name = _fill(row, image)
  return posixpath.normpath(name) if name else ""


def _captions(row: tables.Row, caption: str) -> list[str]:
  texts: list[str] = []
  for part in caption.split("|"):
    value = row[part] if part in row else _fill(row, part)
    texts += fields.caption(value)
  return texts


def _fill(row: tables.Row, template: str) -> str:
  """The template filled with a row's values; "" if one of them is missing."""
  values = {name: fields.field(row[name]) for name in _columns(template)}
  if not all(values.values()):
    return ""
  if template in values:
    return values[template]
  return _FIELD.sub(lambda m: values[m[1]], template)


def _raise_empty(
  images: str,
  places: list[folders.Folder | folders.Tar],
  missing: str,
  skipped: collections.Counter[str],
) -> None:
  if skipped.most_common(1)[0][0] != "no image file":
    allowed = "rows with a caption and an image"
    remedy = "Check the columns that caption, id and label name."
    raise errors.UserError("captions", dict(skipped), allowed, remedy)
  there = [f"{p.path} holds {next(p.names(), 'nothing')}" for p in places[:3]]
  remedy = f"Looked for {missing!r}; {', '.join(there)}."
  allowed = "folders or tars that contain the table's images"
  raise errors.UserError("images", images, allowed, remedy)
