"""Storage that fails, for a while or for good; and names that can't be."""

import pathlib

import fsspec
import pytest

from big_contrastive.config import errors
from big_contrastive.storage import atomic, paths, urls


@pytest.fixture
def slept(monkeypatch):
  seconds = []
  monkeypatch.setattr(urls.time, "sleep", seconds.append)
  return seconds


def failing(times, error):
  """A request that fails so many times, then gives "content"."""
  left = iter(range(times))

  def action():
    if next(left, None) is not None:
      raise error
    return "content"

  return action


def test_a_minute_away_costs_that_minute(slept):
  action = failing(len(urls.PAUSES), TimeoutError("no answer"))
  assert urls.patiently(action, "gs://b/x") == "content"
  assert 60 < sum(slept) < 90


def test_what_stays_away_is_one_error(slept):
  action = failing(99, TimeoutError("no\nanswer"))
  with pytest.raises(OSError, match="gs://b/x can't be read: TimeoutError: no"):
    urls.patiently(action, "gs://b/x")


@pytest.mark.parametrize("error", [FileNotFoundError("x"), ValueError("x")])
def test_what_waiting_does_not_mend_is_not_waited_for(error, slept):
  with pytest.raises(type(error)):
    urls.patiently(failing(1, error), "gs://b/x")
  assert not slept


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
  def missing(name, **settings):
    raise ImportError(f"Install {name}fs")

  monkeypatch.setattr(fsspec, "filesystem", missing)
  for url, extra in (("gs://b/x", "gcs"), ("s3://b/x", "s3")):
    with pytest.raises(errors.UserError) as e:
      paths.at(url, "--workdir")
    assert f"--workdir = '{url}'" in str(e.value)
    assert f"pip install 'big_contrastive[{extra}]'" in str(e.value)


@pytest.mark.parametrize("url", ["hf://a/b", "https://a/b", "memory://a"])
def test_only_buckets_are_written_to(url):
  with pytest.raises(errors.UserError, match="--out = .*gs:// or s3://"):
    atomic.free(url, "--out")


def test_of_a_folder_the_files_of_a_model_are_copied():
  names = [
    "config.json", "merges.txt", "model.safetensors", "pytorch_model.bin",
    "onnx.bin", "README.md", "tf_model.h5",
  ]  # fmt: skip
  assert sorted(paths.of_model(names)) == [
    "config.json", "merges.txt", "model.safetensors",
  ]  # fmt: skip
  assert paths.of_model(["a.bin", "b.md"]) == ["a.bin"]


def test_a_copy_is_kept_until_the_original_changes(monkeypatch, tmp_path):
  monkeypatch.setattr(paths, "_CACHE", str(tmp_path))
  memory = fsspec.filesystem("memory")
  memory.pipe_file("/copied/a.txt", b"one")
  first = paths.local("memory://copied/a.txt", "x")
  assert first.name == "a.txt" and first.read_bytes() == b"one"
  first.write_bytes(b"kept")
  same = paths.local("memory://copied/a.txt", "x")
  assert same == first and same.read_bytes() == b"kept"
  memory.pipe_file("/copied/a.txt", b"other")
  assert paths.local("memory://copied/a.txt", "x").read_bytes() == b"other"
  assert not [p for p in tmp_path.rglob(".*")]


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b" ", b"\0"])
def test_the_last_bytes_of_a_file_arrive(end, bucket, slept, tmp_path):
  """Uploads are made of lines, but files are not."""
  content = b"\0\r\n--" + end
  (tmp_path / "a").write_bytes(content)
  targets = [paths.at(f"{bucket}/{name}", "x") for name in ("sent", "written")]
  atomic.send(tmp_path / "a", targets[0])
  atomic.write_bytes(targets[1], content)
  assert [t.read_bytes() for t in targets] == [content, content]


def test_what_arrives_in_part_is_an_error(monkeypatch, slept, tmp_path):
  class Lossy(fsspec.get_filesystem_class("memory")):
    protocol = "lossy"

    def pipe_file(self, path, value, **kwargs):
      super().pipe_file(path, value[:-1], **kwargs)

    def put_file(self, here, path, **kwargs):
      self.pipe_file(path, pathlib.Path(here).read_bytes())

  monkeypatch.setattr(urls, "system", lambda *given: Lossy())
  (tmp_path / "a").write_bytes(b"123")
  for write in (
    lambda: atomic.write_bytes("lossy://a", b"123"),
    lambda: atomic.send(tmp_path / "a", "lossy://a"),
  ):
    with pytest.raises(OSError, match="2 of 3 bytes have arrived"):
      write()
