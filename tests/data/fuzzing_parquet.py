"""Parquet files in every type that says the same, right or wrong."""

import datetime
import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing_truth import BAD, MISSING, NO_TEXTS, Case, Row, text, truth

from big_contrastive.data.sources import parquet

_TEXTS = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]
_LISTS = [pa.list_, pa.large_list]
CLASSES = ["a dog", "Red_fox", "None", "NA", "12", "cat"]


def case(rng, folder) -> Case:
  """Files of one data set; half of them are wrong in one place."""
  asked = {k for k in ("id", "label") if rng.random() < 0.6}
  # How labels are stored, and where their names come from.
  kind = rng.choice(["numbers", "noted", "classes", "names"])
  files = [[] for _ in range(rng.randint(1, 3))]
  rows: list[Row] = []
  plans = [_plan(rng, kind) for _ in files]
  for k, (cells, plan) in enumerate(zip(files, plans, strict=True)):
    for _ in range(rng.randint(1, 6)):
      row, cell = _row(rng, f"image {k} {len(cells)}".encode(), plan)
      rows.append(row)
      cells.append(cell)
  options = {"asked": asked, "kind": kind, "named": (), "path": folder}
  wrong = ""
  refused = False
  if rng.random() < 0.5:
    change = rng.choice(WRONG)
    wrong = change.__name__
    refused = change(rng, rows, files, plans, options)
  others = _write(rng, folder, files, plans, options)
  given: dict[str, Any] = {k: k for k in sorted(asked)}
  if kind in ("classes", "names") and "label" in asked:
    given["classes"] = CLASSES
  for row in rows:
    row.key = row.key if "id" in asked else None
    row.label = row.label if "label" in asked else None
  named = "label" in asked and kind != "numbers"
  made = truth(rows, others, CLASSES if named else None)
  return Case(
    f"{len(files)} files, {kind}, {wrong or 'right'}",
    lambda: parquet.source(files=str(folder), **given),
    [] if refused else [made], bool(wrong), options["named"] if refused else (),
  )  # fmt: skip


def _plan(rng, kind: str) -> dict[str, Any]:
  """How the columns of a file are stored."""
  ids = rng.choice(
    [pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.binary()]
  )
  labels = [pa.int64(), pa.int16(), pa.float64()]
  if kind in ("classes", "names"):
    labels = [pa.string(), pa.large_string()] + labels * (kind == "classes")
  return {
    "caption": rng.choice([*_TEXTS, *(c(t) for c in _LISTS for t in _TEXTS)]),
    "id": ids, "label": rng.choice(labels),
    "image": rng.choice(["bytes", "large", "struct", "struct", "path"]),
    "dictionary": {k for k in ("caption", "id", "label") if rng.random() < 0.2},
    "noted": kind == "noted",
  }  # fmt: skip


def _row(rng, image: bytes, plan) -> tuple[Row, dict[str, Any]]:
  caption, said = _caption(rng, plan["caption"])
  ident, key = _id(rng, plan["id"])
  label, place = _label(rng, plan["label"])
  cell = {"image": image, "caption": caption, "id": ident, "label": label}
  row = Row(image, said, key, place)
  if rng.random() < 0.05:
    cell["image"], row.image = None, None
  return row, cell


def _listing(kind: pa.DataType) -> bool:
  return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _caption(rng, kind: pa.DataType) -> tuple[Any, Any]:
  said = text(rng, rng.choice(["", "\n", '"', "\t"]))
  if _listing(kind):
    listed = [
      ([said], [said]), ([f" {said}", None, "b"], [said, "b"]), ([], MISSING),
      ([None], MISSING), (None, MISSING), (["", "nan"], MISSING),
      (["a", "a"], ["a", "a"]),
    ]  # fmt: skip
    return rng.choice(listed[:2] * 4 + listed)
  if rng.random() < 0.1:
    return rng.choice([*NO_TEXTS, None]), MISSING
  return rng.choice([(said, [said]), (f" {said}  ", [said]), ("3.0", ["3.0"])])


def _id(rng, kind: pa.DataType) -> tuple[Any, Any]:
  if rng.random() < 0.1:
    none = [None, math.nan] if pa.types.is_floating(kind) else [None]
    none = none if pa.types.is_primitive(kind) else [None, *NO_TEXTS]
    return rng.choice(none), (MISSING,)
  key = rng.choice([0, 7, 7, 1, -1])
  if pa.types.is_primitive(kind):
    return key, key
  if rng.random() < 0.5:
    return rng.choice([str(key), f"{key}.0", f" {key}"]), key
  return (name := rng.choice(["007", "a b", "NA", "3.5", "é"])), name


def _label(rng, kind: pa.DataType) -> tuple[Any, Any]:
  place = rng.randrange(len(CLASSES))
  if rng.random() < 0.05:
    return None, MISSING
  if pa.types.is_primitive(kind):
    return place, place
  name = CLASSES[place]
  return rng.choice(
    [name, f" {name}", name.upper(), name.replace(" ", "-")]
  ), place


def _table(rng, folder, cells: list[dict], plan, options) -> pa.Table:
  columns: dict[str, pa.Array] = {}
  for name in ("caption", "id", "label"):
    values = [c[name] for c in cells]
    kind = plan[name]
    columns[name] = pa.array(values, kind) if kind else pa.array(values)
    if kind and name in plan["dictionary"] and not _listing(kind):
      columns[name] = columns[name].dictionary_encode()
  columns["image"] = _images(rng, folder, [c["image"] for c in cells], plan)
  if rng.random() < 0.5:
    columns[rng.choice(["more", "text", "Label"])] = pa.array(range(len(cells)))
  order = rng.sample(list(columns), len(columns))
  table = pa.table({k: columns[k] for k in order})
  if plan["noted"]:
    names = plan.get("names", CLASSES)
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    noted = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": noted})
  return plan.get("table", lambda t: t)(table)


def _images(rng, folder, images: list, plan) -> pa.Array:
  form = plan["image"]
  if form in ("bytes", "large"):
    return pa.array(
      images, pa.binary() if form == "bytes" else pa.large_binary()
    )
  paths = []
  for image in images:
    if image is not None:
      name = f"{image.decode().replace(' ', '_')}.png"
      (folder / name).write_bytes(image)
    paths.append(None if image is None else name)
  if form == "path":
    return pa.array(paths, rng.choice([pa.string(), pa.large_string()]))
  kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
  by_path = rng.random() < 0.5
  pairs = zip(images, paths, strict=True)
  made = [{"bytes": None if by_path else i, "path": p} for i, p in pairs]
  return pa.array(made, kind)


def _write(rng, folder, files, plans, options) -> int:
  """Writes all; returns how many files are others that are counted."""
  for k, (cells, plan) in enumerate(zip(files, plans, strict=True)):
    table = _table(rng, folder, cells, plan, options)
    path = folder / f"p-{k}.parquet"
    pq.write_table(
      table, path, row_group_size=rng.choice([1, 2, 100]),
      compression=rng.choice(["none", "snappy", "zstd"]),
      version=rng.choice(["1.0", "2.6"]), use_dictionary=rng.random() < 0.5,
      store_schema=rng.random() < 0.8 or bool(plan["noted"]),
    )  # fmt: skip
    if "bytes" in plan:
      path.write_bytes(plan["bytes"](path.read_bytes()))
  holds_paths = plans[0]["image"] in ("struct", "path")
  images = len(list(folder.glob("*.png")))
  more = rng.randint(0, 2)
  for i in range(more):
    (folder / f"{i}.md").write_text("x")
  return more + (0 if holds_paths else images)


def _one(rng, files, options):
  k = rng.randrange(len(files))
  options["named"] = (f"p-{k}.parquet",)
  return k, rng.randrange(len(files[k]))


def a_file_cut(rng, rows, files, plans, options):
  k, _ = _one(rng, files, options)
  part = rng.random()
  plans[k]["bytes"] = lambda data: data[: int(part * len(data))]
  return True


def no_parquet(rng, rows, files, plans, options):
  k, _ = _one(rng, files, options)
  data = rng.choice([b"", b"PAR1", b"PAR1PAR1", b"image,caption\n", bytes(99)])
  plans[k]["bytes"] = lambda _: data
  return True


def a_column_renamed(rng, rows, files, plans, options):
  k, _ = _one(rng, files, options)
  role = rng.choice(["image", "caption", *sorted(options["asked"])])
  if k == 0:  # The first tells the names.
    options["named"] = (role,)
  plans[k]["table"] = lambda t: t.rename_columns(
    [
      "other" if n == role else n if n != "text" else "more"
      for n in t.column_names
    ]
  )
  return True


def a_column_twice(rng, rows, files, plans, options):
  k, _ = _one(rng, files, options)
  role = rng.choice(["image", "caption", *sorted(options["asked"])])
  if k == 0:
    options["named"] = (role,)
  plans[k]["table"] = lambda t: t.append_column(role, t[role])
  return True


def captions_of_another_type(rng, rows, files, plans, options):
  k, _ = _one(rng, files, options)
  options["named"] = ("caption",)
  value, kind = rng.choice(
    [
      (1, pa.int64()),
      (True, pa.bool_()),
      ({"a": "b"}, None),
      (1.5, pa.float32()),
    ]
  )
  plans[k]["caption"] = kind
  for cell in files[k]:
    cell["caption"] = value
  return True


def ids_of_another_type(rng, rows, files, plans, options):
  return _bad(rng, rows, files, plans, options, "id")


def labels_of_another_type(rng, rows, files, plans, options):
  return _bad(rng, rows, files, plans, options, "label")


def _bad(rng, rows, files, plans, options, role):
  """Of one file, all values are of a kind that is no id, or no label."""
  k, _ = _one(rng, files, options)
  options["asked"].add(role)
  value = rng.choice([True, [1], {"a": 1}, math.inf])
  more = [-1, 3.5, datetime.date(2020, 1, 1)]
  more += [99] * (options["kind"] != "numbers")
  value = rng.choice([value, *more]) if role == "label" else value
  plans[k][role] = None
  first = sum(map(len, files[:k]))
  for i, cell in enumerate(files[k]):
    cell[role] = value
    if role == "id":
      rows[first + i].key = (BAD,)
    else:
      rows[first + i].label = BAD
  return False


def other_classes(rng, rows, files, plans, options):
  if len(files) < 2 or options["kind"] != "noted":
    return a_column_twice(rng, rows, files, plans, options)
  options["asked"].add("label")
  k = rng.randrange(1, len(files))
  options["named"] = (f"p-{k}.parquet", "label")
  plans[k]["names"] = rng.choice([CLASSES[1:], [*CLASSES, "x"], CLASSES[::-1]])
  return True


def captions_of_another_encoding(rng, rows, files, plans, options):
  k, i = _one(rng, files, options)
  plans[k]["caption"] = pa.binary()
  first = sum(map(len, files[:k]))
  for n, cell in enumerate(files[k]):
    cell["caption"] = b"caf\xe9" if n == i else f"x{n}".encode()
    rows[first + n].captions = BAD if n == i else [f"x{n}"]
  return False


WRONG = [
  a_file_cut, no_parquet, a_column_renamed, a_column_twice, other_classes,
  captions_of_another_type, captions_of_another_encoding, ids_of_another_type,
  labels_of_another_type,
]  # fmt: skip
