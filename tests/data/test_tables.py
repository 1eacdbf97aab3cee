"""Tables that are not what they seem: the right text, or the file and line."""

import csv
import io
import json

import pytest

from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.files import tables

CAPTIONS = [f"caption {i}" for i in range(200)]


@pytest.fixture
def make(tmp_path):
  """make(content, suffix): the source of a table; images 0 to 199 exist."""
  (tmp_path / "im").mkdir()
  for i in range(200):
    (tmp_path / "im" / f"{i}.png").write_bytes(b"%d" % i)

  def source(content, suffix=".csv", more=""):
    path = tmp_path / f"t{suffix}"
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    text = f"table:{path},images={tmp_path}/im{more}"
    return build_source(text, "--data")

  return source


def texts(source):
  return [source[i]["text"] for i in range(len(source))]


def rows(changed, between=","):
  """200 rows of a file name and a caption, some of them changed."""
  lines = [f"{i}.png{between}{text}" for i, text in enumerate(CAPTIONS)]
  for i, line in changed.items():
    lines[i] = line
  return "\n".join([f"image{between}caption", *lines]) + "\n"


@pytest.mark.parametrize(
  "changed, line",
  [
    ({5: '5.png,"an unclosed quote'}, 7),
    ({5: '5.png,"an unclosed quote', 150: '150.png,a 6" nail'}, 7),
    # Closed at the end of a later line, which is valid CSV.
    ({5: '5.png,"an unclosed quote', 150: '150.png,a nail of 6"'}, 7),
    ({5: '5.png,"an unclosed quote', 6: '6.png,a nail of 6"'}, 7),
    ({5: '5.png,"a ""quote'}, 7),
    ({5: '5.png,"a \\"quoted\\" word"'}, 7),
    ({199: '199.png,"'}, 201),
    ({5: "5.png,a\0b"}, 7),
    ({5: "5.png,one, two"}, 7),
    ({5: "5.png"}, 7),
  ],
)
def test_a_broken_line_is_named_and_no_row_is_lost(make, changed, line):
  with pytest.raises(errors.UserError, match=rf"t\.csv:{line} = "):
    make(rows(changed))


def test_what_python_writes_as_csv_is_read_as_it_was(make):
  odd = [
    'a 6" nail', '"quoted"', 'he said "hi", she', "two\nlines", "a\r\nb, c",
    'end"', "tab\there", "comma,", ";", "'", "ü 猫 🦄", "a\x85b\u2028c\x0cd",
  ]  # fmt: skip
  for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC):
    for ending in ("\n", "\r\n"):
      file = io.StringIO()
      out = csv.writer(file, quoting=style, lineterminator=ending)
      out.writerow(["image", "caption"])
      out.writerows([f"{i}.png", text] for i, text in enumerate(odd))
      assert texts(make(file.getvalue())) == odd
      assert texts(make("\ufeff" + file.getvalue())) == odd


def test_what_pandas_writes_as_tsv_is_read_as_it_was(make):
  """It quotes a field with marks in it, and doubles them."""
  odd = ['a 6" nail', 'he said "hi"', '"', "plain", "an apple's"]
  for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
    file = io.StringIO()
    out = csv.writer(file, delimiter="\t", quoting=style, lineterminator="\n")
    out.writerow(["image", "caption"])
    out.writerows([f"{i}.png", text] for i, text in enumerate(odd))
    assert texts(make(file.getvalue(), ".tsv")) == odd


def test_marks_in_a_tsv_that_quotes_nothing_stay(make):
  odd = ['a 6" nail', '"so called" art', '"all of it"', '"', 'x "y"']
  lines = [f"{i}.png\t{text}" for i, text in enumerate(odd)]
  found = texts(make("\n".join(["image\tcaption", *lines]), ".tsv"))
  assert found == odd


def test_line_breaks_of_old_macs_end_rows(make):
  assert texts(make("image,caption\r0.png,a\r1.png,b\r")) == ["a", "b"]


def test_a_first_field_of_several_lines_is_no_row_that_was_swallowed(make):
  """Its last line, with the fields behind it, would be a row by itself."""
  source = make('caption,image\n"a, cat\nand b",0.png\nc,1.png\n')
  assert texts(source) == ["a, cat\nand b", "c"]
  for row in ('"b,1.png\nc"', '"b, d,1.png\nc"', '"b,no.png\nd,2.png\nc"'):
    with pytest.raises(errors.UserError, match=r"t\.csv:3.* row of its own"):
      make(f"caption,image\na,0.png\n{row},3.png\n")


def test_a_key_that_a_line_has_twice_is_named(make):
  """Python's json takes the last value, and forgets the first."""
  said = r"t\.jsonl:2 = .*the key 'caption' is there twice"
  row = '{"image": "0.png", "caption": "a"}\n'
  with pytest.raises(errors.UserError, match=said):
    make(row + '{"caption": "b", "image": "1.png", "caption": "c"}', ".jsonl")


def test_a_class_may_be_called_none_in_any_spelling(make, tmp_path):
  (tmp_path / "names.txt").write_text("a dog\nNone\n")
  labels = ["None", " None ", "none", "null"]
  lines = [f"{i}.png,x,{label}" for i, label in enumerate(labels)]
  content = "\n".join(["image,caption,y", *lines])
  source = make(content, more=f",label=y,classes={tmp_path}/names.txt")
  assert [source[i]["label"] for i in range(len(source))] == [1, 1, 1]
  assert source.skipped == {"no label": 1}


def test_a_field_of_several_lines_that_look_like_rows_is_told(make, caplog):
  source = make('image,caption\n0.png,"a cat,\nnot.png,b"\n1.png,c\n')
  assert texts(source) == ["a cat,\nnot.png,b", "c"]
  assert "t.csv:2: a field that goes on to line 3" in caplog.text


@pytest.mark.parametrize(
  "content, suffix, said",
  [
    ("image;caption\n0.png;a\n", ".csv", r"t\.csv:1 = .*';'.*as \.tsv"),
    ("image\tcaption\n0.png\ta\n", ".csv", r"t\.csv:1 = .*tabs as \.tsv"),
    ("image,caption\n".encode("utf-16"), ".csv", r"t\.csv:1 = .*UTF-16"),
    ("image,caption\n".encode("utf-16-le"), ".csv", r"t\.csv:1 = .*NUL"),
    (b"image,caption\n0.png,a\n1.png,caf\xe9\n", ".csv", r"t\.csv:3 = .*UTF-8"),
    (b"image\tcaption\n0.png\tcaf\xe9\n", ".tsv", r"t\.tsv:2 = .*UTF-8"),
    (b'{"image": "caf\xe9"}', ".jsonl", r"jsonl:1 = .*UTF-8"),
    ('{"image": "0.png"}\n\n{"image"', ".jsonl", r"jsonl:3 = "),
    ('[{"image": "0.png"}]', ".jsonl", r"jsonl:1 = .*one JSON object per line"),
  ],
)  # fmt: skip
def test_another_dialect_or_encoding_is_one_line(make, content, suffix, said):
  with pytest.raises(errors.UserError, match=said) as e:
    make(content, suffix)
  assert "\n" not in str(e.value)


def test_values_that_are_no_captions_are_counted_and_named(make, caplog):
  caplog.set_level("INFO")
  values = [float("nan"), None, "", True, {"raw": "a"}, [{"raw": "a"}], "fine"]
  lines = [
    json.dumps({"image": f"{i}.png", "caption": v})
    for i, v in enumerate(values)
  ]
  source = make("\n".join([*lines, '{"image": "7.png"}']), ".jsonl")
  assert texts(source) == ["fine"]
  assert source.skipped == {
    "empty caption": 4,
    "type: a caption of type bool": 1,
    "type: a caption of type dict": 2,
  }
  assert "t.jsonl:4 is left out: type: a caption of type bool" in caplog.text


def test_half_a_surrogate_pair_is_replaced_in_every_field(make):
  line = r'{"image": "0.png", "caption": "half \ud83d of it", "id": "a\udc00"}'
  source = make(line, ".jsonl", ",id=id,label=id")
  assert source[0]["text"] == "half ? of it" and source.classes == ["a?"]


def test_rows_that_lack_an_id_stay_apart_and_7_is_7_0(make):
  ids = ["7", 7, 7.0, "7.0", None, float("nan"), "", "nan", "007"]
  lines = [
    json.dumps({"image": f"{i}.png", "caption": f"{i}", "id": v})
    for i, v in enumerate(ids)
  ]
  source = make("\n".join(lines), ".jsonl", ",id=id")
  found = [source[i]["id"] for i in range(len(source))]
  assert len(found) == 5 and len(set(found[:4])) == 1 and found[4] != found[0]
  assert source.skipped == {"empty id": 4}


def test_labels_that_are_whole_floats_are_those_numbers(make):
  content = "image,caption,y\n" + "".join(
    f"{i}.png,a,{i}.0\n" for i in range(12)
  )
  source = make(content + "12.png,a,\n13.png,a,nan\n", more=",label=y")
  assert [source[i]["label"] for i in range(12)] == list(range(12))
  assert source.classes is None and source.skipped == {"no label": 2}


def test_numbers_and_names_in_one_column_of_labels_are_an_error(make, tmp_path):
  content = "image,caption,y\n0.png,a,0\n1.png,a,1\n2.png,a,l0\n"
  with pytest.raises(errors.UserError, match=r"t\.csv:4: y = 'l0'.*classes="):
    make(content, more=",label=y")
  (tmp_path / "names.txt").write_text("zero\none\nl0\n")
  named = make(content, more=f",label=y,classes={tmp_path}/names.txt")
  assert [named[i]["label"] for i in range(3)] == [0, 1, 2]
  assert named.classes == ["zero", "one", "l0"]
  with pytest.raises(errors.UserError, match=r"t\.csv:3 = 'dog'.*3 classes"):
    make(
      content.replace(",1\n", ",dog\n"),
      more=f",label=y,classes={tmp_path}/names.txt",
    )


def test_a_join_never_pairs_rows_that_both_lack_the_value(make, tmp_path):
  (tmp_path / "more.csv").write_text("k,word\n1.0,one\n,none\n,neither\n")
  more = f",join={tmp_path}/more.csv:k,caption={{word}}"
  source = make("image,caption,k\n0.png,a,1\n1.png,b,\n", more=more)
  assert texts(source) == ["one"] and source.skipped == {"empty caption": 1}
  with pytest.raises(errors.UserError, match=r"t\.csv:2: k = '2'.*Add it"):
    make("image,caption,k\n0.png,a,2\n", more=more)


def test_what_a_line_lacks_does_not_hide_what_is_joined(make, tmp_path):
  (tmp_path / "more.csv").write_text("k,caption\n1,joined\n")
  rows = [{"image": "0.png", "k": 1}]
  rows.append({"image": "1.png", "k": 1, "caption": "own"})
  lines = "\n".join(map(json.dumps, rows))
  source = make(lines, ".jsonl", f",join={tmp_path}/more.csv:k")
  assert texts(source) == ["joined", "own"]


@pytest.mark.parametrize(
  "content",
  [
    'caption,image\n"two\nlines",0.png\n',
    'caption,image\n"one, two\nthree",0.png\n"a\nb\nc",1.png\n',
    'image,caption\n0.png,"a\nb, c"\n',
    '"image","caption"\n"0.png","a\nb"\n',
  ],
)
def test_line_breaks_in_captions_are_no_missing_marks(make, content):
  want = [r["caption"] for r in csv.DictReader(io.StringIO(content, ""))]
  assert texts(make(content)) == want


def test_a_mark_in_the_header_is_one_line(make):
  with pytest.raises(errors.UserError, match=r"t\.csv:1 = "):
    make('image,"caption\n0.png,"a"\n')


@pytest.mark.parametrize("value", ["1.5", "1e0", str(10**20), str(2**31)])
def test_numbers_that_no_label_can_be_are_named(make, value):
  with pytest.raises(errors.UserError, match=r"t\.csv:3: y = .*whole number"):
    make(f"image,caption,y\n0.png,a,1\n1.png,b,{value}\n", more=",label=y")


def test_a_label_without_a_name_is_named(make):
  content = "image,caption,y,n\n0.png,a,0,cat\n1.png,b,1,\n"
  with pytest.raises(errors.UserError, match=r"class_name: .*t\.csv:3 = ''"):
    make(content, more=",label=y,class_name=n")


def test_absolute_names_of_images_are_used(make, tmp_path, caplog):
  content = f"image,caption\n{tmp_path}/im/0.png,a\n"
  source = make(content)
  assert texts(source) == ["a"] and "199 images are not used" in caplog.text


def test_images_that_no_row_names_are_told(make, caplog):
  source = make(
    "image,caption,split\n0.png,a,train\n1.png,b,val\n", more=",split=val"
  )
  assert texts(source) == ["b"]
  assert "198 images are not used: no row of" in caplog.text


def test_rows_know_their_lines(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text('a,b\n\n1,"x\ny"\n\n2,z\n')
  found = tables.read_table(str(path))
  assert [found.at(i)[-6:] for i in range(2)] == [".csv:3", ".csv:6"]
