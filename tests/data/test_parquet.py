"""Parquet: which rows it gives, in Hugging Face's layouts too."""

import json
import os
import pickle
import threading
from concurrent import futures

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.sources import parquet


def table(start, stop, **columns):
  numbers = range(start, stop)
  data = {
    "image": [f"image {i}".encode() for i in numbers],
    "caption": [f"caption {i}" for i in numbers],
  }
  return pa.table(data | columns)


def write(path, data, group=3):
  os.makedirs(os.path.dirname(path), exist_ok=True)
  pq.write_table(data, path, row_group_size=group)
  return str(path)


@pytest.fixture
def folder(tmp_path):
  """Hugging Face's layout: two splits, train in two files."""
  root = f"{tmp_path}/set/data"
  write(f"{root}/train-00000-of-00002.parquet", table(0, 7))
  write(f"{root}/train-00001-of-00002.parquet", table(7, 11))
  write(f"{root}/test-00000-of-00001.parquet", table(20, 22))
  return f"{tmp_path}/set"


def records(source):
  return [source[i] for i in range(len(source))]


def expected(start, stop, first=0):
  return [
    {
      "image": f"image {i}".encode(),
      "text": f"caption {i}",
      "id": i - start + first,
    }
    for i in range(start, stop)
  ]


def kind(source, index=0):
  with pytest.raises(bad_records.BadRecord) as e:
    source[index]
  return e.value.kind


def test_rows_of_all_files_come_in_order(folder):
  assert records(parquet.source("train", files=folder)) == expected(0, 11)
  assert records(parquet.source("test", files=folder)) == expected(20, 22)
  some = parquet.source(files=f"{folder}/data/train-{{00000..00001}}-*.parquet")
  assert records(some) == expected(0, 11)
  assert len(parquet.source(files=folder)) == 13
  source = parquet.source("train", files=folder)
  assert source.name(10).endswith("train-00001-of-00002.parquet:row 3")
  assert source.blocks.tolist() == [3, 3, 1, 3, 1]


@pytest.mark.parametrize("name", ["a[1]", "b,c", "d{2..3}"])
def test_a_folder_that_exists_is_no_pattern(name, tmp_path):
  write(f"{tmp_path}/{name}/x.parquet", table(0, 2))
  assert len(parquet.source(files=f"{tmp_path}/{name}")) == 2


def test_a_split_may_be_a_folder(tmp_path):
  write(f"{tmp_path}/set/train/0.parquet", table(0, 2))
  write(f"{tmp_path}/set/val/0.parquet", table(2, 5))
  assert len(parquet.source("val", files=f"{tmp_path}/set")) == 3


def test_an_image_may_be_a_struct_of_bytes_and_path(tmp_path):
  (tmp_path / "photo.jpg").write_bytes(b"from the path")
  images = [
    {"bytes": b"inside", "path": "x.jpg"},
    {"bytes": None, "path": "photo.jpg"},
    {"bytes": None, "path": None},
    None,
    {"bytes": None, "path": "gone.jpg"},
    {"bytes": None, "path": "../../etc/passwd"},
    {"bytes": None, "path": "/etc/passwd"},
  ]
  kinds = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
  data = table(0, len(images), image=pa.array(images, kinds))
  source = parquet.source(files=write(f"{tmp_path}/a.parquet", data))
  assert source[0]["image"] == b"inside"
  assert source[1]["image"] == b"from the path"
  assert kind(source, 2) == kind(source, 3) == "missing"
  with pytest.raises(FileNotFoundError):
    source[4]
  assert kind(source, 5) == kind(source, 6) == "escape"


def test_an_image_may_be_a_path(tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
  data = pa.table({"img": ["a.jpg"], "text": ["a cat"]})
  source = parquet.source(
    files=write(f"{tmp_path}/t/a.parquet", data), root=f"{tmp_path}/photos"
  )
  assert source[0] == {"image": b"photo", "text": "a cat", "id": 0}


def test_captions_may_be_lists_and_some_be_empty(tmp_path):
  captions = [["a", "b"], [" ", "c"], [], None, [None]]
  data = table(0, 5, caption=captions)
  source = parquet.source(files=write(f"{tmp_path}/a.parquet", data))
  assert source[0]["text"] == ["a", "b"] and source[1]["text"] == "c"
  assert {kind(source, i) for i in (2, 3, 4)} == {"caption"}


def test_a_caption_that_is_not_utf8_is_of_a_kind(tmp_path):
  data = table(0, 2, caption=pa.array([b"good", b"caf\xe9"], pa.binary()))
  source = parquet.source(files=write(f"{tmp_path}/a.parquet", data))
  assert source[0]["text"] == "good" and kind(source, 1) == "encoding"


def test_ids_labels_and_the_names_that_datasets_notes(tmp_path):
  data = table(0, 4, n=[1, 0, None, 5], key=["x", "y", "x", None])
  feature = {"names": ["ant", "bee"], "_type": "ClassLabel"}
  note = {"info": {"features": {"n": feature}}}
  data = data.replace_schema_metadata({"huggingface": json.dumps(note)})
  path = write(f"{tmp_path}/a.parquet", data)
  source = parquet.source(files=path, label="n", id="key")
  assert source.classes == ["ant", "bee"]
  assert (source[0]["label"], source[1]["label"]) == (1, 0)
  unnumbered = parquet.source(files=path, label="n")
  assert kind(unnumbered, 2) == kind(unnumbered, 3) == "label"
  own = parquet.source(files=path, id="key")
  assert own[0]["id"] == own[2]["id"] != own[1]["id"]
  assert kind(own, 3) == "missing"
  named = parquet.source(files=path, caption="n")
  assert named[0]["text"] == "bee"


def test_only_so_many_row_groups_stay_in_memory(tmp_path):
  images = [os.urandom(100_000) for _ in range(60)]
  path = write(f"{tmp_path}/a.parquet", table(0, 60, image=images), group=3)
  source = parquet.source(files=path, cache_mb=1)
  for i in range(60):
    assert source[i]["image"] == images[i]
  assert source._tables.nbytes < 1.5 * 2**20
  assert 3 <= source.window <= 6  # Half of the cache is 5 rows.


def test_a_row_group_is_read_once_by_many_threads(tmp_path, monkeypatch):
  source = parquet.source(files=write(f"{tmp_path}/a.parquet", table(0, 9)))
  reads, lock = [], threading.Lock()
  read = source._read

  def count(block):
    with lock:
      reads.append(block)
    return read(block)

  monkeypatch.setattr(source._tables, "_read", count)
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.__getitem__, [*range(9)] * 5))
  assert found == expected(0, 9) * 5
  assert sorted(reads) == [0, 1, 2]


def test_a_source_travels_to_other_processes(folder):
  source = parquet.source("train", files=folder)
  source[0]
  assert records(pickle.loads(pickle.dumps(source))) == records(source)


def test_files_in_a_bucket_are_read_through_fsspec(tmp_path):
  with open(write(f"{tmp_path}/a.parquet", table(0, 5)), "rb") as file:
    data = file.read()
  fsspec.filesystem("memory").pipe_file("/tables/a.parquet", data)
  source = parquet.source(files="memory://tables/*.parquet")
  assert records(source) == expected(0, 5)


def test_a_group_that_breaks_later_is_bad_records_not_a_crash(tmp_path):
  path = write(f"{tmp_path}/a.parquet", table(0, 9))
  source = parquet.source(files=path)
  with open(path, "r+b") as file:
    file.seek(8)
    file.write(b"\xff" * 40)
  assert kind(source, 0) == "read" or source[0] != expected(0, 1)[0]
  assert source[8] == expected(8, 9, first=8)[0]


@pytest.mark.parametrize(
  "kwargs, said",
  [
    ({"files": "{dir}/no.parquet"}, "files = '.*no.parquet'.*exist"),
    ({"files": "{dir}/text.parquet"}, "files = '.*text.parquet'.*Parquet"),
    ({"files": "{dir}/a.parquet", "image": "imge"}, "image = 'imge'.*'image'"),
    ({"files": "{dir}/a.parquet", "caption": "n"}, r"caption = 'n \(int64\)'"),
    ({"files": "{dir}/a.parquet", "image": "n"}, r"image = 'n \(int64\)'"),
    (
      {"files": "{dir}/*a.parquet", "label": "n"},
      "files = '.*ba.parquet'.*'n' once, as .*/a.parquet has.*has it 0 times",
    ),
    ({"files": "{dir}/empty.parquet"}, "rows"),
    ({"files": "{dir}/a.parquet", "cache_mb": 0}, "cache_mb = 0"),
    ({"files": "{dir}", "split": "trian"}, "split = 'trian'"),
  ],
)
def test_a_wrong_argument_is_named(tmp_path, kwargs, said):
  write(f"{tmp_path}/a.parquet", table(0, 3, n=[1, 2, 3]))
  write(f"{tmp_path}/ba.parquet", table(0, 3))
  write(f"{tmp_path}/empty.parquet", table(0, 3).slice(0, 0))
  (tmp_path / "text.parquet").write_text("no Parquet")
  kwargs = {
    k: v.format(dir=tmp_path) if isinstance(v, str) else v
    for k, v in kwargs.items()
  }
  with pytest.raises(errors.UserError, match=said):
    parquet.source(**kwargs)


def test_a_number_that_numpy_gives_is_the_same_id():
  from big_contrastive.data.files import fields

  assert fields.number(np.int64(7)) == fields.number(7) == 7


@pytest.mark.parametrize("group", [1, 2, 4, 100])
def test_a_row_a_caption_is_found_in_row_groups_of_any_size(tmp_path, group):
  images = [f"image {i // 3}".encode() for i in range(9)]
  data = pa.table({"image": images, "caption": [f"c{i}" for i in range(9)]})
  source = parquet.source(files=write(f"{tmp_path}/x.parquet", data, group))
  ids = [source[i]["id"] for i in range(9)]
  assert [ids.index(i) for i in ids] == [0, 0, 0, 3, 3, 3, 6, 6, 6]
