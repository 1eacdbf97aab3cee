"""Your own table: which pairs it gives, from where, and what is refused."""

import io
import itertools
import json
import pathlib
import pickle
import tarfile
from concurrent import futures

import pytest

from big_contrastive.config import errors, schema
from big_contrastive.data.files import folders, tables
from big_contrastive.data.sources import table
from big_contrastive.data.transforms import operations

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared")

TSV = (
  "key\tname\tkind\tsplit\n"
  'a\t"big" apple\tfruit\ttrain\n'
  "b\ta bear\tanimal\ttrain\n"
  "c\ta cat\tanimal\tval\n"
)
FILES = {f"{key}.png": f"image {key}".encode() for key in "abc"}


@pytest.fixture
def make(tmp_path):
  """make(table, **arguments): a source of photos/ and that text as a file."""
  (tmp_path / "photos").mkdir()
  for name, data in FILES.items():
    (tmp_path / "photos" / name).write_bytes(data)

  def source(content=TSV, suffix=".tsv", split=None, **kwargs):
    file = tmp_path / f"captions{suffix}"
    file.write_text(content, encoding="utf-8")
    kwargs = {"images": str(tmp_path / "photos"), "image": "{key}.png"} | kwargs
    kwargs = {"caption": "name", "captions": str(file)} | kwargs
    return table.source(split, **kwargs)

  return source


def tar(path, content, mode="w", prefix=""):
  with tarfile.open(path, mode) as file:
    for name, data in content.items():
      member = tarfile.TarInfo(prefix + name)
      member.size = len(data)
      file.addfile(member, io.BytesIO(data))
  return str(path)


def texts(source):
  return [source[i]["text"] for i in range(len(source))]


def column(source, name):
  return [source[i][name] for i in range(len(source))]


# What the pairs are.


def test_a_row_is_the_bytes_of_its_file_and_its_caption(make):
  source = make()
  assert len(source) == 3 and source.skipped == {} and source.classes is None
  assert source[0] == {"image": b"image a", "text": '"big" apple', "id": 0}
  assert column(source, "id") == [0, 1, 2]


def test_jsonl_csv_and_tsv_say_the_same(make):
  rows = [line.split("\t") for line in TSV.splitlines()]
  lines = [json.dumps(dict(zip(rows[0], r, strict=True))) for r in rows[1:]]
  quoted = [
    ",".join(f'"{v.replace(chr(34), chr(34) * 2)}"' for v in r) for r in rows
  ]
  tsv, jsonl = make(), make("\n".join(lines), ".jsonl")
  csv = make("\r\n".join(quoted) + "\r\n\r\n", ".CSV")
  assert tsv.records == jsonl.records == csv.records


def test_a_byte_order_mark_belongs_to_no_column(make):
  assert make("\ufeff" + TSV).records == make().records


def test_captions_with_line_breaks_and_separators_stay_whole(make):
  source = make('key,name\na,"one, two\nthree"\nb,x\n', ".csv")
  assert texts(source) == ["one, two\nthree", "x"]


def test_captions_of_megabytes_are_read(make):
  assert len(texts(make(f"key\tname\na\t{'x' * 200_000}\n"))[0]) == 200_000


def test_a_template_is_filled_with_columns(make):
  assert texts(make(caption="a drawing of {name}, {kind}"))[1] == (
    "a drawing of a bear, animal"
  )


def test_several_captions_are_a_list(make):
  assert texts(make(caption="name|a kind of {kind}"))[1] == [
    "a bear", "a kind of animal"
  ]  # fmt: skip


def test_jsonl_lists_are_several_captions(make):
  content = '{"key": "a", "name": ["x", null, " ", 3], "kind": ["p", "q"]}'
  assert texts(make(content, ".jsonl")) == [["x", "3"]]
  found = make(content, ".jsonl", caption="name|kind: {kind}")
  assert texts(found) == [["x", "3", "kind: p, q"]]


def test_what_a_jsonl_line_lacks_is_empty(make, tmp_path):
  lines = (
    '{"key": "a"}\n\n{"key": "b", "name": null}\n{"key": "c", "name": "x"}'
  )
  source = make(lines, ".jsonl")
  assert texts(source) == ["x"] and source.skipped == {"empty caption": 2}
  rows = tables.read_table(f"{tmp_path}/captions.jsonl")
  assert [row["name"] for row in rows] == ["", "", "x"]


def test_rows_without_file_or_caption_are_counted(make):
  source = make(TSV + "x\tan x\t\t\na\t \t\t\ny\ta y\t\t\n")
  assert len(source) == 3
  assert source.skipped == {"no image file": 2, "empty caption": 1}


def test_a_template_of_an_empty_column_is_no_caption(make):
  source = make(TSV + "a\t\tfruit\t\n", caption="a drawing of {name}")
  assert len(source) == 3 and source.skipped == {"empty caption": 1}
  several = make(TSV + "a\t\tfruit\t\n", caption="the {name}|{kind}")
  # The row is about the image of the first one.
  assert texts(several)[0] == ['the "big" apple', "fruit", "fruit"]


def test_equal_ids_are_rows_with_equal_values(make):
  source = make(id="kind")
  assert column(source, "id") == [1, 0, 0]
  backwards = "\n".join([TSV.splitlines()[0], *TSV.splitlines()[:0:-1]])
  assert column(make(backwards, id="kind"), "id") == [0, 0, 1]


def test_rows_without_an_id_are_not_all_one_concept(make):
  source = make(TSV + "a\tx\t\t\nb\ty\t\t\n", id="kind")
  assert len(source) == 3 and source.skipped == {"empty id": 2}


def test_labels_of_words_are_the_sorted_classes(make):
  source = make(label="kind")
  assert source.classes == ["animal", "fruit"]
  assert column(source, "label") == [1, 0, 0]


def test_labels_of_numbers_stay_and_may_have_names(make):
  content = "key\tname\tn\nb\tbear\t1\na\tapple\t0\nc\tcat\t10\nc\tfox\t-1\n"
  source = make(content, label="n")
  assert column(source, "label") == [1, 0, 10] and source.classes is None
  assert source.skipped == {"no label": 1}
  named = make(content.replace("10", "2"), label="n", class_name="name")
  assert named.classes == ["apple", "bear", "cat"]


def test_ids_and_labels_do_not_depend_on_the_rows_that_are_taken(make):
  whole = make(id="key", label="name")
  part = make(id="key", label="name", split="val")
  assert part.classes == whole.classes and part[0] == whole[2]
  assert make(split="val")[0]["id"] == 2


# Which rows.


def test_split_and_where_take_rows(make):
  assert texts(make(split="val")) == ["a cat"]
  assert texts(make(split="animal", split_column="kind")) == ["a bear", "a cat"]
  assert texts(make(where="kind=animal, split=train")) == ["a bear"]
  assert texts(make(where="key=a|c")) == ['"big" apple', "a cat"]
  assert texts(make(where="key=a|c", split="val")) == ["a cat"]


def test_join_adds_columns_and_keeps_those_that_are_there(make, tmp_path):
  other = tmp_path / "kinds.tsv"
  other.write_text("kind\tname\tcolor\nanimal\tx\tbrown\nfruit\ty\tred\n")
  source = make(join=f"{other}:kind", caption="{name} is {color}")
  assert texts(source)[1:] == ["a bear is brown", "a cat is brown"]


# From where.


def test_a_row_gives_one_pair_for_each_place_with_its_file(make, tmp_path):
  one = tar(tmp_path / "1.tar", {"a.png": b"a1", "b.png": b"b1"})
  two = tar(tmp_path / "2.tar", {"a.png": b"a2"}, prefix="./")
  for images in (
    f"{one}, {two}",
    f"{tmp_path}/*.tar",
    f"{one},{tmp_path}/*.tar",
  ):
    source = make(images=images, id="key")
    assert column(source, "image") == [b"a1", b"a2", b"b1"]
    assert column(source, "id") == [0, 0, 1]
    assert source.skipped == {"no image file": 1}


def test_folders_and_tars_mix_and_names_may_have_folders(make, tmp_path):
  (tmp_path / "photos" / "in").mkdir()
  (tmp_path / "photos" / "in" / "x.png").write_bytes(b"x1")
  packed = tar(tmp_path / "1.tar", {"in/x.png": b"x2"}, prefix="./")
  content = "key\tname\n./in//x\tan x\n"
  source = make(content, images=f"{tmp_path}/photos,{packed}")
  assert column(source, "image") == [b"x1", b"x2"]


def test_paths_are_relative_to_the_current_folder(make, tmp_path, monkeypatch):
  make()
  monkeypatch.chdir(tmp_path)
  source = make(images="photos", captions="captions.tsv")
  assert source[2]["image"] == b"image c"
  monkeypatch.setenv("HOME", str(tmp_path))
  assert len(make(images="~/photos", captions="~/captions.tsv")) == 3


def test_brackets_in_a_path_that_exists_are_no_glob(make, tmp_path):
  (tmp_path / "photos").rename(tmp_path / "photos [1]")
  assert len(make(images=f"{tmp_path}/photos [1]")) == 3


def test_a_copy_reads_on_after_pickling_also_from_many_threads(make, tmp_path):
  content = {f"{i}.png": bytes([i]) * (1000 + i) for i in range(100)}
  packed = tar(tmp_path / "1.tar", content)
  rows = "".join(f"{i}\tnumber {i}\n" for i in range(100))
  source = make("key\tname\n" + rows, images=packed)
  copy = pickle.loads(pickle.dumps(source))
  del source
  order = list(itertools.islice(itertools.cycle(range(100)), 2000))
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda i: copy[i]["image"], order))
  pairs = zip(found, order, strict=True)
  assert sum(data != content[f"{i}.png"] for data, i in pairs) == 0


def test_no_open_file_is_left_behind(make, tmp_path):
  here = pathlib.Path("/proc/self/fd")
  if not here.exists():
    pytest.skip("no /proc")
  packed = tar(tmp_path / "1.tar", FILES)
  before = len(list(here.iterdir()))
  for _ in range(5):
    source = make(images=packed)
    assert pickle.loads(pickle.dumps(source))[0]["image"] == b"image a"
  del source
  assert len(list(here.iterdir())) == before


def test_a_tar_that_shrank_is_an_error_when_read(make, tmp_path):
  packed = pathlib.Path(tar(tmp_path / "1.tar", {"a.png": b"x" * 5000}))
  source = make(images=str(packed))
  packed.write_bytes(packed.read_bytes()[:3000])
  with pytest.raises(OSError, match=r"ends within a\.png"):
    source[0]


# What is refused.

# (table, suffix, arguments, what the message must say)
WRONG = {
  "missing table": (
    TSV, ".tsv", {"captions": "no.tsv"}, r"captions = 'no.tsv'.*exists"
  ),
  "unknown kind of table": (
    TSV, ".xlsx", {}, r"captions = .*\.xlsx.*ends in \.jsonl, \.csv, \.tsv"
  ),
  "empty table": ("", ".tsv", {}, "captions = .*table with rows"),
  "header alone": ("key\tname\n", ".tsv", {}, "captions = .*table with rows"),
  "empty JSONL": ("\n", ".jsonl", {}, "captions = .*table with rows"),
  "broken JSONL": (
    '{"key": "a"}\n\n{"key": \n', ".jsonl", {}, r"\.jsonl:3 = '{\"key\":'.*Fix"
  ),
  "JSONL of lists": ('["a", "b"]', ".jsonl", {}, r"\.jsonl:1 = .*one JSON obj"),
  "too few fields": (
    TSV + "d\ta dog\n", ".tsv", {}, r"\.tsv:5 = '2 fields'.*4 fields"
  ),
  "too many fields": (
    "key,name\na,one, two\n", ".csv", {}, r"\.csv:2 = '3 fields'.*2 fields"
  ),
  "a column twice": ("key,key\na,b\n", ".csv", {}, r"\.csv:1 = 'key'.*Rename"),
  "no such image column": (
    TSV, ".tsv", {"image": "kye"}, "image = 'kye'.*Did you mean 'key'"
  ),
  "no such column in a template": (
    TSV, ".tsv", {"caption": "name|a {knd}"}, "caption = 'knd'.*mean 'kind'"
  ),
  "template without its end": (
    TSV, ".tsv", {"image": "{key.png"}, "image = '{key.png'"
  ),
  "no such id": (TSV, ".tsv", {"id": "nr"}, "id = 'nr'.*key, kind, name, spl"),
  "no such label": (TSV, ".tsv", {"label": "kin"}, "label = 'kin'.*'kind'"),
  "no such class name": (
    TSV, ".tsv", {"label": "key", "class_name": "x"}, "class_name = 'x'"
  ),
  "class names without labels": (
    TSV, ".tsv", {"class_name": "kind"}, "class_name = 'kind'.*Set label"
  ),
  "two names for a label": (
    TSV, ".tsv", {"label": "kind", "class_name": "name"},
    "class_name = 'a bear and a cat'.*label 0",
  ),
  "a number without a name": (
    "key\tname\tn\na\tx\t0\nb\ty\t2\n", ".tsv",
    {"label": "n", "class_name": "name"}, "class_name = 'none for 1'.*0 to 2",
  ),
  "where without a value": (
    TSV, ".tsv", {"where": "train"}, "where = 'train'.*column=value"
  ),
  "where of no column": (
    TSV, ".tsv", {"where": "spilt=train"}, "where = 'spilt'.*'split'"
  ),
  "where that leaves nothing": (
    TSV, ".tsv", {"where": "split=trian"},
    "where = 'split=trian'.*train, val. .*Did you mean 'train'",
  ),
  "wheres that leave nothing together": (
    TSV, ".tsv", {"where": "kind=fruit,split=val"}, "'split=val'.*: train"
  ),
  "no such split": (
    TSV, ".tsv", {"split": "vla"}, "split = 'vla'.*train, val.*mean 'val'"
  ),
  "no column of splits": (
    TSV, ".tsv", {"split": "val", "split_column": "set"}, "split_column = 'set'"
  ),
  "join without a column": (
    TSV, ".tsv", {"join": "kinds.tsv"}, "join = 'kinds.tsv'.*table:column"
  ),
  "join of a missing table": (
    TSV, ".tsv", {"join": "no.tsv:kind"}, "join = 'no.tsv'.*exists"
  ),
  "missing images": (
    TSV, ".tsv", {"images": "nowhere"}, "images = 'nowhere'.*folders and tars"
  ),
  "glob without matches": (TSV, ".tsv", {"images": "no*.tar"}, "'no\\*.tar'"),
  "no image at all": (
    TSV, ".tsv", {"image": "{key}.jpg"},
    r"images = .*photos.*Looked for 'c\.jpg'.*photos holds a\.png",
  ),
  "no caption at all": (
    "key\tname\na\t\n", ".tsv", {}, "captions = {'empty caption': 1}"
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_one_line_that_says_what(name, make):
  content, suffix, kwargs, said = WRONG[name]
  with pytest.raises(errors.UserError, match=said) as e:
    make(content, suffix, **kwargs)
  assert "\n" not in str(e.value)


def test_a_join_needs_one_row_for_each_value(make, tmp_path):
  for content, said in (
    ("kind\tx\nfruit\t1\n", r"join: .*captions.tsv:3: kind = 'animal'.*Add it"),
    (
      "kind\tx\nfruit\t1\nanimal\t2\nfruit\t3\n",
      r"join: .*kinds.tsv:4: kind = 'fruit'.*one row",
    ),
    ("knd\tx\nfruit\t1\n", "join: column of .*kinds.tsv = 'kind'"),
  ):
    (tmp_path / "kinds.tsv").write_text(content)
    with pytest.raises(errors.UserError, match=said):
      make(join=f"{tmp_path}/kinds.tsv:kind")


def test_text_that_is_not_utf8_is_named(make, tmp_path):
  (tmp_path / "latin.tsv").write_bytes("key\tname\na\tcafé\n".encode("latin1"))
  with pytest.raises(errors.UserError, match=r"latin.tsv:2 = .*UTF-8"):
    make(captions=f"{tmp_path}/latin.tsv")


def test_of_a_tar_that_is_cut_the_whole_members_are_read(
  make, tmp_path, caplog
):
  path = tmp_path / "images.tar"
  tar(path, {"a.png": b"x" * 5000, "b.png": b"y" * 5000})
  path.write_bytes(path.read_bytes()[:7000])
  source = make(images=str(path))
  assert texts(source) == ['"big" apple']
  assert source.skipped == {"no image file": 2}
  assert "truncated at byte 7,000, within b.png" in caplog.text


def test_a_path_in_a_table_does_not_lead_out_of_the_folder(make, tmp_path):
  (tmp_path / "secret.png").write_bytes(b"secret")
  rows = f"key\tname\n../secret\tup\n{tmp_path}/secret\ttop\na\tgood\n"
  source = make(rows)
  assert texts(source) == ["good"] and source.skipped == {"no image file": 2}
  inside = make(f"key\tname\n{tmp_path}/photos/a\tabsolute\n")
  assert texts(inside) == ["absolute"]


@pytest.mark.parametrize("kind", ["gz", "xz", "no tar", "empty"])
def test_a_tar_that_cannot_be_indexed_is_named(kind, make, tmp_path):
  path = tmp_path / "images.tar"
  if kind in ("gz", "xz"):
    tar(path, FILES, f"w:{kind}")
  else:
    path.write_bytes({"no tar": b"GIF89a" * 500, "empty": b""}[kind])
  with pytest.raises(errors.UserError, match=r"images = .*uncompressed tar"):
    make(images=str(path))


def test_a_tar_of_nothing_says_so(make, tmp_path):
  packed = tar(tmp_path / "1.tar", {})
  with pytest.raises(errors.UserError, match="1.tar holds nothing"):
    make(images=packed)


def test_a_config_reaches_the_source_checked(make, tmp_path):
  make()
  config = {
    "images": f"{tmp_path}/photos",
    "captions": f"{tmp_path}/captions.tsv",
  }
  config |= {"image": "{key}.png", "caption": "name", "split": "val"}
  assert len(schema.call(table.source, config, "config.source")) == 1
  with pytest.raises(errors.UserError, match=r"config\.source\.capton"):
    schema.call(table.source, config | {"capton": "x"}, "config.source")
  with pytest.raises(errors.UserError, match=r"config\.source\.id = 3"):
    schema.call(table.source, config | {"id": 3}, "config.source")


# Real data.


@needs_shared
def test_emoji_are_6110_drawings_of_the_train_names():
  def emoji(split):
    return table.source(
      split, images=f"{SHARED}/emoji/*.tar", image="{key}.png", id="key",
      captions=f"{SHARED}/emoji/captions.tsv", caption="name|{keywords}",
    )  # fmt: skip

  train, val = emoji("train"), emoji("val")
  ids = set(column(train, "id"))
  assert len(train) == 6110 and len(train.roots) == 5
  # 1,494 names; five of them no vendor has drawn.
  assert len(ids) == 1489 and train.skipped == {"no image file": 5}
  assert len(val) == 860 and not ids & set(column(val, "id"))
  assert train[0]["text"][0] == "grinning face"
  for i in (0, 3000, 6109):
    assert operations.decode(train[i]["image"]).size == (72, 72)


@needs_shared
def test_grocery_is_2640_and_296_photos_of_81_classes():
  def grocery(split):
    return table.source(
      split, images=f"{SHARED}/grocery/images.tar", image="path",
      captions=f"{SHARED}/grocery/labels.tsv", caption="fine|description",
      join=f"{SHARED}/grocery/classes.tsv:fine_id", label="fine_id",
      class_name="fine", id="fine_id",
    )  # fmt: skip

  train, val = grocery("train"), grocery("val")
  assert (len(train), len(val)) == (2640, 296) and not train.skipped
  assert len(set(train.classes)) == 81 and val.classes == train.classes
  for source in (train, val):  # Also where val has photos of 60 classes only.
    for _, _, captions, _, label in source.records:
      assert captions[0] == source.classes[label]
  assert min(operations.decode(val[0]["image"]).size) == 160


@needs_shared
def test_members_of_a_tar_are_those_that_tarfile_reads():
  path = f"{SHARED}/emoji/noto.tar"
  with tarfile.open(path) as packed:
    members = packed.getmembers()[::100]
    want = {m.name: packed.extractfile(m).read() for m in members}
  (own,) = folders.roots(path)
  assert want == {name: own.read(name) for name in want}


ROWS = (
  "key\tname\tkind\tsplit\n"
  "a\tone\tx\ttrain\n"
  "b\ttwo\ty\ttrain\n"
  "a\tthree\tx\ttrain\n"
  "a\tfour\tz\ttrain\n"
)


def test_rows_of_one_image_are_its_captions(make):
  """As in Flickr's tables: else an image would be its own negative."""
  source = make(ROWS)
  assert texts(source) == [["one", "three", "four"], "two"]
  assert column(source, "id") == [0, 1]


def test_rows_of_one_image_with_other_ids_or_labels_stay_apart(make):
  source = make(ROWS, id="kind")
  assert texts(source) == [["one", "three"], "two", "four"]
  source = make(ROWS, label="kind")
  assert texts(source) == [["one", "three"], "two", "four"]
  assert column(source, "label") == [0, 1, 2]
