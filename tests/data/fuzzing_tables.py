"""Tables in every dialect, by Python's csv and json, right or wrong."""

import csv
import io
import json
import math
import tarfile
from typing import Any

import fuzzing_wrong
from fuzzing_truth import BAD, MISSING, NO_TEXTS, Case, Row, Truth, text
from fuzzing_wrong import ABSENT

from big_contrastive.data.sources import table


def case(rng, folder) -> Case:
  """A table and its images; two in three are wrong in one place."""
  form = rng.choice(["csv", "tsv", "quoted tsv", "jsonl", "jsonl"])
  rows, cells, options = _content(rng, form)
  names = {k: _name(rng, k) for k in options["columns"]}
  options["names"] = names
  order = rng.sample(options["columns"], len(options["columns"]))
  note, refused, line = "", False, None
  if rng.random() < 0.66:
    change = rng.choice(fuzzing_wrong.WRONG[form])
    refused, line = change(rng, rows, cells, options)
    note = change.__name__
  data = _written(rng, form, names, order, cells, options)
  path = folder / f"t.{options.get('ending', form.split()[-1])}"
  path.write_bytes(data)
  images = _images(rng, folder, rows, options)
  made = [] if refused else [_truth(rows, options)]
  if not any(t.records for t in made):
    made = []
  given = {"images": images, "captions": str(path), "image": names["image"]}
  given |= {"caption": names["caption"]}
  given |= {k: names[k] for k in ("id", "label") if k in options["asked"]}
  if "classes" in options:
    given["classes"] = options["classes"]
  named = () if not note else (str(path),)
  if line is not None:
    named = (f"{path}:{options['lines'][line]}",)
  named = options.get("named", named)
  wrong = bool(note) or not made
  split = options["split"]
  return Case(
    f"{form}, {note or 'right'}", lambda: table.source(split, **given), made,
    wrong, named if refused else (),
  )  # fmt: skip


def _name(rng, role: str) -> str:
  if role == "split":
    return role
  return rng.choice([role, f"{role} 2", role.upper(), f"my;{role}", "é" + role])


def _content(rng, form: str) -> tuple[list[Row], list[dict], dict]:
  """Records, what is written of each in each column, and what is asked."""
  asked = {k for k in ("id", "label") if rng.random() < 0.6}
  columns = ["image", "caption", "id", "label", "more", "split"]
  options = {"asked": asked, "columns": columns, "split": None, "form": form}
  options["split"] = rng.choice([None, None, "train"])
  kind = options["kind"] = rng.choice(["numbers", "names", "classes"])
  classes = ["a dog", "Red_fox", "None", "NA", "12", "cat"]
  rng.shuffle(classes)
  if kind == "classes" and "label" in asked:
    options["classes"] = classes
  pool = [f"{i}.png" for i in range(5)]
  rows, cells = [], []
  for i in range(rng.randint(2, 8)):
    name = rng.choice(pool) if rng.random() < 0.3 else f"f/{i} é.png"
    there = i == 0 or rng.random() < 0.85
    row = Row(f"image {name}".encode() if there else None, MISSING)
    said = rng.choice(["", "", "./"]) + name
    none = ["no.png", "../x.png", *NO_TEXTS]
    cell: dict[str, Any] = {"image": said if there else rng.choice(none)}
    cell["caption"], row.captions = _caption(rng, form)
    if i == 0:
      cell["caption"] = row.captions = text(rng)
      row.captions = [row.captions]
    cell["id"], row.key = _id(rng, form, i == 0)
    cell["label"], row.label = _label(rng, form, kind, classes, i == 0)
    cell["more"] = rng.choice([text(rng), ""])
    cell["split"] = (
      "train" if i == 0 else rng.choice(["train", "val", " train "])
    )
    rows.append(row)
    cells.append(cell)
  return rows, cells, options


def _caption(rng, form: str) -> tuple[Any, Any]:
  marks = {
    "csv": ["", "\n", '"', ",", '""'], "tsv": ["", '"', ","],
    "quoted tsv": ["", "\t", '"', "\r\n"], "jsonl": ["", '"', "\n"],
  }  # fmt: skip
  said = text(rng, [rng.choice(marks[form])])
  right = [(said, [said]), (f"  {said} ", [said]), ("3.0", ["3.0"])]
  if form == "jsonl":
    right += [
      (3.0, ["3"]), (-1, ["-1"]), (3.5, ["3.5"]),
      ([said, None, "b"], [said, "b"]), (f"x\ud800 {said}", [f"x? {said}"]),
    ]  # fmt: skip
  missing = [(t, MISSING) for t in NO_TEXTS]
  if form == "jsonl":
    missing += [(None, MISSING), (ABSENT, MISSING), (math.nan, MISSING)]
    missing += [([], MISSING), ([None, ""], MISSING)]
    missing += [(v, BAD) for v in (True, False, {}, {"a": 1}, math.inf, [True])]
  return rng.choice(right if rng.random() < 0.85 else missing)


def _id(rng, form: str, good: bool) -> tuple[Any, Any]:
  key = rng.choice([0, 7, 7, -1, 10**12, "007", "a b", "NA", "3.5", "7a", "é"])
  spelt = [str(key), f" {key} "]
  if isinstance(key, int):
    spelt += [f"{key}.0"] + ([key, float(key)] if form == "jsonl" else [])
  if key == "3.5" and form == "jsonl":
    spelt.append(3.5)
  if good or rng.random() < 0.9:
    return rng.choice(spelt), key
  none = [*NO_TEXTS] + ([None, ABSENT, math.nan] if form == "jsonl" else [])
  return rng.choice(none), (MISSING,)


def _label(rng, form, kind, classes, good) -> tuple[Any, Any]:
  if not good and rng.random() < 0.1:
    none = ["", "  "] + ([None, ABSENT, math.nan] if form == "jsonl" else [])
    return rng.choice([*none, *(["-1"] if kind != "names" else [])]), MISSING
  place = rng.randrange(len(classes))
  if kind == "names":
    return (name := rng.choice(["a dog", "Red_fox", "NA", "3.5"])), name
  as_number = [str(place), f"{place}.0", f"0{place}"]
  if form == "jsonl":
    as_number += [place, float(place)]
  if kind == "numbers" or rng.random() < 0.5:
    return rng.choice(as_number), place
  name = classes[place]
  alike = [name, f" {name}", name.upper(), name.replace(" ", "_")]
  return rng.choice(alike), place


def _truth(rows: list[Row], options: dict) -> Truth:
  """Rows of one image are one record, unless their ids or labels differ."""
  asked = options["asked"]
  number: Any = lambda label: label  # noqa: E731
  classes = options.get("classes")
  if options["kind"] == "names" and "label" in asked:
    classes = sorted({r.label for r in rows} - {MISSING})
    number = classes.index
  left, made = options.get("left", 0), {}
  for row, taken in zip(rows, options["taken"], strict=True):
    own = Row(
      row.image, row.captions, row.key if "id" in asked else None,
      row.label if "label" in asked else None,
    )  # fmt: skip
    if not taken:
      continue
    if not own.whole():
      left += 1
      continue
    label = None if own.label is None else number(own.label)
    where = own.image, own.key, label
    made.setdefault(where, []).extend(own.captions)
  records = [(i, tuple(c), k, n) for (i, k, n), c in made.items()]
  return Truth(records, left, classes)


def _images(rng, folder, rows: list[Row], options: dict) -> str:
  there = {row.image for row in rows if row.image}
  named = {image.decode().removeprefix("image "): image for image in there}
  if rng.random() < 0.5:
    for name, data in named.items():
      (folder / "i" / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / "i" / name).write_bytes(data)
    return str(folder / "i")
  with tarfile.open(folder / "i.tar", "w") as tar:
    for name, data in named.items():
      member = tarfile.TarInfo(rng.choice(["", "./", "/"]) + name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return str(folder / "i.tar")


def _written(rng, form, names, order, cells, options) -> bytes:
  """The file; notes the line at which each row begins."""
  ends = rng.choice(["\n", "\r\n"] + ["\r"] * (form != "jsonl"))
  header = [names[k] for k in order]
  options["taken"] = [
    options["split"] is None or c["split"].strip() == "train" for c in cells
  ]  # fmt: skip
  line, lines, rendered = 1, [], []
  first = options.get("header", lambda h: h)(header)
  if form != "jsonl":
    rendered.append(
      _line(rng, form, first, ends, options.setdefault("style", {}))
    )
    line += 1
  for cell in cells:
    if rng.random() < 0.1:
      rendered.append(ends)
      line += 1
    lines.append(line)
    if form == "jsonl":
      pairs = [(names[k], cell[k]) for k in rng.sample(order, len(order))]
      given = {k: v for k, v in pairs if v is not ABSENT}
      plain = _halved(given) or rng.random() < 0.5
      rendered.append(json.dumps(given, ensure_ascii=plain) + ends)
    else:
      values = cell.get("fields", lambda v: v)([cell[k] for k in order])
      rendered.append(_line(rng, form, values, ends, options["style"]))
    if "line" in cell:
      rendered[-1] = cell["line"](rendered[-1])
    line += _count(rendered[-1])
  options["lines"] = lines
  whole = "".join(rendered)
  if rng.random() < 0.2 and not options.get("last"):
    whole = whole.removesuffix(ends)
  whole = ("\ufeff" if rng.random() < 0.2 else "") + whole
  return options.get("encode", lambda t: t.encode())(whole)


def _count(text: str) -> int:
  """How many lines there are, of any ends of lines."""
  return text.replace("\r\n", "\n").replace("\r", "\n").count("\n")


def _halved(given: dict) -> bool:
  return any("\ud800" in str(v) for v in given.values())


def _line(rng, form, values, ends, style) -> str:
  if not style:
    every = [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]
    every = {"tsv": [None, every[1]], "quoted tsv": every[:1]}.get(form, every)
    # Python's csv leaves \n without marks where \r ends a line.
    style["quoting"] = rng.choice(every) if ends != "\r" else every[0]
  if style["quoting"] is None:
    return "\t".join(values) + ends
  file = io.StringIO()
  between = "\t" if "tsv" in form else ","
  csv.writer(file, delimiter=between, lineterminator=ends, **style).writerow(
    values
  )
  return file.getvalue()
