"""WebDataset tars: which samples they give, and what damage costs."""

import gc
import io
import json
import os
import pickle
import sys
import tarfile
from concurrent import futures

import fsspec
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.files import paths, tar_index
from big_contrastive.data.sources import webdataset


def add(tar, name, data, **kwargs):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  for key, value in kwargs.items():
    setattr(member, key, value)
  tar.addfile(member, io.BytesIO(data))


def write(path, members, mode="w"):
  """A tar of (name, bytes) pairs or of a dict."""
  pairs = members.items() if isinstance(members, dict) else members
  with tarfile.open(path, mode) as tar:
    for name, data in pairs:
      add(tar, name, data)
  return str(path)


def samples(start, stop, **more):
  found = {}
  for i in range(start, stop):
    found[f"{i:06}.jpg"] = f"image {i}".encode()
    found[f"{i:06}.txt"] = f"caption {i}".encode()
    found |= {f"{i:06}.{k}": make(i) for k, make in more.items()}
  return found


@pytest.fixture
def shards(tmp_path):
  """Three tars of 4, 3 and 5 samples."""
  for k, (a, b) in enumerate([(0, 4), (4, 7), (7, 12)]):
    write(tmp_path / f"s-{k:03}.tar", samples(a, b))
  return tmp_path


def records(source):
  return [source[i] for i in range(len(source))]


def test_samples_of_all_tars_come_in_the_order_of_their_names(shards):
  source = webdataset.source(urls=f"{shards}/s-{{000..002}}.tar")
  assert records(source) == [
    {"image": f"image {i}".encode(), "text": f"caption {i}", "id": i}
    for i in range(12)
  ]
  assert source.name(5) == f"{shards}/s-001.tar:000005"
  globbed = webdataset.source(urls=f"{shards}/s-*.tar")
  assert records(globbed) == records(source)


@pytest.mark.parametrize(
  "pattern, names",
  [
    ("a{08..11}.tar", ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]),
    ("a{8..10}", ["a8", "a9", "a10"]),
    ("{x,y}/{0..1}", ["x/0", "x/1", "y/0", "y/1"]),
    ("{a,b{1..2}}", ["a", "b1", "b2"]),
    ("plain", ["plain"]),
  ],
)
def test_braces_are_expanded_as_a_shell_does(pattern, names):
  assert sorted(paths.braces(pattern, "urls")) == sorted(names)


def test_several_patterns_stand_between_commas_or_colons(shards):
  for between in (",", "::"):
    urls = f"{shards}/s-{{001,002}}.tar{between}{shards}/s-000.tar"
    source = webdataset.source(urls=urls)
    assert len(source) == 12 and source[0]["text"] == "caption 4"


def test_json_fields_are_captions_labels_and_ids(tmp_path):
  def about(i):
    return json.dumps(
      {"alt": [f"a {i}", "", f"b {i}"], "of": {"kind": i // 2}, "n": i % 3}
    ).encode()

  path = write(tmp_path / "a.tar", samples(0, 4, json=about))
  source = webdataset.source(
    urls=path, caption="txt|json:alt", id="json:of/kind", label="json:n"
  )
  assert source[3] == {
    "image": b"image 3", "text": ["caption 3", "a 3", "b 3"], "id": 1,
    "label": 0,
  }  # fmt: skip


def test_without_txt_the_usual_json_field_is_the_caption(tmp_path):
  members = {"x.png": b"image", "x.json": b'{"caption": "from json"}'}
  source = webdataset.source(urls=write(tmp_path / "a.tar", members))
  assert source[0]["text"] == "from json"


def test_class_names_are_captions_and_labels(tmp_path):
  members = {"x.png": b"1", "x.cls": b"1\n", "y.png": b"2", "y.cls": b"7"}
  (tmp_path / "classes.txt").write_text("ant\nbee\n")
  source = webdataset.source(
    urls=write(tmp_path / "a.tar", members), label="cls",
    classes=f"{tmp_path}/classes.txt",
  )  # fmt: skip
  assert source[0] == {"image": b"1", "text": "bee", "id": 0, "label": 1}
  with pytest.raises(bad_records.BadRecord) as e:
    source[1]
  assert e.value.kind == "label"


def test_a_sample_without_image_or_caption_is_counted_and_ids_stay(tmp_path):
  members = samples(0, 4)
  del members["000001.jpg"], members["000002.txt"]
  members["readme.md"] = b""
  source = webdataset.source(urls=write(tmp_path / "a.tar", members))
  assert [r["id"] for r in records(source)] == [0, 3]
  assert source.skipped == {
    "missing image": 1, "missing caption": 1, "neither image nor caption": 1
  }  # fmt: skip


@pytest.mark.parametrize(
  "data, kind", [(b"caf\xe9", "encoding"), (b" \n", "caption")]
)
def test_a_wrong_caption_is_of_a_kind(tmp_path, data, kind):
  path = write(tmp_path / "a.tar", {"x.jpg": b"i", "x.txt": data})
  with pytest.raises(bad_records.BadRecord) as e:
    webdataset.source(urls=path)[0]
  assert e.value.kind == kind


@pytest.mark.parametrize("data", [b"{", b"[]", b"[" * 10**5, b"\xff", b""])
def test_wrong_json_is_of_a_kind(tmp_path, data):
  path = write(tmp_path / "a.tar", {"x.jpg": b"i", "x.json": data})
  with pytest.raises(bad_records.BadRecord) as e:
    webdataset.source(urls=path, caption="json:text")[0]
  assert e.value.kind == "type"


def test_paths_that_lead_out_and_links_are_left_out(tmp_path):
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for name in ("../up.jpg", "/etc/x.jpg", "a/../../x.jpg"):
      add(tar, name, b"evil")
    add(tar, "l.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    add(tar, "h.jpg", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")
    for name, data in samples(0, 1).items():
      add(tar, name, data)
  source = webdataset.source(urls=str(tmp_path / "a.tar"))
  # The sample before it is etc/x: tar, too, drops a "/" that names begin with.
  assert records(source) == [
    {"image": b"image 0", "text": "caption 0", "id": 1}
  ]
  assert source.skipped == {
    "path that leads out of the tar": 2,
    "link to what is not before it in the tar": 2,
    "missing caption": 1,
  }


def test_a_truncated_tar_gives_what_is_whole_and_says_so(tmp_path, caplog):
  path = write(tmp_path / "a.tar", samples(0, 5))
  os.truncate(path, 4 * 1024 * 2 + 512 + 3)  # Within the fifth image.
  source = webdataset.source(urls=path)
  assert [r["id"] for r in records(source)] == list(range(4))
  assert any("damaged" in reason for reason in source.skipped)
  assert f"{path} is damaged: truncated" in caplog.text


def test_a_broken_header_is_not_taken_for_the_end(tmp_path, caplog):
  path = write(tmp_path / "a.tar", samples(0, 5))
  with open(path, "r+b") as file:
    file.seek(2 * 2048 + 100)
    file.write(b"\xff" * 50)
  source = webdataset.source(urls=path)
  assert len(source) == 2 and "broken header" in caplog.text


def test_an_index_is_made_once_and_anew_when_the_tar_changes(
  tmp_path, monkeypatch
):
  scans = []
  scan = tar_index.scan
  monkeypatch.setattr(tar_index, "scan", lambda *a: scans.append(a) or scan(*a))
  path = write(tmp_path / "a.tar", samples(0, 3))
  for _ in range(3):
    assert len(webdataset.source(urls=path)) == 3
  assert len(scans) == 1 and (tmp_path / "a.tar.index.npz").exists()
  write(path, samples(10, 14))
  assert webdataset.source(urls=path)[3]["text"] == "caption 13"
  assert len(scans) == 2
  (tmp_path / "a.tar.index.npz").write_bytes(b"PK\x03\x04 broken")
  assert len(webdataset.source(urls=path)) == 4 and len(scans) == 3


def test_an_index_goes_where_it_is_told_and_else_to_the_cache(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  (tmp_path / "data").mkdir()
  path = write(tmp_path / "data" / "a.tar", samples(0, 3))
  webdataset.source(urls=path, index=f"{tmp_path}/own")
  assert os.listdir(tmp_path / "data") == ["a.tar"]
  (name,) = os.listdir(tmp_path / "own")
  assert name.endswith(".a.tar.index.npz")

  def refuse(*args, **kwargs):
    if str(kwargs.get("dir")).endswith("data"):
      raise PermissionError("read-only")
    return make(*args, **kwargs)

  make = tar_index.tempfile.mkstemp
  monkeypatch.setattr(tar_index.tempfile, "mkstemp", refuse)
  assert len(webdataset.source(urls=path)) == 3
  assert os.listdir(tmp_path / "data") == ["a.tar"]
  assert os.listdir(tmp_path / "home/.cache/big_contrastive/tars")


def test_indices_are_read_by_threads_while_garbage_is_collected(
  shards, monkeypatch
):
  """As JAX does, by Python, in which another thread may get its turn."""
  urls = [f"{shards}/s-{k:03}.tar" for k in range(3)]
  for path in urls:
    tar_index.load(path, "x")
  monkeypatch.setattr(gc, "callbacks", [lambda *_: sum(range(50))])
  often, interval = gc.get_threshold(), sys.getswitchinterval()
  gc.set_threshold(20)
  sys.setswitchinterval(1e-6)
  try:
    with futures.ThreadPoolExecutor(8) as pool:
      found = list(pool.map(lambda path: tar_index.load(path, "x"), urls * 60))
  finally:
    gc.set_threshold(*often)
    sys.setswitchinterval(interval)
  assert [len(index.keys) for index in found] == [4, 3, 5] * 60


def test_an_index_that_points_elsewhere_is_not_believed(tmp_path):
  path = write(tmp_path / "a.tar", samples(0, 3))
  webdataset.source(urls=path)
  file = tmp_path / "a.tar.index.npz"
  content = dict(np.load(file))
  content["start"] = content["start"] + 10**9
  np.savez(file, **content)
  assert records(webdataset.source(urls=path))[2]["text"] == "caption 2"


def test_tars_in_a_bucket_are_read_through_fsspec(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  local = write(tmp_path / "a.tar", samples(0, 3))
  memory = fsspec.filesystem("memory")
  for k in range(2):
    with open(local, "rb") as file:
      memory.pipe_file(f"/bucket/s-{k}.tar", file.read())
  for urls in ("memory://bucket/s-{0..1}.tar", "memory://bucket/s-*.tar"):
    source = webdataset.source(urls=urls)
    assert [r["text"] for r in records(source)] == [
      f"caption {i % 3}" for i in range(6)
    ]
  with pytest.raises(errors.UserError, match="memory://bucket/no.tar"):
    webdataset.source(urls="memory://bucket/no.tar")


def test_a_missing_library_of_a_bucket_is_named():
  with pytest.raises(errors.UserError, match="urls = 'nosuch://b/a.tar'"):
    webdataset.source(urls="nosuch://b/a.tar")


def test_a_source_travels_to_other_processes(shards):
  source = webdataset.source(urls=f"{shards}/s-*.tar")
  assert records(pickle.loads(pickle.dumps(source))) == records(source)


def test_members_of_the_same_name_are_counted(tmp_path):
  members = [("x.jpg", b"1"), ("x.txt", b"one"), ("x.jpg", b"2")]
  source = webdataset.source(urls=write(tmp_path / "a.tar", members))
  assert source[0]["image"] == b"1"
  assert source.skipped == {"second member of the same name": 1}


def test_members_far_apart_are_read_each(tmp_path):
  members = [("x.txt", b"one"), ("big.bin", bytes(10**6)), ("x.jpg", b"1")]
  source = webdataset.source(urls=write(tmp_path / "a.tar", members))
  assert source[0] == {"image": b"1", "text": "one", "id": 0}


@pytest.mark.parametrize(
  "kwargs, said",
  [
    ({"urls": "{dir}/no-*.tar"}, "urls = '.*no-.*exist"),
    ({"urls": "{dir}/s-{{5..2}}.tar"}, "ascending"),
    ({"urls": "{dir}/s-000.tar.gz"}, "uncompressed.*gunzip"),
    ({"urls": "{dir}/empty.tar"}, "empty"),
    ({"urls": "{dir}/text.tar"}, "uncompressed tars"),
    ({"urls": "{dir}/s-000.tar", "caption": "json:x"}, "'json'.*jpg, key, txt"),
    ({"urls": "{dir}/s-000.tar", "image": "webp"}, "jpg, txt"),
    ({"urls": "{dir}/images.tar"}, "caption is missing.*jpg"),
  ],
)
def test_a_wrong_argument_is_named(shards, kwargs, said):
  write(shards / "s-000.tar.gz", samples(0, 2), "w:gz")
  write(shards / "images.tar", {"x.jpg": b"1"})
  (shards / "empty.tar").touch()
  (shards / "text.tar").write_text("no tar " * 200)
  kwargs = {k: v.format(dir=shards) for k, v in kwargs.items()}
  with pytest.raises(errors.UserError, match=said):
    webdataset.source(**kwargs)
