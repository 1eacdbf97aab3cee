"""Packing: what comes out of the files is what went in."""

import json
import os
import tarfile

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from test_shuffle import png
from test_webdataset import samples, write

from big_contrastive import pack
from big_contrastive.config import errors
from big_contrastive.data import source as contract
from big_contrastive.data.build import build_source
from big_contrastive.data.transforms import operations
from big_contrastive.factory import cli


@pytest.fixture
def config(tmp_path):
  """A table with several captions, ids and labels; three kinds of image."""
  (tmp_path / "photos").mkdir()
  lines = ["image\tname\tkind\tother"]
  for i in range(7):
    (tmp_path / "photos" / f"{i}.png").write_bytes(png(value=i))
    lines.append(f"{i}.png\tname ü {i}\tkind {i % 3}\t{'x' * (i % 2)}")
  (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
  return (
    f"table:{tmp_path}/t.tsv,images={tmp_path}/photos,caption=name|other,"
    "id=kind,label=kind"
  )


def records(source):
  found = [source[i] for i in range(len(source))]
  return [
    r | {"text": [r["text"]] if isinstance(r["text"], str) else r["text"]}
    for r in found
  ]


def run(monkeypatch, *flags):
  monkeypatch.setattr("sys.argv", ["pack", *map(str, flags)])
  pack.run()


def test_tars_and_parquet_give_back_every_record(config, tmp_path, monkeypatch):
  want = records(build_source(config, "x"))
  run(
    monkeypatch, "--data", config, "--out", f"{tmp_path}/a.tar",
    "--per_file", 3,
  )  # fmt: skip
  run(
    monkeypatch, "--data", config, "--out", f"{tmp_path}/a.parquet",
    "--per_file", 4,
  )  # fmt: skip
  names = {f"a-0000{i}.tar" for i in range(3)}
  names |= {f"a-0000{i}.parquet" for i in range(2)}
  # And beside each tar its index.
  names |= {f"{n}.index.npz" for n in names if n.endswith(".tar")}
  assert names == {n for n in os.listdir(tmp_path) if n.startswith("a-")}
  columns = "id=json:id,label=json:label,caption=json:captions"
  tars = build_source(f"wds:{tmp_path}/a-*.tar,{columns}", "x")
  rows = f"parquet:{tmp_path}/a-*.parquet,id=id,label=label"
  parquet = build_source(rows, "x")
  assert records(tars) == records(parquet) == want
  assert parquet.classes == ["kind 0", "kind 1", "kind 2"]
  note = pq.read_schema(f"{tmp_path}/a-00000.parquet").metadata[b"huggingface"]
  assert json.loads(note)["info"]["features"]["image"] == {"_type": "Image"}


@pytest.mark.parametrize(
  "form, ending",
  [
    ("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp"),
    ("TIFF", "tif"), ("AVIF", "avif"), ("BMP", "bmp"), ("PPM", "ppm"),
  ],
)  # fmt: skip
def test_an_image_is_named_by_its_format(tmp_path, form, ending):
  (tmp_path / "a").mkdir()
  picture = PIL.Image.new("RGB", (8, 8), (9, 9, 9))
  picture.save(tmp_path / "a" / f"1.{ending}", form)
  source = build_source(f"folder:{tmp_path}", "x")
  (name,) = pack.pack(source, f"{tmp_path}/out.tar", 10)
  with tarfile.open(name) as tar:
    assert tar.getnames() == [f"000000000.{ending}", "000000000.json"]
  assert build_source(f"wds:{name}", "x")[0]["image"] == source[0]["image"]


class Records(contract.Source):
  def __init__(self, records):
    self.records = records

  def __len__(self):
    return len(self.records)

  def __getitem__(self, i):
    return dict(self.records[i])


def test_a_record_without_a_label_has_none_when_it_is_packed(tmp_path):
  rows = [{"image": png(), "text": "a", "id": i} for i in range(3)]
  rows[1]["label"] = 5
  (name,) = pack.pack(Records(rows), f"{tmp_path}/out.parquet", 10)
  assert pq.read_table(name)["label"].to_pylist() == [None, 5, None]


def test_bad_records_are_left_out_named_and_limited(tmp_path, capsys):
  members = samples(0, 5)
  members["000002.txt"] = b"caf\xe9"
  source = build_source(f"wds:{write(tmp_path / 'a.tar', members)}", "x")
  (name,) = pack.pack(source, f"{tmp_path}/out.tar", 100)
  err = capsys.readouterr().err
  assert "left out (encoding)" in err and "a.tar:000002" in err
  assert "4 records in 1 files, 1 left out {'encoding': 1}" in err
  found = build_source(f"wds:{name}", "x")
  assert [r["id"] for r in records(found)] == [0, 1, 2, 3]
  assert [r["text"] for r in records(found)] == [
    [f"caption {i}"] for i in (0, 1, 3, 4)
  ]


def test_where_too_much_is_bad_nothing_is_left(tmp_path):
  members = samples(0, 50)
  members |= {f"{i:06}.txt": b"\xff" for i in range(25)}
  source = build_source(f"wds:{write(tmp_path / 'a.tar', members)}", "x")
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(
    errors.UserError, match="bad records among 50 of --data = 25"
  ):
    pack.pack(source, f"{tmp_path}/out.parquet", 10)
  assert sorted(os.listdir(tmp_path)) == before


def test_drawn_images_are_packed_as_they_look(tmp_path):
  config = {"name": "shapes", "split": "val", "train_size": 20, "size": 16}
  source = build_source(config, "x")
  pack.pack(source, f"{tmp_path}/s.parquet", 100)
  found = build_source(f"parquet:{tmp_path}/s-*.parquet,id=id", "x")
  assert len(found) == len(source) == 20
  for i in (0, 19):
    pictures = [operations.decode(s[i]["image"]) for s in (found, source)]
    assert pictures[0] == pictures[1] and found[i]["id"] == source[i]["id"]


@pytest.mark.parametrize(
  "flags, said",
  [
    (["--out", "x.zip"], "--out = 'x.zip'.*tar or .parquet"),
    (["--out", "x.tar", "--per_file", "0"], "--per_file = 0"),
  ],
)
def test_a_wrong_flag_is_named(config, flags, said, monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["pack", "--data", config, *flags])
  with pytest.raises(SystemExit):
    cli.main(pack.run)
  assert __import__("re").search(said, capsys.readouterr().err)


def test_nothing_is_overwritten(config, tmp_path, monkeypatch):
  flags = ("--data", config, "--out", f"{tmp_path}/a.tar")
  run(monkeypatch, *flags)
  with pytest.raises(errors.UserError, match="a new name"):
    run(monkeypatch, *flags)


def test_what_is_kept_is_packed(config, tmp_path, monkeypatch):
  """By a list of numbers, as keep writes it; another list is an error."""
  want = records(build_source(config, "x"))
  np.save(tmp_path / "kept.npy", np.array([1, 2, 6]))
  run(
    monkeypatch, "--data", config, "--keep", tmp_path / "kept.npy", "--out",
    tmp_path / "k.tar",
  )  # fmt: skip
  found = build_source(
    f"wds:{tmp_path}/k-*.tar,caption=json:captions,id=json:id,label=json:label",
    "x",
  )
  assert records(found) == [want[i] for i in (1, 2, 6)]
  np.save(tmp_path / "other.npy", np.array([1, 7]))
  with pytest.raises(errors.UserError, match="--keep = 'record 7 of 7"):
    run(
      monkeypatch, "--data", config, "--keep", tmp_path / "other.npy",
      "--out", tmp_path / "o.tar",
    )  # fmt: skip
  assert not list(tmp_path.glob("o*.tar"))
