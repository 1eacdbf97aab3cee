"""A run's small files, on their way to a bucket."""

import threading

import pytest

from big_contrastive.config import errors
from big_contrastive.storage import atomic, mirror, paths, urls


@pytest.fixture
def home(bucket, request):
  return paths.at(f"{bucket}/{abs(hash(request.node.name))}", "x")


def test_on_a_disk_nothing_is_copied(tmp_path):
  found = mirror.of(tmp_path)
  assert found.folder == tmp_path
  assert found.named(tmp_path / "a") == str(tmp_path / "a")
  found.publish()
  found.close()
  assert tmp_path.is_dir()


def test_what_changes_is_copied_and_what_was_there_is_gone_on_with(home):
  first = mirror.of(home)
  (first.folder / "pictures").mkdir()
  (first.folder / "pictures" / "a.png").write_bytes(b"1")
  (first.folder / "m.jsonl").write_text("one\n")
  first.close()
  assert not first.folder.exists()
  second = mirror.of(home, ["m.jsonl", "none"])
  assert [p.name for p in second.folder.iterdir()] == ["m.jsonl"]
  file = second.folder / "m.jsonl"
  assert file.read_text() == "one\n"
  with file.open("a") as lines:
    lines.write("two\n")
  second.publish()
  assert (home / "m.jsonl").read_text() == "one\ntwo\n"
  assert second.named(file) == f"{home}/m.jsonl"
  atomic.replace(file, "three\n")
  second.close()
  assert (home / "m.jsonl").read_text() == "three\n"
  assert (home / "pictures" / "a.png").read_bytes() == b"1"
  assert sorted(p.name for p in home.iterdir()) == ["m.jsonl", "pictures"]


def test_lines_may_be_added_while_they_are_copied(home, monkeypatch):
  """No try fails, and each copy is what the file was at some moment."""
  monkeypatch.setattr(urls.time, "sleep", lambda seconds: 1 / 0)
  found, ended = mirror.of(home), threading.Event()
  file = found.folder / "m.jsonl"

  def add():
    with file.open("a", buffering=1) as lines:
      for _ in range(1000):
        lines.write("x" * 99 + "\n")
        ended.wait(0.0005)

  adding = threading.Thread(target=add)
  adding.start()
  copies = []
  while adding.is_alive():
    found.publish()
    if (home / "m.jsonl").exists():
      copies.append((home / "m.jsonl").read_bytes())
  adding.join()
  assert len({len(copy) for copy in copies}) > 3
  whole = file.read_bytes()
  assert all(whole.startswith(c) and len(c) % 100 == 0 for c in copies)
  found.close()
  assert (home / "m.jsonl").read_bytes() == whole


def test_a_bucket_that_stays_away_leaves_the_files_here(home, monkeypatch):
  found = mirror.of(home)
  (found.folder / "m.jsonl").write_text("one\n")

  def fails(*given):
    raise OSError("away")

  monkeypatch.setattr(atomic, "write_bytes", fails)
  with pytest.raises(errors.UserError, match="The last metrics") as e:
    found.close()
  assert str(found.folder) in str(e.value)
  assert (found.folder / "m.jsonl").read_text() == "one\n"
