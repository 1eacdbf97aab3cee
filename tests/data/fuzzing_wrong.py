"""What is made wrong in a table: one thing in one place.

Each returns whether it must be refused, and the row whose line must be named;
what need not be refused is noted in the row, as docs/data.md has it.
"""

import json
import math

from fuzzing_truth import BAD, MISSING

ABSENT = object()  # A key that a line of JSONL does not have.


def _cell(rng, cells, options):
  """A row that is read."""
  split = options["split"]
  taken = [
    i for i, c in enumerate(cells)
    if split is None or c["split"].strip() == split
  ]  # fmt: skip
  return rng.choice(taken)


def a_field_too_few(rng, rows, cells, options):
  i = rng.randrange(len(cells))
  at = rng.randrange(len(options["columns"]))
  cells[i]["fields"] = lambda v: v[:at] + v[at + 1 :]
  return True, i


def a_field_too_many(rng, rows, cells, options):
  i = rng.randrange(len(cells))
  at = rng.randrange(len(options["columns"]) + 1)
  cells[i]["fields"] = lambda v: [*v[:at], rng.choice(["", "x"]), *v[at:]]
  return True, i


def _in_a_line(rng, cells, what):
  i = rng.randrange(len(cells))
  cells[i]["caption"] = "x y"  # On one line.
  cells[i]["more"] = ""
  cells[i]["line"] = lambda t: what(t, t.index("x y") + 1)
  return i


def nul(rng, rows, cells, options):
  return True, _in_a_line(rng, cells, lambda t, at: t[:at] + "\0" + t[at:])


def latin_1(rng, rows, cells, options):
  _in_a_line(rng, cells, lambda t, at: t[:at] + "\ue000" + t[at:])
  options["encode"] = lambda t: t.encode().replace("\ue000".encode(), b"\xe9")
  return True, None


def utf_16(rng, rows, cells, options):
  form = rng.choice(["utf-16", "utf-16-le", "utf-16-be"])
  options["encode"] = lambda t: t.encode(form)
  return True, None


def no_rows(rng, rows, cells, options):
  empty = rng.choice([b"", b"\n", b"\xef\xbb\xbf"])
  options["encode"] = lambda t: empty
  return True, None


def only_a_header(rng, rows, cells, options):
  options["encode"] = lambda t: t.splitlines(True)[0].encode()
  return True, None


def two_columns_of_one_name(rng, rows, cells, options):
  options["header"] = lambda h: [*h[:-1], h[0]]
  return True, None


def a_renamed_column(rng, rows, cells, options):
  def renamed(header):
    return [n if "aption" not in n.lower() else "words" for n in header]

  options["header"] = renamed
  options["named"] = ("caption",)
  return True, None


def a_stray_quote_before_a_field(rng, rows, cells, options):
  """In a raw TSV it means itself."""
  i = _cell(rng, cells, options)
  cells[i]["caption"] = "x y"
  if options["form"] == "tsv":
    rows[i].captions = ['"x y']
    cells[i]["line"] = lambda t: t.replace("x y", '"x y')
    return False, i
  cells[i]["line"] = lambda t: t.replace('"x y"', "x y").replace("x y", '"x y')
  return True, i


def a_quoted_field_that_holds_rows(rng, rows, cells, options):
  """A mark is missing at one end, and another one rows below."""
  options["style"] = {"quoting": 1}
  i = rng.randrange(len(cells) - 1)
  j = rng.randrange(i + 1, len(cells))
  for k, mark in ((i, '"x y'), (j, 'x y"')):
    cells[k]["caption"] = "x y"
    cells[k]["line"] = lambda t, mark=mark: t.replace('"x y"', "x y").replace(
      "x y", mark
    )
  for k in range(i, j + 1):
    cells[k]["more"] = ""
  return True, None


def the_header_again(rng, rows, cells, options):
  """As of tables that were joined by cat: its names are no image's."""
  i = rng.randrange(1, len(cells))
  cells[i] |= options["names"]
  rows[i].image = None
  # Where labels are names, its own is one of them.
  rows[i].label = options["names"]["label"]
  refused = "label" in options["asked"] and options["kind"] != "names"
  return refused, i


def of_another_form(rng, rows, cells, options):
  options["ending"] = "jsonl" if rng.random() < 0.5 else "txt"
  return True, None


def no_object(rng, rows, cells, options):
  i = rng.randrange(len(cells))
  bad = rng.choice(
    ["[1]", "3", '"a"', "null", "{", "NaN", "{}{}", "x", "[" * 9999]
  )
  cells[i]["line"] = lambda t: bad + "\n"
  return True, i


def a_line_cut(rng, rows, cells, options):
  i = rng.randrange(len(cells))
  part = rng.random()
  cells[i]["line"] = lambda t: (
    t.rstrip()[: max(1, int(part * (len(t.rstrip()) - 1)))] + "\n"
  )
  return True, i


def a_key_twice(rng, rows, cells, options):
  i = rng.randrange(len(cells))

  def twice(line):
    name = next(iter(json.loads(line)))
    return line.rstrip()[:-1] + f", {json.dumps(name)}: 1}}\n"

  cells[i]["line"] = twice
  return True, i


def a_caption_that_is_none(rng, rows, cells, options):
  i = _cell(rng, cells, options)
  cells[i]["caption"] = rng.choice(
    [True, {}, {"a": "b"}, math.inf, ["a", False]]
  )
  rows[i].captions = BAD
  return False, i


def a_value_that_is_missing(rng, rows, cells, options):
  i = rng.randrange(len(cells))
  role = rng.choice(["caption", "id", "label", "image"])
  cells[i][role] = rng.choice([None, ABSENT, math.nan])
  if role == "image":
    rows[i].image = None
  elif role == "caption":
    rows[i].captions = MISSING
  elif role == "id":
    rows[i].key = (MISSING,)
  else:
    rows[i].label = MISSING
  return False, i


def an_id_that_is_none(rng, rows, cells, options):
  options["asked"].add("id")
  i = rng.randrange(len(cells))
  cells[i]["id"] = rng.choice([True, {}, [1], [], math.inf, -math.inf])
  return True, i


def a_label_that_is_none(rng, rows, cells, options):
  options["asked"].add("label")
  i = rng.randrange(len(cells))
  cells[i]["label"] = rng.choice([True, {}, [1], math.inf, 3.5])
  return True, i


def a_label_of_no_class(rng, rows, cells, options):
  if "classes" not in options:
    return a_label_that_is_none(rng, rows, cells, options)
  i = rng.randrange(len(cells))
  cells[i]["label"] = rng.choice(["a cow", "6", "99", "3.5", "dog"])
  return True, i


_ALL = [latin_1, utf_16, no_rows]
_LINES = [
  a_field_too_few, a_field_too_many, nul, only_a_header, of_another_form,
  two_columns_of_one_name, a_renamed_column, the_header_again,
]  # fmt: skip
_MARKS = [a_stray_quote_before_a_field, a_quoted_field_that_holds_rows]
WRONG = {
  "csv": [*_ALL, *_LINES, *_MARKS, *_MARKS],
  "tsv": [*_ALL, *_LINES, a_stray_quote_before_a_field],
  "quoted tsv": [*_ALL, *_LINES, *_MARKS],
  "jsonl": [
    *_ALL, nul, no_object, a_line_cut, a_key_twice, a_caption_that_is_none,
    a_value_that_is_missing, an_id_that_is_none, a_label_that_is_none,
    a_label_of_no_class,
  ],
}  # fmt: skip
