"""Data that change under a run: said, and refused where that is asked for."""

import io
import re

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_webdataset import write

import tiny
from big_contrastive.checkpoints import checkpointer
from big_contrastive.config import errors
from big_contrastive.data import source as contract
from big_contrastive.data import spec
from big_contrastive.data.build import build_source
from big_contrastive.data.loader import fingerprint
from big_contrastive.factory import experiment
from big_contrastive.training import loop


def png(value):
  file = io.BytesIO()
  PIL.Image.new("RGB", (32, 32), (value, 0, 0)).save(file, "PNG")
  return file.getvalue()


def make(root, kind, values):
  """A source of images of those values, each with a caption that says it."""
  root.mkdir(exist_ok=True)
  names = [f"{i:03}" for i in range(len(values))]
  if kind == "table":
    lines = [f"{n}.png,of {v}" for n, v in zip(names, values)]
    (root / "t.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
  for name, value in zip(names, values):
    (root / f"{name}.png").write_bytes(png(value))
    if kind == "folder":
      (root / f"{name}.txt").write_text(f"of {value}")
  if kind == "wds":
    members = {}
    for name, value in zip(names, values):
      members |= {f"{name}.png": png(value), f"{name}.txt": b"of %d" % value}
    write(root / "a.tar", members)
  if kind == "parquet":
    data = {
      "image": [*map(png, values)],
      "caption": [f"of {v}" for v in values],
    }
    pq.write_table(pa.table(data), root / "a.parquet", row_group_size=7)
  text = {
    "table": f"table:{root}/t.csv,images={root}", "folder": f"folder:{root}",
    "wds": f"wds:{root}/a.tar", "parquet": f"parquet:{root}/a.parquet",
  }[kind]  # fmt: skip
  return build_source(text, "x")


VALUES = list(range(50))


@pytest.mark.parametrize("kind", ["table", "folder", "wds", "parquet"])
def test_a_change_of_records_is_seen_and_a_move_is_none(tmp_path, kind):
  was = fingerprint.fingerprint(make(tmp_path / "a", kind, VALUES))
  assert was["records"] == 50
  again = make(tmp_path / "moved", kind, VALUES)
  assert fingerprint.fingerprint(again) == was
  for k, values in enumerate(
    [VALUES[:-1], VALUES[::-1], [1, 0, *VALUES[2:]], [*VALUES[:-1], 77]]
  ):
    now = fingerprint.fingerprint(make(tmp_path / f"b{k}", kind, values))
    assert now != was and fingerprint.changed(was, now)
  assert fingerprint.changed(was, dict(was)) is None
  assert fingerprint.changed({}, was) is None  # An older checkpoint.


def test_mixtures_and_filters_are_what_their_parts_are(tmp_path):
  (
    make(tmp_path / "a", "table", VALUES),
    make(tmp_path / "b", "table", VALUES[:9]),
  )
  parts = [f"table:{tmp_path}/{k}/t.csv,images={tmp_path}/{k}" for k in "ab"]
  (tmp_path / "keep.txt").write_text(
    "\n".join(f"{i:03}.png" for i in range(20))
  )
  configs = [
    {"mixture": parts},
    {"mixture": parts[::-1]},
    spec.parse(parts[0], "x") | {"filter": {"min_caption": 5}},
    parts[0],
  ]
  found = [fingerprint.fingerprint(build_source(c, "x")) for c in configs]
  assert len({f["digest"] for f in found}) == 4


def test_a_bad_record_is_no_other_data_set_each_time(tmp_path):
  source = make(tmp_path, "folder", VALUES)
  (tmp_path / "000.png").unlink()
  one, two = (fingerprint.fingerprint(source) for _ in range(2))
  assert one == two


def build(root, steps):
  config = tiny.load(
    "siglip", "smoke", f"--config.total={steps}", "--config.evals={}",
    "--config.batch_size=8",
  )  # fmt: skip
  config["source"] = f"table:{root}/data/t.csv,images={root}/data"
  return experiment.build(config)


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_data_says_what_that_means(
  one_device, tmp_path, caplog
):
  make(tmp_path / "data", "table", VALUES)
  loop.fit(build(tmp_path, 2), tmp_path / "work")
  meta = checkpointer.read_meta(tmp_path / "work/checkpoints/2")
  assert meta["data"]["records"] == 50
  loop.check_data(build(tmp_path, 2), meta["data"], strict=True)
  assert "config.source" not in caplog.text
  for values, said in (
    (VALUES[:40], "50 records when the run began, 40 now.* order"),
    (VALUES[::-1], "as many records as when.* in another order"),
  ):
    make(tmp_path / "data", "table", values)
    built = build(tmp_path, 4)
    with pytest.raises(errors.UserError, match=f"config.source = .*{said}"):
      loop.fit(built, tmp_path / "work", strict_data=True)
    caplog.clear()
    loop.check_data(built, meta["data"], strict=False)
    assert re.search(f"{said}.*--strict_data refuses that", caplog.text)


def test_of_blocks_few_are_read(tmp_path):
  """Of a source like Parquet, in which one record costs a block."""

  class Source(contract.Source):
    blocks = np.full(100, 10)
    window = 100

    def __init__(self):
      self.read = set()

    def __len__(self):
      return 1000

    def __getitem__(self, i):
      self.read.add(i // 10)
      return {"image": b"x", "text": "a", "id": i}

  source = Source()
  fingerprint.fingerprint(source)
  assert len(source.read) == 4 and {0, 99} <= source.read
