"""What stored values mean: docs/data.md's table is what the code does."""

import datetime
import decimal
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest

from big_contrastive.data import bad_records
from big_contrastive.data.files import class_names, fields
from big_contrastive.data.sources import webdataset

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "data.md"

_NONE = (
  '`"nan"` `"NaN"` `"NAN"` `"NaT"` `"<NA>"` `"None"` `"null"` `"NULL"` `"Null"`'
)

# What stands for each row of the table.
VALUES = {
  "null, absent key, NaN, NaT": [
    None, float("nan"), np.float32("nan"), np.datetime64("NaT", "ns"),
    decimal.Decimal("NaN"), json.loads("NaN"),
  ],
  '`""`, spaces': ["", " \t\n", b"", b"  ", "\u3000", "\ufeff"],
  _NONE: [
    "nan", " NaN ", b"NaT", "None", "null", "NULL", "<NA>",
  ],
  '`" a dog "`': [
    " a dog ", b"a dog\n", b"\xef\xbb\xbfa dog", np.str_("a dog"),
  ],
  '`"NA"`': ["NA"],
  '`"3"`': ["3", b"3\n"],
  '`"3.0"`': ["3.0"],
  '`"03"`': ["03"],
  "3, 3.0": [3, 3.0, np.int64(3), np.float32(3), decimal.Decimal("3.00")],
  "3.5": [3.5, np.float64(3.5), decimal.Decimal("3.5")],
  "-1": [-1, -1.0],
  "true, false": [True, False, np.bool_(True)],
  "infinity": [float("inf"), -np.inf, decimal.Decimal("inf")],
  "an object": [{"raw": "a dog"}, {}],
  '`["a", null, "b"]`': [
    ["a", None, "b"], ("a", float("nan"), "b"), np.array(["a", "", "b"]),
  ],
  "`[]`": [[], (), np.array([])],
  "bytes in UTF-8": ["ü".encode()],
  "other bytes": [b"caf\xe9"],
  "a date": [datetime.date(2020, 1, 2)],
  "half a surrogate pair in a text": ["a\ud83d", "a\udce9"],
}  # fmt: skip

# What a cell says in words.
SAID = {
  "their text": "ü", "the bytes": b"caf\xe9", "its text": "2020-01-02",
  "`?` in its place": "a?", "`a` and `b`": ["a", "b"],
}  # fmt: skip
NAMES = class_names.Names(["zero", "a dog", "NA", "x", "ü", "a?"])


def table():
  lines = DOCS.read_text().splitlines()
  start = next(i for i, x in enumerate(lines) if x.startswith("| value | capt"))
  for line in lines[start + 2 :]:
    if not line.startswith("|"):
      return
    yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def outcome(read, value):
  try:
    found = read(value)
  except bad_records.BadRecord as e:
    missing = str(e) == "no label"
    return "missing" if missing else "bad"
  if found in (None, "", []):
    return "missing"
  return found[0] if isinstance(found, list) and len(found) == 1 else found


def expected(cell):
  if cell in ("missing", "bad"):
    return cell
  if cell in SAID:
    return SAID[cell]
  if cell.startswith("the class"):
    return NAMES.index(cell.split("`")[1])
  return cell.strip("`") if "`" in cell else int(cell)


def test_the_table_of_the_docs_has_a_row_for_each_kind_of_value():
  assert [row[0] for row in table()] == list(VALUES)


@pytest.mark.parametrize("row", list(table()), ids=lambda row: row[0][:20])
def test_a_value_is_what_the_docs_say(row):
  name, caption, ident, label, field = row
  for value in VALUES[name]:
    assert outcome(fields.caption, value) == expected(caption), value
    assert outcome(fields.key, value) == expected(ident), value
    assert outcome(fields.field, value) == expected(field), value
    want = expected(label)
    want = NAMES.index(want) if want in NAMES else want
    assert outcome(lambda v: class_names.label(v, NAMES), value) == want, value


def test_every_text_that_means_missing_is_in_the_docs():
  assert {f'`"{x}"`' for x in fields.MISSING} == set(_NONE.split())


def test_pandas_own_missing_values_are_missing():
  class NAType:  # As pandas.NA: it has no truth value.
    def __ne__(self, other):
      return self

    def __bool__(self):
      raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None

  assert fields.plain(NAType()) is None


def test_large_numbers_are_ids_to_the_last_digit():
  a, b = 9_007_199_254_740_993, 9_007_199_254_740_992
  assert fields.key(str(a)) == a != fields.key(str(b))
  assert fields.number(str(a)) == fields.number(a) != fields.number(b)
  assert 0 <= fields.number(a) < 2**31 and fields.number(-5) == -5


def test_a_missing_id_is_no_id():
  for value in (None, "", float("nan"), b""):
    with pytest.raises(bad_records.BadRecord) as e:
      fields.number(value)
    assert e.value.kind == "missing"


@pytest.mark.parametrize(
  "value, names, want",
  [
    ("None", ["None", "some"], 0),  # A class of that name.
    (b"nan", ["naan", "nan"], 1),
    ("Sea_Lion", ["ant", "sea lion"], 1),
    ("a", ["A", "a"], 1),  # As it is, before what is alike.
    ("2", ["x", "y", "z"], 2),
    (2.0, ["x", "y", "z"], 2),
    ("2", ["0", "1", "2"], 2),
    ("2", None, 2),
    ("2", ["0", "1", "10", "2"], None),  # By its name 3, by number 2.
    ("crane", ["crane", "bird", "crane"], None),  # Which?
    ("3", ["x", "y", "z"], None),
    ("cat", None, None),
    ("cat", ["dog"], None),
    ("-1", ["dog"], None),
  ],
)
def test_a_label_is_a_name_or_a_number_and_never_a_guess(value, names, want):
  if want is not None:
    assert class_names.label(value, names) == want
    return
  with pytest.raises(bad_records.BadRecord) as e:
    class_names.label(value, names)
  assert e.value.kind == "label"


def test_names_of_samples_are_ids_whatever_they_say(tmp_path):
  """A file may be called nan.jpg: that is a name, and no missing value."""
  names = ["nan", "None", "7", "007", "NA"]
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for name in names:
      for member in (f"{name}.jpg", f"{name}.txt"):
        info = tarfile.TarInfo(member)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
  source = webdataset.source(urls=f"{tmp_path}/a.tar", id="key")
  ids = [source[i]["id"] for i in range(len(source))]
  assert len(set(ids)) == 5 and ids[2] == 7
