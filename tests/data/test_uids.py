"""Lists of records by uid: DataComp's, in and out."""

import hashlib
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_webdataset

from big_contrastive import keep, pack
from big_contrastive.config import errors
from big_contrastive.data import filters
from big_contrastive.data.build import build_source
from big_contrastive.data.files import uids
from big_contrastive.data.source import Source

N = 12


def digits(i):
  return hashlib.md5(b"%d" % i).hexdigest()


def as_datacomp_writes(names):
  """What its baselines save: pairs of halves, sorted."""
  pairs = [(int(x[:16], 16), int(x[16:], 16)) for x in names]
  return np.sort(np.array(pairs, np.dtype("u8,u8")))


@pytest.fixture(params=["wds", "parquet"])
def pool(request, tmp_path):
  """A source of 12 records with uids."""
  if request.param == "wds":
    about = {"json": lambda i: json.dumps({"uid": digits(i)}).encode()}
    for k, (a, b) in enumerate([(0, 5), (5, N)]):
      members = test_webdataset.samples(a, b, **about)
      test_webdataset.write(tmp_path / f"s-{k}.tar", members)
    return f"wds:{tmp_path}/s-*.tar,uid=json:uid"
  table = {
    "image": [b"image %d" % i for i in range(N)],
    "caption": [f"caption {i}" for i in range(N)],
    "uid": [digits(i).upper() for i in range(N)],
  }
  pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=5)
  return f"parquet:{tmp_path}/a.parquet,uid=uid"


def test_a_list_of_datacomp_chooses_its_records(pool, tmp_path, caplog):
  caplog.set_level("INFO")
  file = tmp_path / "list.npy"
  chosen = [1, 4, 5, 11]
  others = [digits(i) for i in range(100, 120)]  # Of images that are gone.
  np.save(file, as_datacomp_writes([*map(digits, chosen), *others]))
  found = filters.apply(build_source(pool, "data"), keep=str(file))
  assert found.kept.tolist() == chosen
  texts = [found[i]["text"] for i in range(len(found))]
  assert texts == [f"caption {i}" for i in chosen]
  assert found.uid(1) == digits(4)
  assert "4 of the 24 uids" in caplog.text


def test_keep_writes_such_a_list_and_reads_it_among_others(
  pool, tmp_path, monkeypatch, capsys
):
  (tmp_path / "scores").mkdir()
  scores = np.float32([3, 9, 1, 8, 7, 0, 2, 6, 5, 4, 11, 10])
  np.save(tmp_path / "scores" / "scores.npy", scores)

  def run(out, *more):
    argv = f"keep --scores {tmp_path}/scores --fraction 0.25 --data {pool}"
    argv = [*argv.split(), "--out", f"{tmp_path}/{out}", *more]
    monkeypatch.setattr(sys, "argv", argv)
    keep.run()
    capsys.readouterr()
    return np.load(tmp_path / out)

  best = run("best.npy", "--uids")
  np.testing.assert_array_equal(
    best, as_datacomp_writes(map(digits, [1, 10, 11]))
  )
  few = as_datacomp_writes(map(digits, [0, 1, 2, 3, 4]))
  np.save(tmp_path / "few.npy", few)
  assert run("a.npy", "--among", f"{tmp_path}/few.npy").tolist() == [1, 3, 4]


def test_pack_keeps_uids(pool, tmp_path):
  source = build_source(pool, "data")
  for ending, said in (("tar", "json:uid"), ("parquet", "uid")):
    kind = "wds" if ending == "tar" else "parquet"
    pack.pack(source, f"{tmp_path}/p.{ending}", 100)
    extra = ",caption=json:captions" if ending == "tar" else ""
    again = build_source(
      f"{kind}:{tmp_path}/p-*.{ending},uid={said}{extra}", ""
    )
    assert [again.uid(i) for i in range(N)] == [digits(i) for i in range(N)]


class Halves(Source):
  """Uids whose first halves are few."""

  def __init__(self, names):
    self.names = names

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    return {"image": b"", "id": index}

  def uid(self, index):
    return self.names[index]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_membership_where_first_halves_repeat(seed, monkeypatch):
  monkeypatch.setattr(uids, "_BLOCK", 7)
  r = np.random.default_rng(seed)
  ends = (0, 2**63, 2**64 - 1)
  names = [
    f"{ends[a]:016x}{ends[b]:016x}" for a, b in r.integers(0, 3, (40, 2))
  ]
  listed = list({names[i] for i in r.integers(0, 40, 5)})
  r.shuffle(listed)
  pairs = [(int(x[:16], 16), int(x[16:], 16)) for x in listed]
  found = uids.places(Halves(names), np.array(pairs, uids.KIND), "keep")
  assert found.tolist() == [i for i, x in enumerate(names) if x in listed]


def test_what_is_wrong_is_named(tmp_path):
  file = str(tmp_path / "list.npy")
  np.save(file, as_datacomp_writes([digits(1)]))
  members = test_webdataset.samples(
    0, 3, json=lambda i: b'{"uid": "%s"}' % (b"1" * 32 if i < 2 else b"xyz")
  )
  tars = test_webdataset.write(tmp_path / "a.tar", members)
  for data, said in (
    (f"wds:{tars}", "uids for filter.keep is missing.*uid=json:uid"),
    (f"wds:{tars},uid=json:uid", "uid of .*a.tar:000002 = .*'xyz'"),
    (f"wds:{tars},uid=json:other", "uid of .*a.tar:000000 = .*None"),
  ):
    with pytest.raises(errors.UserError, match=said):
      filters.apply(build_source(data, "data"), keep=file)
  with pytest.raises(errors.UserError, match="uid = 'key'; expected json:"):
    build_source(f"wds:{tars},uid=key", "data")
  np.save(file, as_datacomp_writes([digits(99)]))
  same = test_webdataset.samples(0, 3, json=lambda i: b'{"uid": "%032d"}' % i)
  tars = test_webdataset.write(tmp_path / "b.tar", same)
  with pytest.raises(errors.UserError, match="filter = 'nothing left'"):
    filters.apply(build_source(f"wds:{tars},uid=json:uid", "data"), keep=file)
