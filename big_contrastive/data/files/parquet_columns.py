"""Columns of Parquet files: chooses them, and checks that they fit."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data.files import class_names, fields, label_matching


def listed(schema: pa.Schema) -> str:
  """Returns all columns with their types, for an error."""
  return ", ".join(f"{f.name} ({f.type})" for f in schema)


def check_same(
  files: list[str], schemas: list[pa.Schema], columns: dict[str, str]
) -> dict[str, list[str]]:
  """Checks that files have the columns to read; returns class names by column.

  Columns that are not read, their order, and how a column is stored may differ.

  Args:
    files: their paths.
    schemas: one per file.
    columns: the files' columns for "image", "text", "label", "id".

  Returns:
    See `names`.

  Raises:
    UserError: for the first file in which a column is missing, occurs twice,
      has a type in which no row can be valid, or has other class names.
  """
  named: dict[str, list[str]] = {}
  for path, schema in zip(files, schemas, strict=True):
    by_column = names(schema)
    for role, name in columns.items():
      if (count := schema.names.count(name)) != 1:
        allowed = f"files that have the column {name!r} once, as {files[0]} has"
        remedy = f"It has it {count} times, of: {listed(schema)}."
        raise errors.UserError("files", path, allowed, remedy)
      classes = by_column.get(name)
      if classes and named.setdefault(name, classes) != classes:
        allowed = f"the classes of {files[0]}: {', '.join(named[name][:20])}"
        remedy = f"Its own are: {', '.join(classes[:20])}."
        raise errors.UserError(
          f"{role}: classes of {name}", path, allowed, remedy
        )
  for schema in schemas:
    check_types(schema, columns, named.get(columns.get("text", "")))
  return named


def column(
  thing: str, chosen: str | None, usual: tuple[str, ...], schema: pa.Schema
) -> str:
  """Returns the chosen column, or the first usual one that exists.

  Args:
    thing: the argument, for the error.
    chosen: a column, or None.
    usual: names to try, in order.
    schema: of a file.
  """
  if chosen is None:
    chosen = next((name for name in usual if name in schema.names), None)
  if chosen is None or chosen not in schema.names:
    allowed = f"a column: {listed(schema)}"
    remedy = errors.closest(str(chosen), schema.names)
    raise errors.UserError(thing, chosen, allowed, remedy)
  if schema.names.count(chosen) > 1:
    allowed, remedy = "columns with different names", f"{listed(schema)}."
    raise errors.UserError(thing, chosen, allowed, remedy)
  return chosen


def check_types(
  schema: pa.Schema, columns: dict[str, str], text_names: list[str] | None
) -> None:
  """Raises UserError for a column of a type in which no row can be valid."""
  image = _inner(schema.field(columns["image"]).type)
  inner = {f.name: f.type for f in image} if pa.types.is_struct(image) else {}
  if not (
    _binary(image)
    or pa.types.is_null(image)
    or inner.keys() & {"bytes", "path"}
  ):
    thing, allowed = "image", "a column of bytes, paths or {bytes, path}"
    raise errors.UserError(
      thing, f"{columns['image']} ({image})", allowed, f"{listed(schema)}."
    )
  if "text" not in columns:  # Only images.
    return
  text = schema.field(columns["text"]).type
  inner = _inner(text)
  if _listing(inner):
    inner = _inner(inner.value_type)
  # Null: the file has no captions at all.
  if pa.types.is_null(inner):
    return
  if not _binary(inner) and text_names is None:
    allowed = "a column of strings or lists of strings"
    raise errors.UserError(
      "caption", f"{columns['text']} ({text})", allowed, f"{listed(schema)}."
    )


def _inner(kind: pa.DataType) -> pa.DataType:
  """The type of a dictionary's values, or the type itself."""
  return kind.value_type if pa.types.is_dictionary(kind) else kind


def _listing(kind: pa.DataType) -> bool:
  tests = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
    pa.types.is_list_view, pa.types.is_large_list_view,
  )  # fmt: skip
  return any(test(kind) for test in tests)


def holds_paths(kind: pa.DataType) -> bool:
  """Returns whether a column of images may hold paths."""
  kind = _inner(kind)
  return pa.types.is_struct(kind) or not (
    pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
  )


def _binary(kind: pa.DataType) -> bool:
  tests = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
    pa.types.is_large_binary, pa.types.is_string_view, pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
  )  # fmt: skip
  return any(test(kind) for test in tests)


def names(schema: pa.Schema) -> dict[str, list[str]]:
  """Class names by column, from the metadata of Hugging Face's `datasets`."""
  try:
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored["info"]["features"]
    return {
      column: list(map(str, feature["names"]))
      for column, feature in features.items()
      if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return {}


def rows_in(
  heads: list[pq.FileMetaData],
  groups: list[tuple[int, int]],
  columns: set[str],
  size: int,
) -> int:
  """Returns how many rows take `size` bytes, at least those of a row group.

  Args:
    heads: metadata of the files.
    groups: (file, row group).
    columns: the columns that are read.
    size: bytes.
  """
  rows = total = largest = 0
  for file, number in groups:
    group = heads[file].row_group(number)
    rows, largest = rows + group.num_rows, max(largest, group.num_rows)
    total += sum(
      max(0, c.total_uncompressed_size)
      for c in map(group.column, range(group.num_columns))
      if c.path_in_schema.split(".")[0] in columns
    )
  return max(largest, int(rows * size / max(1, total)))


def label_names(
  classes: str | list | None,
  stored: list[str] | None,
  column: str | None,
  first: Callable[[str], list[Any]],
) -> tuple[class_names.Names | None, np.ndarray | None]:
  """Returns the class names by label, and the index of each stored class.

  Args:
    classes: names, as class_names.read takes them, or None.
    stored: the names in the files' metadata, or None.
    column: of the labels; None for no labels.
    first: column -> its first values.

  Returns:
    Names, None if labels are numbers; and for each stored class its index
    among them, None if it is the same.

  Raises:
    UserError: if labels are names, and the class names are not known.
  """
  if classes is not None:
    if stored is None:
      return label_matching.of_labels(classes, "classes"), None
    names = class_names.Names(class_names.read(classes, "classes"))
    remedy = "Leave classes out for the names that the files note."
    return names, label_matching.match(names, stored, "classes", remedy)
  if stored is not None:
    return class_names.Names(stored), None
  values = [v for v in map(fields.plain, first(column)) if v] if column else []
  if values and all(fields.whole(v) is None for v in values):
    allowed = "a column of numbers, or names of classes beside it"
    remedy = (
      f"It has {values[0]!r}. List the names, one a line, in a file: "
      "classes=FILE."
    )
    raise errors.UserError("label", column, allowed, remedy)
  return None, None


def plain_times(table: pa.Table) -> pa.Table:
  """Returns the table with times as texts: Python's have no nanoseconds."""
  for i, field in enumerate(table.schema):
    if pa.types.is_temporal(field.type):
      texts = table.column(i).cast(pa.string())
      table = table.set_column(i, field.name, texts)
  return table


def layout(
  heads: list[pq.FileMetaData],
  groups: list[tuple[int, int]],
  chosen: dict[str, str],
) -> bytes:
  """Returns the sizes and the least and largest values of the columns read.

  Args:
    heads: metadata of the files.
    groups: (file, row group) of each block.
    chosen: the columns, by role.
  """
  summary: list[tuple] = []
  for file, number in groups:
    group = heads[file].row_group(number)
    for column in map(group.column, range(group.num_columns)):
      if column.path_in_schema.split(".")[0] in chosen.values():
        summary.append((group.num_rows, column.total_compressed_size))
        with contextlib.suppress(ValueError):  # Python has no nanoseconds.
          statistics = column.statistics if column.is_stats_set else None
          if statistics and statistics.has_min_max:
            summary.append((statistics.min, statistics.max))
  return repr(summary).encode("utf-8", "replace")


def which_image(image: Any) -> bytes:
  """Returns what identifies an image: its bytes, or its path."""
  if isinstance(image, dict):
    image = image.get("bytes") or image.get("path")
  return image.encode() if isinstance(image, str) else image or b""
