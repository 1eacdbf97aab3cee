"""Tars and Parquet files that are put together oddly: all of them is read."""

import io
import json
import os
import pathlib
import tarfile

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_webdataset import add, records, samples, write

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.build import build_source
from big_contrastive.data.sources import parquet, webdataset


def wds(path, **kwargs):
  return webdataset.source(urls=str(path), **kwargs)


# Tars.


@pytest.mark.parametrize("zeros", [0, 512, 3 * 2**20 + 512])
def test_tars_that_were_joined_are_read_to_the_end_of_the_last(tmp_path, zeros):
  parts = [
    write(tmp_path / f"{k}.tar", samples(3 * k, 3 * k + 3)) for k in range(3)
  ]
  joined = tmp_path / "joined.tar"
  data = [pathlib.Path(p).read_bytes() for p in parts]
  joined.write_bytes((bytes(zeros)).join(data) + bytes(zeros))
  source = wds(joined)
  assert [r["text"] for r in records(source)] == [
    f"caption {i}" for i in range(9)
  ]
  assert source.skipped == {}
  table = tmp_path / "t.csv"
  table.write_text("image,caption\n000001.jpg,a\n000008.jpg,b\n")
  images = build_source(f"table:{table},images={joined}", "x")
  assert [images[i]["image"] for i in range(2)] == [b"image 1", b"image 8"]


def test_of_tars_that_were_joined_samples_stay_apart_or_come_together(tmp_path):
  """A sample that comes again is another one, never half of each."""

  def joined(*parts):
    data = b""
    for k, members in enumerate(parts):
      data += pathlib.Path(write(tmp_path / f"{k}.tar", members)).read_bytes()
    (tmp_path / "joined.tar").write_bytes(data)
    return wds(tmp_path / "joined.tar")

  both = {"0.png": b"b0", "0.txt": b"of b0"}
  for order in (both, dict(reversed(both.items()))):
    source = joined({"0.png": b"a0", "1.png": b"a1", "1.txt": b"of a1"}, order)
    found = {r["image"]: r["text"] for r in records(source)}
    assert found == {b"a1": "of a1", b"b0": "of b0"}
    assert source.skipped == {"missing caption": 1}
  spread = joined(
    {"0.png": b"a", "1.png": b"b"}, {"0.txt": b"x", "1.txt": b"y"}
  )
  assert [r["text"] for r in records(spread)] == ["x", "y"]


def test_a_second_image_of_a_sample_is_counted(tmp_path):
  members = {"0.png": b"p", "0.jpg": b"j", "0.txt": b"x"}
  source = wds(write(tmp_path / "a.tar", members))
  assert len(source) == 1 and source.skipped == {"second image of a sample": 1}


def test_what_is_no_tar_behind_the_end_of_one_is_told(tmp_path, caplog):
  path = write(tmp_path / "a.tar", samples(0, 2))
  with open(path, "ab") as file:
    file.write(b"no tar at all" * 100)
  source = wds(path)
  assert len(source) == 2
  assert "damaged tar (what follows the damage)" in source.skipped
  assert f"{path} is damaged: broken header at byte" in caplog.text


def test_a_tar_that_was_cut_off_and_joined_says_what_it_lost(tmp_path):
  one, two = (write(tmp_path / f"{k}.tar", samples(k, k + 3)) for k in (0, 3))
  cut = pathlib.Path(one).read_bytes()[: 2048 + 700]
  (tmp_path / "joined.tar").write_bytes(cut + pathlib.Path(two).read_bytes())
  source = wds(tmp_path / "joined.tar")
  assert any("damaged" in reason for reason in source.skipped)


@pytest.mark.parametrize(
  "prefix", ["/", "/data/", "./", ".//x/../", "..a/", "a..b/"]
)
def test_odd_names_lead_where_tar_leads_them(tmp_path, prefix):
  members = {prefix + name: data for name, data in samples(0, 2).items()}
  source = wds(write(tmp_path / "a.tar", members))
  assert [r["image"] for r in records(source)] == [b"image 0", b"image 1"]
  assert source.skipped == {}
  table = tmp_path / "t.csv"
  table.write_text(f"image,caption\n{prefix}000001.jpg,a\n")
  found = build_source(f"table:{table},images={tmp_path}/a.tar", "x")
  assert found[0]["image"] == b"image 1"


def test_links_are_what_they_lead_to_and_others_are_counted(tmp_path):
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    add(tar, "in/a.jpg", b"one")
    add(tar, "in/a.txt", b"first")
    add(tar, "b.jpg", b"", type=tarfile.LNKTYPE, linkname="in/a.jpg")
    add(tar, "b.txt", b"second")
    add(tar, "in/c.jpg", b"", type=tarfile.SYMTYPE, linkname="a.jpg")
    add(tar, "in/c.txt", b"third")
    add(tar, "d.jpg", b"", type=tarfile.SYMTYPE, linkname="../out.jpg")
    add(tar, "d.txt", b"fourth")
    add(tar, "e.jpg", b"", type=tarfile.FIFOTYPE)
    add(tar, "._a.jpg", b"notes")
    add(tar, "in", b"", type=tarfile.DIRTYPE)
  source = wds(tmp_path / "a.tar", id="key")
  assert [(r["image"], r["text"]) for r in records(source)] == [
    (b"one", "first"), (b"one", "second"), (b"one", "third")
  ]  # fmt: skip
  assert source.skipped == {
    "link to what is not before it in the tar": 1,
    "sparse file, or a device": 1,
    "notes of macOS (._*)": 1,
    "missing image": 1,
  }


def test_images_with_several_dots_in_their_names_are_told(tmp_path):
  members = samples(0, 1) | {
    f"2024.01.{i}.{k}": b"x" for i in range(3) for k in ("jpg", "txt")
  }
  source = wds(write(tmp_path / "a.tar", members))
  told = [k for k in source.skipped if "behind the first dot" in k]
  assert len(source) == 1 and len(told) == 3


def test_names_that_are_not_utf8_are_read(tmp_path):
  with tarfile.open(
    tmp_path / "a.tar", "w", encoding="latin1", format=tarfile.USTAR_FORMAT
  ) as tar:
    add(tar, "caf\xe9.jpg", b"one")
    add(tar, "caf\xe9.txt", b"first")
  source = wds(tmp_path / "a.tar")
  assert source[0]["text"] == "first"
  source.name(0).encode()  # It can be written.


def test_every_ending_that_can_be_decoded_is_an_image(tmp_path):
  endings = ("jpg", "JPEG", "jfif", "tif", "TIFF", "ppm", "avif", "ico", "tga")
  members = {}
  for i, ending in enumerate(endings):
    members |= {f"{i}.{ending}": b"%d" % i, f"{i}.txt": b"x"}
  source = wds(write(tmp_path / "a.tar", members))
  assert [r["image"] for r in records(source)] == [b"%d" % i for i in range(9)]


def test_ids_by_name_are_those_of_the_names(tmp_path):
  """Keys that are numbers and keys that are not, over several tars."""
  for k in range(3):
    names = ["7", "007", "dog", str(k + 10)]
    members = {}
    for name in names:
      members |= {f"{name}.jpg": b"x", f"{name}.txt": b"y"}
    write(tmp_path / f"{k}.tar", members)
  source = wds(f"{tmp_path}/{{0..2}}.tar", id="key")
  found = np.array([r["id"] for r in records(source)]).reshape(3, 4)
  assert (found[:, 0] == 7).all() and len(set(found[:, 1])) == 1
  assert found[0, 1] != 7 and found[:, 3].tolist() == [10, 11, 12]


@pytest.mark.parametrize(
  "value", [None, float("nan"), "", " ", "nan", "absent"]
)
def test_samples_that_lack_an_id_are_bad_and_never_one(tmp_path, value):
  about = {"caption": "x"} | ({} if value == "absent" else {"id": value})
  members = {}
  for i in range(2):
    members |= {f"{i}.jpg": b"%d" % i, f"{i}.json": json.dumps(about).encode()}
  source = wds(write(tmp_path / "a.tar", members), id="json:id")
  for i in range(2):
    with pytest.raises(bad_records.BadRecord) as e:
      source[i]
    assert e.value.kind == "missing"


# Parquet.


def table(images=(b"one",), captions=("a",), **more):
  return pa.table({"image": pa.array(images), "caption": captions} | more)


def pair(tmp_path, one, two, **kwargs):
  for name, data in (("a", one), ("b", two)):
    pq.write_table(data, tmp_path / f"{name}.parquet")
  return parquet.source(files=str(tmp_path), **kwargs)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VARIANTS = {
  "order": table().select(["caption", "image"]),
  "more columns": table(w=[3], h=["x"]),
  "large": table().cast(
    pa.schema([("image", pa.large_binary()), ("caption", pa.large_string())])
  ),
  "list": table(captions=[["a"]]),
  "large list": table(captions=pa.array([["a"]], pa.large_list(pa.string()))),
  "dictionary": table(captions=pa.array(["a"]).dictionary_encode()),
  "images in a dictionary": table(
    images=pa.array([b"one"]).dictionary_encode()
  ),
  "bytes": table(captions=[b"a"]),
  "struct": table(images=pa.array([{"bytes": b"one", "path": None}], STRUCT)),
  "two unread columns of one name": pa.Table.from_arrays(
    [pa.array(x) for x in ([b"one"], ["a"], [1], [2])],
    ["image", "caption", "n", "n"],
  ),
  "metadata": table().replace_schema_metadata({"pandas": "{}", "x": "y"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_files_that_differ_where_nobody_looks_are_one_data_set(tmp_path, name):
  for one, two in ((table(), VARIANTS[name]), (VARIANTS[name], table())):
    source = pair(tmp_path, one, two)
    assert [r["image"] for r in records(source)] == [b"one", b"one"]
    assert [r["text"] for r in records(source)] == ["a", "a"]


def test_a_column_of_nulls_in_one_file_is_missing_values(tmp_path):
  source = pair(tmp_path, table(), table(captions=pa.nulls(1)))
  assert source[0]["text"] == "a"
  with pytest.raises(bad_records.BadRecord, match="without a caption"):
    source[1]


@pytest.mark.parametrize(
  "two, said",
  [
    (table().select(["image"]), r"b\.parquet.*'caption' once.*0 times"),
    (table(captions=[1.5]), r"caption \(double\)"),
    (table(images=pa.array([3])), r"image \(int64\)"),
    (table().rename_columns(["image", "text"]), r"b\.parquet.*'caption'"),
    (
      pa.Table.from_arrays(
        [pa.array(x) for x in ([b"one"], ["a"], ["b"])],
        ["image", "caption", "caption"],
      ),
      r"b\.parquet.*'caption' once.*2 times",
    ),
  ],
)
def test_a_file_whose_column_can_not_be_read_is_named(tmp_path, two, said):
  with pytest.raises(errors.UserError, match=said):
    pair(tmp_path, table(), two)


def classed(names, label):
  feature = {"names": names, "_type": "ClassLabel"}
  note = {"info": {"features": {"y": feature}}}
  data = table(y=[label])
  return data.replace_schema_metadata({"huggingface": json.dumps(note)})


def test_files_with_other_classes_are_refused(tmp_path):
  same = pair(
    tmp_path, classed(["a", "b"], 1), classed(["a", "b"], 0), label="y"
  )
  assert [r["label"] for r in records(same)] == [1, 0]
  with pytest.raises(errors.UserError, match=r"b\.parquet.*a, b.*b, a"):
    pair(tmp_path, classed(["a", "b"], 1), classed(["b", "a"], 0), label="y")


@pytest.mark.parametrize("value", [None, float("nan"), -1.0, 1.5])
def test_a_label_that_is_none_is_bad(tmp_path, value):
  data = table(y=pa.array([value], pa.float64()))
  source = pair(tmp_path, table(y=[2.0]), data, label="y")
  assert source[0]["label"] == 2
  with pytest.raises(bad_records.BadRecord) as e:
    source[1]
  assert e.value.kind == "label"


def test_labels_that_are_digits_need_no_list(tmp_path):
  data = table(y=["1"])
  assert pair(tmp_path, data, data, label="y")[1]["label"] == 1


def test_a_list_in_another_order_moves_the_labels_that_files_note(tmp_path):
  files = classed(["cat", "dog"], 0), classed(["cat", "dog"], 1)
  source = pair(tmp_path, *files, label="y", classes=["dog", "emu", "cat"])
  assert [source.classes[r["label"]] for r in records(source)] == ["cat", "dog"]
  with pytest.raises(errors.UserError, match="dog, emu.*cat, dog"):
    pair(tmp_path, *files, label="y", classes=["dog", "emu"])


def test_images_by_absolute_paths_are_read_below_root(tmp_path):
  (tmp_path / "im").mkdir()
  (tmp_path / "im" / "0.png").write_bytes(b"one")
  data = table(images=[f"{tmp_path}/im/0.png"])
  for root in (None, str(tmp_path), f"{tmp_path}/im"):
    source = pair(tmp_path, data, data, root=root)
    assert source[0]["image"] == b"one"
  with pytest.raises(
    bad_records.BadRecord, match="root= may be a folder above"
  ):
    pair(tmp_path, data, data, root=f"{tmp_path}/other")[0]


def test_times_are_texts(tmp_path):
  times = pa.array([1, 1_700_000_000_123_456_789], pa.timestamp("ns"))
  data = table([b"1", b"2"], ["a", "b"], key=times)
  found = [r["id"] for r in records(pair(tmp_path, data, data, id="key"))]
  assert found[:2] == found[2:] and found[0] != found[1]


def test_labels_that_are_names_need_a_list(tmp_path):
  data = table(y=["dog"])
  with pytest.raises(errors.UserError, match="label = 'y'.*classes=FILE"):
    pair(tmp_path, data, data, label="y")
  source = pair(tmp_path, data, data, label="y", classes=["cat", "dog"])
  assert source[1]["label"] == 1


@pytest.mark.parametrize("kind", [pa.string(), pa.float64(), pa.binary()])
def test_rows_that_lack_an_id_are_bad_and_never_one(tmp_path, kind):
  values = {pa.string(): [None, ""], pa.float64(): [None, float("nan")]}
  values = values.get(kind, [None, b" "])
  data = table([b"1", b"2"], ["a", "b"], key=pa.array(values, kind))
  source = pair(tmp_path, data, data, id="key")
  for i in range(4):
    with pytest.raises(bad_records.BadRecord) as e:
      source[i]
    assert e.value.kind == "missing"


def test_what_else_lies_in_a_folder_is_counted(tmp_path):
  (tmp_path / "readme.md").write_text("x")
  (tmp_path / "old.csv").write_text("x")
  pair(tmp_path, table(), table())
  (tmp_path / "._a.parquet").write_bytes(b"notes of macOS")
  (tmp_path / "a.parquet").rename(tmp_path / "a.PARQUET")
  source = parquet.source(files=str(tmp_path))
  assert len(source) == 2 and source.skipped == {
    "no Parquet: .csv": 1, "no Parquet: .md": 1, "no Parquet: .*, hidden": 1
  }  # fmt: skip


# A record for each caption.


def png(value):
  file = io.BytesIO()
  PIL.Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
  return file.getvalue()


@pytest.mark.parametrize("form", ["tar", "bytes", "struct", "path"])
def test_a_record_a_caption_gives_the_images_one_id(tmp_path, form, caplog):
  pictures = [png(i // 3) for i in range(9)]
  captions = [f"caption {i}" for i in range(9)]
  if form == "tar":
    members = {}
    for i in range(9):
      members |= {f"{i}.png": pictures[i], f"{i}.txt": captions[i].encode()}
    source = wds(write(tmp_path / "a.tar", members))
  else:
    images = {
      "bytes": pictures,
      "struct": pa.array([{"bytes": p, "path": "x"} for p in pictures], STRUCT),
      "path": [f"{i // 3}.png" for i in range(9)],
    }[form]
    for i in range(3):
      (tmp_path / f"{i}.png").write_bytes(png(i))
    pq.write_table(table(images, captions), tmp_path / "a.parquet")
    source = parquet.source(files=f"{tmp_path}/a.parquet")
  found = [r["id"] for r in records(source)]
  assert found[0] == found[1] == found[2] and len(set(found)) == 3
  assert "a record for each caption" in caplog.text


def test_images_that_do_not_come_again_have_ids_by_row(tmp_path):
  """And where all are one image, it tells nothing."""
  for pictures in ([png(i) for i in range(4)], [png(0)] * 4):
    pq.write_table(table(pictures, list("abcd")), tmp_path / "a.parquet")
    source = parquet.source(files=f"{tmp_path}/a.parquet")
    assert [r["id"] for r in records(source)] == [0, 1, 2, 3]


# Paths.


@pytest.mark.parametrize(
  "name", ["a,b", "split=train", "x=1,y=2", "{a}", "[1]"]
)
def test_a_path_that_exists_may_hold_any_character(tmp_path, name, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.mkdir(name)
  pq.write_table(table(), f"{name}/a.parquet")
  write(f"{name}/a.tar", samples(0, 1))
  for text in (
    f"parquet:{name}/a.parquet", f"parquet:{name}", f"wds:{name}/a.tar",
    f"wds:{name}/a.tar,id=key", f"parquet:{tmp_path}/{name}/a.parquet",
  ):  # fmt: skip
    assert len(build_source(text, "x")) == 1, text
