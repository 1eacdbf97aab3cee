"""Labels and names of classes: matched, or refused with both sides shown."""

import io
import json
import tarfile

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_evals import Source, embed_images, embed_texts, model

from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.files import class_names, label_matching
from big_contrastive.evals import zero_shot

NAMES = [f"name {i}" for i in range(12)]


def png(value=0):
  file = io.BytesIO()
  PIL.Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
  return file.getvalue()


def folder(root, names):
  """A class folder a name, with one image of that number."""
  for i, name in enumerate(names):
    (root / name).mkdir(parents=True)
    (root / name / "x.png").write_bytes(png(i))
  return build_source(f"folder:{root}", "x")


def labels(source):
  """label by the value of the image's pixels."""
  found = {}
  for i in range(len(source)):
    pixels = PIL.Image.open(io.BytesIO(source[i]["image"]))
    found[pixels.getpixel((0, 0))[0]] = source[i]["label"]
  return found


@pytest.mark.parametrize("form", ["{}", "{:02}", "{:04}"])
def test_folders_that_are_numbers_are_those_labels(form, tmp_path):
  source = folder(tmp_path / "set", map(form.format, range(12)))
  assert labels(source) == {i: i for i in range(12)}
  assert source.classes == [form.format(i) for i in range(12)]


def test_numbers_with_gaps_stay_and_have_no_names(tmp_path):
  source = folder(tmp_path / "set", ["3", "10", "7"])
  assert labels(source) == {0: 3, 1: 10, 2: 7} and source.classes is None


@pytest.mark.parametrize("names", [["1", "01"], ["a_b", "a b"]])
def test_two_folders_that_mean_one_class_are_refused(names, tmp_path):
  with pytest.raises(errors.UserError, match="class folders = "):
    folder(tmp_path / "set", names)


def test_a_list_gives_class_folders_their_labels_and_names(tmp_path):
  folder(tmp_path / "set", ["dog", "Sea_Lion"])
  names = "['ant', 'sea lion', 'dog']"
  config = {"name": "folder", "root": f"{tmp_path}/set"}
  config["classes"] = ["ant", "sea lion", "dog"]
  source = build_source(config, "x")
  assert labels(source) == {0: 2, 1: 1} and str(source.classes) == names
  assert {source[i]["text"] for i in range(2)} == {"dog", "sea lion"}
  with pytest.raises(errors.UserError, match="2 names.*Sea_Lion, dog"):
    build_source(config | {"classes": ["ant", "dog"]}, "x")


def top1(source, listed, **kwargs):
  """Of images that show the class of their name: 1.0 if all is matched."""
  own = source.classes
  truth = [own[k] if own else k for k in source.labels]
  vectors = np.eye(len(listed), dtype=np.float32)
  place = {class_names.alike(n): i for i, n in enumerate(listed)}
  numbers = [
    t if isinstance(t, int) else place.get(class_names.alike(t), 0)
    for t in truth
  ]
  rows = [vectors[i] for i in numbers]
  texts = embed_texts({n: vectors[i] for i, n in enumerate(listed)})
  run = zero_shot.prepare(source, classes=listed, **kwargs)
  return dict(run(model(embed_images(rows, source), texts)))["top1"]


def having(own, count=None):
  count = count or len(own)
  ids = list(range(count))
  return Source(["x"] * count, ids, ids, own)


@pytest.mark.parametrize(
  "own, listed",
  [
    (["cat", "dog", "emu"], ["cat", "dog", "emu"]),
    (["cat", "dog", "emu"], ["emu", "cat", "dog"]),  # Another order.
    (["cat", "dog", "emu"], ["ant", "emu", "Cat", "bee", "DOG"]),  # More.
    (["sea_lion", "dog"], ["dog", "Sea Lion"]),
    ([f"c{i}" for i in sorted(range(12), key=str)],  # c0, c1, c10, c11, c2, ...
     [f"c{i}" for i in range(12)]),
    (["0", "1", "2"], ["cat", "dog", "emu"]),  # Numbers are places.
    (["00", "01", "02"], ["cat", "dog", "emu"]),
    (sorted(map(str, range(12))), NAMES),  # 0, 1, 10, 11, 2, ...
  ],
)  # fmt: skip
def test_a_list_in_any_order_gives_the_right_figure(own, listed):
  source = having(own)
  if (places := label_matching.numbers(own)) and not label_matching.numbers(
    listed
  ):
    # Images show the classes of these numbers.
    vectors = dict(zip(listed, np.eye(len(listed)), strict=True))
    run = zero_shot.prepare(source, classes=listed)
    images = embed_images([vectors[listed[k]] for k in places], source)
    assert dict(run(model(images, embed_texts(vectors))))["top1"] == 1.0
    return
  assert top1(source, listed) == 1.0


@pytest.mark.parametrize(
  "own, listed, said",
  [
    (["cat", "dog"], ["cat", "cow"], "2 names .cat, cow.*2 names .cat, dog"),
    (["n01", "n02"], ["tench", "goldfish"], "match = 'order'"),
    (["cat", "dog", "emu"], ["cat", "dog"], "2 names.*3 names"),
    (["crane", "dog"], ["crane", "dog", "crane"], "each class of the data"),
  ],
)
def test_lists_that_do_not_fit_by_name_are_refused(own, listed, said):
  with pytest.raises(errors.UserError, match=said):
    zero_shot.prepare(having(own), classes=listed)


@pytest.mark.parametrize("own", [None, ["0", "1", "2"]])
@pytest.mark.parametrize("listed", [["class", "a", "b", "c"], ["a", "b"]])
def test_lists_that_do_not_fit_by_number_are_refused(own, listed):
  """A header line among the names would shift all labels."""
  with pytest.raises(errors.UserError, match="classes, 3. .*(0 to 2|0, 1, 2)"):
    source = having(own, 3)
    run = zero_shot.prepare(source, classes=listed)
    images = embed_images(np.eye(3), source)
    list(run(model(images, embed_texts({n: [1, 0, 0] for n in listed}))))


def test_labels_may_be_places_whatever_the_names_are():
  source = having(["n01", "n02"])
  run = zero_shot.prepare(
    source, classes=["tench", "goldfish", "shark"], match="number"
  )
  texts = {"tench": [1, 0], "goldfish": [0, 1], "shark": [-1, 0]}
  images = embed_images([[1, 0], [0, 1]], source)
  assert dict(run(model(images, embed_texts(texts))))["top1"] == 1.0


@pytest.mark.parametrize(
  "own, listed, want",
  [
    # Numbers in a list of numbers are themselves, wherever they stand.
    (["0", "1", "2"], ["2", "1", "0"], [2, 1, 0]),
    (["0", "1", "10", "2"], ["0", "1", "10", "2"], [0, 1, 2, 3]),
    (["00", "01", "02"], ["2", "0", "1"], [1, 2, 0]),
    (["1990", "2000"], ["2000", "1990"], [1, 0]),
    # What is written alike stands behind what is the same.
    (["Turkey", "turkey"], ["turkey", "Turkey"], [1, 0]),
    (["a b"], ["a-b", "a b"], [1]),
    (["café"], ["cafe\u0301"], [0]),  # As macOS writes it.
  ],
)
def test_the_same_name_is_the_same_class(own, listed, want):
  assert label_matching.match(listed, own, "x", "").tolist() == want


def test_what_is_alike_twice_is_no_guess():
  with pytest.raises(errors.UserError, match="1 are not, like 'a_b'"):
    label_matching.match(["a-b", "a b"], ["a_b"], "x", "")


@pytest.mark.parametrize(
  "label, own, by, want",
  [
    ([1, 2, 3, 2], None, "order", [0, 1, 2, 1]),
    ([1990, 2000, 2010], None, "order", [0, 1, 2]),
    ([0, 2], None, "number", [0, 2]),
    ([0, 1], ["n02", "n01"], "order", [0, 1]),
    ([0, 1], ["0", "2"], "number", [0, 2]),
  ],
)
def test_labels_are_places_as_is_asked(label, own, by, want):
  listed = ["cat", "dog", "emu"][: 2 if own and by == "order" else 3]
  found = label_matching.places(np.array(label), listed, own, by, "classes")
  assert found.tolist() == want


def test_labels_are_the_numbers_in_a_list_of_numbers(tmp_path):
  """As a shell sorts them: 0, 1, 10, 2; a source can't know which it is."""
  listed = sorted(map(str, range(12)))
  found = label_matching.places(np.arange(12), listed, None, "name", "classes")
  assert [listed[k] for k in found] == [str(i) for i in range(12)]
  with pytest.raises(errors.UserError, match="numbers from 0 on"):
    label_matching.of_labels(listed, "classes")
  assert label_matching.of_labels(["0", "1"], "classes") == ["0", "1"]


@pytest.mark.parametrize("by", ["name", "number", "order"])
def test_data_without_labels_are_told_so(by):
  with pytest.raises(errors.UserError, match="Give a source with labels"):
    label_matching.places(np.array([-1, 0]), ["cat"], None, by, "classes")


def test_names_behind_the_last_label_are_told(caplog):
  """A header among the names of a source shifts them all."""
  listed = label_matching.of_labels(["name", "cat", "dog"], "classes")
  run = zero_shot.prepare(having(listed, 2))
  images = embed_images(np.eye(2), having(listed, 2))
  texts = embed_texts({"name": [1, 0], "cat": [0, 1], "dog": [1, 0]})
  list(run(model(images, texts)))
  assert "no label is 2 ('dog') or more, of 3 names" in caplog.text
  caplog.clear()
  own = having([*listed], 2)  # A data set's own: not all need occur.
  list(zero_shot.prepare(own)(model(images, texts)))
  assert not caplog.text


def test_folders_named_by_times_are_names(tmp_path):
  names = ["20240115093000", "20240116093000"]
  source = folder(tmp_path / "set", names)
  assert labels(source) == {0: 0, 1: 1} and source.classes == names


def test_folders_that_are_numbers_take_their_place_in_a_list(tmp_path):
  folder(tmp_path / "set", ["1990", "2000", "2010"])
  config = {"name": "folder", "root": f"{tmp_path}/set"}
  for listed, want in (
    (["1990", "2000", "2010"], {0: 0, 1: 1, 2: 2}),
    (["2010", "1990", "2000"], {0: 1, 1: 2, 2: 0}),
  ):
    assert labels(build_source(config | {"classes": listed}, "x")) == want
  with pytest.raises(errors.UserError, match="1990 to 2010"):
    build_source(config | {"classes": ["cat", "dog", "emu"]}, "x")


@pytest.mark.parametrize(
  "name, content",
  [
    ("n.txt", "cat\nsea lion\nü\n"),
    ("n.txt", "\ufeffcat\r\nsea lion\r\nü\r\n\r\n  \n"),
    ("n.txt", " cat \nsea lion\nü"),
    ("n.txt", "cat\rsea lion\rü\r"),
    ("n.json", '["cat", "sea lion", "ü"]'),
    ("n.json", '{"2": "ü", "0": "cat", "1": "sea lion"}'),
    ("n.json:k", '\ufeff{"k": ["cat", "sea lion", "ü"], "l": []}'),
    ("n.csv:k", "i,k\n0,cat\n1,sea lion\n2,ü\n"),
    ("n.tsv:k", "i\tk\n0\tcat\n1\tsea lion\n2\tü\n"),
    ("n.jsonl:k", '{"k": "cat"}\n{"k": "sea lion"}\n{"k": "ü"}\n'),
    ("a:b,c/n.txt", "cat\nsea lion\nü\n"),
  ],
)
def test_lists_of_names_are_read(name, content, tmp_path):
  path, _, key = (name, "", "") if "/" in name else name.partition(":")
  (tmp_path / path).parent.mkdir(exist_ok=True)
  (tmp_path / path).write_text(content, newline="")
  assert class_names.read(f"{tmp_path}/{name}", "classes") == [
    "cat", "sea lion", "ü"
  ]  # fmt: skip


@pytest.mark.parametrize(
  "name, content, said",
  [
    ("n.txt", "cat\n\ndog\n", r"n\.txt:2 = ''"),
    ("n.txt", "cat\n \t \ndog\n", r"n\.txt:2"),
    ("n.txt", "0\tcat\n1\tdog\n", r"n\.txt:1 = '0\\tcat'.*tsv:column"),
    ("n.txt", "", "classes = .*It is empty"),
    ("n.txt", "\n\n", "It is empty"),
    ("n.json", '{"a": ["cat"]}', "'a'.*key"),
    ("n.json:b", '{"a": ["cat"]}', "classes = 'b'"),
    ("n.json", '["cat", null]', r"n\.json\[1\] is missing"),
    ("n.json", '["cat", 3]', r"n\.json\[1\] = 3"),
    ("n.json", '["cat"', "can't be read"),
    ("n.csv:k", "i,k\n0,cat\n1,\n", r"n\.csv:3 = ''"),
    ("n.jsonl:k", '{"k": "cat"}\n{"i": 1}\n', r"n\.jsonl:2 = ''"),
    ("no.txt", None, "a file that exists"),
    ("n.json", "3", "It has 3"),
    ("n.json", "null", "It has None"),
    ("n.csv", "i,k\n0,cat\n", "classes: column of .*one of i, k"),
  ],
)
def test_a_list_with_a_hole_in_it_is_one_line(name, content, said, tmp_path):
  if content is not None:
    (tmp_path / name.partition(":")[0]).write_text(content)
  with pytest.raises(errors.UserError, match=said):
    class_names.read(f"{tmp_path}/{name}", "classes")


@pytest.mark.parametrize("value", [[], ["cat", ""], ["cat", None], [1, 2]])
def test_a_list_of_what_is_no_names_is_refused(value):
  with pytest.raises(errors.UserError, match="classes"):
    zero_shot.prepare(having(None, 2), classes=value)


def test_a_label_is_the_same_in_every_source(tmp_path):
  """As a number, a whole float, their digits, and a name."""
  forms = [1, 1.0, "1", "1.0", "bee", " Bee "]
  (tmp_path / "names.txt").write_text("ant\nbee\ncow\n")
  images = [png(i) for i in range(len(forms))]
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for i, form in enumerate(forms):
      about = json.dumps({"caption": "x", "y": form}).encode()
      for kind, data in (("png", images[i]), ("json", about)):
        member = tarfile.TarInfo(f"{i}.{kind}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
  lines = []
  for i, form in enumerate(forms):
    (tmp_path / f"{i}.png").write_bytes(images[i])
    lines.append(json.dumps({"image": f"{i}.png", "caption": "x", "y": form}))
  (tmp_path / "t.jsonl").write_text("\n".join(lines))
  for k, part in enumerate((forms[:1], forms[1:2], forms[2:])):
    start = forms.index(part[0]) if k != 1 else 1
    data = {
      "image": images[start : start + len(part)],
      "caption": ["x"] * len(part),
      "y": part,
    }
    pq.write_table(pa.table(data), tmp_path / f"p-{k}.parquet")
  more = f"classes={tmp_path}/names.txt"
  for text in (
    f"wds:{tmp_path}/a.tar,label=json:y,{more}",
    f"table:{tmp_path}/t.jsonl,images={tmp_path},label=y,{more}",
    f"parquet:{tmp_path}/p-*.parquet,label=y,{more}",
  ):
    source = build_source(text, "x")
    assert [source[i]["label"] for i in range(len(source))] == [1] * 6, text
    assert source.classes == ["ant", "bee", "cow"]


def test_parts_of_a_mixture_with_other_classes_have_no_labels(tmp_path):
  folder(tmp_path / "a", ["cat", "dog"])
  folder(tmp_path / "b", ["bee", "cat"])
  parts = [f"folder:{tmp_path}/{k}" for k in "ab"]
  mixed = build_source({"mixture": parts}, "x")
  assert mixed.classes is None
  assert not any("label" in mixed[i] for i in range(4))
  same = build_source({"mixture": [parts[0], parts[0]]}, "x")
  assert same.classes == ["cat", "dog"] and same[3]["label"] == 1


def test_a_class_that_a_json_file_numbers_twice_is_named(tmp_path):
  """Python's json would take the last, and the first would have no images."""
  (tmp_path / "x.json").write_text('{"0": "ant", "1": "bee", "0": "cow"}')
  with pytest.raises(errors.UserError, match="x.json.*'0' is there twice"):
    class_names.read(f"{tmp_path}/x.json", "classes")
