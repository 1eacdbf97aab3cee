"""Blocks of tars: the same samples, each block read once, with patience."""

import os
import pickle
import threading

import fsspec
import numpy as np
import pytest
from test_webdataset import records, samples, write

from big_contrastive.config import errors
from big_contrastive.data.files import paths, tar_blocks, tar_index
from big_contrastive.data.loader import shuffle
from big_contrastive.data.sources import webdataset
from big_contrastive.storage import urls


@pytest.fixture
def shards(tmp_path):
  """Three tars of 8, 3 and 9 samples of about 300 kB."""
  for k, (a, b) in enumerate([(0, 8), (8, 11), (11, 20)]):
    members = {
      name: data + os.urandom(300_000) * name.endswith("jpg")
      for name, data in samples(a, b).items()
    }
    write(tmp_path / f"s-{k}.tar", members)
  return tmp_path


def counting(source, monkeypatch):
  """The reads of a source from now on: (path, start, stop)."""
  reads, lock, real = [], threading.Lock(), source._reader.read

  def read(*span):
    with lock:
      reads.append(span)
    return real(*span)

  monkeypatch.setattr(source._reader, "read", read)
  return reads


def test_the_samples_are_the_same(shards):
  plain = webdataset.source(urls=f"{shards}/s-*.tar")
  found = webdataset.source(urls=f"{shards}/s-*.tar", block_mb=1)
  assert plain.blocks is None and found.blocks.sum() == 20
  assert found.blocks.max() <= 5 and len(found.blocks) >= 6
  assert records(found) == records(plain)
  assert records(pickle.loads(pickle.dumps(found))) == records(plain)
  # No block is of two tars.
  ends = np.cumsum(found.blocks)
  assert {8, 11, 20} <= {*ends.tolist()}


def test_an_epoch_reads_each_block_once_in_little_memory(shards, monkeypatch):
  found = webdataset.source(urls=f"{shards}/s-*.tar", block_mb=1, cache_mb=3)
  found = pickle.loads(pickle.dumps(found))  # With nothing in memory.
  reads = counting(found, monkeypatch)
  order = shuffle.stream(found, 0)(np.arange(20))
  assert sorted(order.tolist()) == [*range(20)] != order.tolist()
  for index in order:
    found[int(index)]
    assert found._blocks.nbytes < 3 * 2**20 + 1.5 * 2**20
  assert len(reads) == len({*reads}) == len(found.blocks)


def test_a_url_has_blocks_by_default_and_the_order_is_of_the_seed(shards):
  memory = fsspec.filesystem("memory")
  for file in shards.glob("s-*.tar"):
    memory.pipe_file(f"/blocks/{file.name}", file.read_bytes())
  found = webdataset.source(
    urls="memory://blocks/s-*.tar", index=str(shards / "i")
  )
  assert found.blocks.tolist() == [8, 3, 9]  # A block has 8 MiB.
  assert records(found) == records(webdataset.source(urls=f"{shards}/s-*.tar"))
  again = pickle.loads(pickle.dumps(found))
  a, b = (shuffle.stream(s, 3)(np.arange(40)) for s in (found, again))
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(4))
def test_spans_cover_all_members_in_order(seed):
  r = np.random.default_rng(seed)
  n, m = 200, 3
  shard = np.sort(r.integers(0, 5, n))
  gaps = r.integers(1, 4000, (n, m))
  start = np.cumsum(gaps.ravel()).reshape(n, m)
  size = np.where(r.random((n, m)) < 0.3, -1, r.integers(0, 900, (n, m)))
  size[:, 0] = 7
  if seed == 3:  # Images behind captions, as in joined tars.
    start[50:90, 1] = start[10:50, 1]
  found = tar_blocks.spans(shard, start, size, 20_000)
  assert found.first[0] == 0 and found.first[-1] == n
  assert (np.diff(found.first) > 0).all()
  for k, (a, b) in enumerate(zip(found.first, found.first[1:])):
    assert len({*shard[a:b].tolist()}) == 1
    there = size[a:b] >= 0
    assert (start[a:b][there] >= found.start[k]).all()
    assert ((start + size)[a:b][there] <= found.stop[k]).all()
    if seed != 3:
      assert found.stop[k] - found.start[k] < 2 * 20_000 + 12_000


@pytest.mark.parametrize(
  "arguments, said",
  [({"block_mb": -1}, "block_mb = -1"), ({"cache_mb": 0}, "cache_mb = 0")],
)
def test_sizes_of_blocks_are_checked(arguments, said, shards):
  with pytest.raises(errors.UserError, match=said):
    webdataset.source(urls=f"{shards}/s-*.tar", **arguments)


# --- Storage that fails for a while. ---


class Failing(fsspec.get_filesystem_class("memory")):
  protocol = "failing"
  left, tries = 0, 0

  def cat_file(self, path, start=None, end=None, **kwargs):
    Failing.tries += 1
    if Failing.left:
      Failing.left -= 1
      raise RuntimeError("503 Service Unavailable")  # As gcsfs: no OSError.
    return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def failing(monkeypatch):
  fsspec.register_implementation("failing", Failing, clobber=True)
  slept = []
  monkeypatch.setattr(urls.time, "sleep", slept.append)
  fsspec.filesystem("failing").pipe_file("failing://f/a", b"0123456789")
  Failing.tries = 0
  return slept


def test_a_bucket_that_is_away_for_a_minute_costs_that_minute(failing):
  Failing.left = 5
  assert paths.Reader("x").read("failing://f/a", 2, 5) == b"234"
  assert sum(failing) > 60 and failing == sorted(failing)


def test_one_that_stays_away_is_an_error_of_reading(failing):
  Failing.left = 100
  said = "failing://f/a can't be read: RuntimeError: 503"
  with pytest.raises(OSError, match=said):
    paths.Reader("x").read("failing://f/a", 2, 5)
  Failing.left = 0


def test_a_file_that_is_not_there_is_not_waited_for(failing):
  with pytest.raises(FileNotFoundError):
    paths.Reader("x").read("failing://f/b", 2, 5)
  assert not failing


# --- Indices beside tars in a bucket. ---


@pytest.fixture
def uploaded(shards, monkeypatch, tmp_path):
  """What `pack` leaves beside tars, copied with them; and a count of scans."""
  monkeypatch.setattr(tar_index, "_CACHE", str(tmp_path / "cache"))
  memory, scans = fsspec.filesystem("memory"), []
  if memory.exists("/up"):
    memory.rm("/up", recursive=True)
  for file in shards.glob("s-*.tar"):
    tar_index.load(str(file), "x")
    for path in (file, file.with_name(f"{file.name}.index.npz")):
      memory.pipe_file(f"/up/{path.name}", path.read_bytes())
  real = tar_index.scan
  monkeypatch.setattr(
    tar_index, "scan", lambda *a: (scans.append(a[0]), real(*a))[1]
  )
  return memory, scans


def test_an_index_that_was_copied_with_its_tar_is_taken(
  uploaded, shards, tmp_path
):
  memory, scans = uploaded
  found = webdataset.source(urls="memory://up/s-*.tar")
  assert not scans
  assert records(found) == records(webdataset.source(urls=f"{shards}/s-*.tar"))
  assert len(os.listdir(tmp_path / "cache")) == 3
  memory.rm("/up/s-0.tar.index.npz")
  webdataset.source(urls="memory://up/s-*.tar")
  assert not scans  # The second time without the bucket's.


@pytest.mark.parametrize("how", ["end", "middle", "size", "damaged index"])
def test_an_index_of_another_tar_is_not(how, uploaded, shards):
  memory, scans = uploaded
  data = bytearray((shards / "s-1.tar").read_bytes())
  if how == "damaged index":
    memory.pipe_file("/up/s-1.tar.index.npz", b"PK\x03\x04 broken")
  elif how == "size":
    memory.pipe_file("/up/s-1.tar", bytes(data) + bytes(10_240))
  else:
    data[-600 if how == "end" else len(data) // 2] ^= 1
    memory.pipe_file("/up/s-1.tar", bytes(data))
  webdataset.source(urls="memory://up/s-*.tar")
  assert scans == ["memory://up/s-1.tar"]


def test_a_missing_index_is_made_once_and_kept_in_the_bucket(
  uploaded, tmp_path, monkeypatch
):
  memory, scans = uploaded
  memory.rm("/up/s-2.tar.index.npz")
  webdataset.source(urls="memory://up/s-*.tar")
  assert scans == ["memory://up/s-2.tar"]
  assert memory.exists("/up/s-2.tar.index.npz")
  monkeypatch.setattr(tar_index, "_CACHE", str(tmp_path / "another host"))
  webdataset.source(urls="memory://up/s-*.tar")
  assert len(scans) == 1
