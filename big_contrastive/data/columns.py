"""Columns of Parquet files: which there are, and whether they fit."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive import errors


def listed(schema: pa.Schema) -> str:
  """Returns all columns with their types."""
  return ", ".join(f"{f.name} ({f.type})" for f in schema)


def check_same(files: list[str], schemas: list[pa.Schema]) -> None:
  """Raises UserError for the first file with another schema."""
  for path, schema in zip(files, schemas, strict=True):
    if not schema.equals(schemas[0]):
      allowed = f"files with the columns of {files[0]}: {listed(schemas[0])}"
      remedy = f"Its own are: {listed(schema)}."
      raise errors.UserError("files", path, allowed, remedy)


def column(
  thing: str, given: str | None, usual: tuple[str, ...], schema: pa.Schema
) -> str:
  """Returns the column that is given, or the first usual one that is there.

  Args:
    thing: the argument, for the error.
  """
  if given is None:
    given = next((name for name in usual if name in schema.names), None)
  if given is None or given not in schema.names:
    allowed = f"a column: {listed(schema)}"
    remedy = errors.closest(str(given), schema.names)
    raise errors.UserError(thing, given, allowed, remedy)
  return given


def check_types(
  schema: pa.Schema, columns: dict[str, str], text_names: list[str] | None
) -> None:
  """Columns of a type that no row could be right in are errors."""
  image = schema.field(columns["image"]).type
  inner = {f.name: f.type for f in image} if pa.types.is_struct(image) else {}
  if not (_binary(image) or inner.keys() & {"bytes", "path"}):
    thing, allowed = "image", "a column of bytes, paths or {bytes, path}"
    raise errors.UserError(
      thing, f"{columns['image']} ({image})", allowed, f"{listed(schema)}."
    )
  text = schema.field(columns["text"]).type
  inner = text.value_type if pa.types.is_list(text) or _large(text) else text
  if pa.types.is_dictionary(inner):
    inner = inner.value_type
  if not _binary(inner) and text_names is None:
    allowed = "a column of strings or lists of strings"
    raise errors.UserError(
      "caption", f"{columns['text']} ({text})", allowed, f"{listed(schema)}."
    )


def _large(kind: pa.DataType) -> bool:
  return pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _binary(kind: pa.DataType) -> bool:
  tests = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
    pa.types.is_large_binary, pa.types.is_string_view, pa.types.is_binary_view,
  )  # fmt: skip
  return any(test(kind) for test in tests)


def names(schema: pa.Schema) -> dict[str, list[str]]:
  """Class names by column, from what Hugging Face's `datasets` notes."""
  try:
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = noted["info"]["features"]
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
  own: set[str],
  size: int,
) -> int:
  """Returns how many rows' groups take `size` bytes, at least one group's.

  Args:
    heads: of the files.
    groups: (file, row group).
    own: the columns that are read.
    size: bytes.
  """
  rows = total = largest = 0
  for file, number in groups:
    group = heads[file].row_group(number)
    rows, largest = rows + group.num_rows, max(largest, group.num_rows)
    total += sum(
      max(0, c.total_uncompressed_size)
      for c in map(group.column, range(group.num_columns))
      if c.path_in_schema.split(".")[0] in own
    )
  return max(largest, int(rows * size / max(1, total)))
