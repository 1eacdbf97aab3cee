"""Writes folders and files that appear complete, or not at all.

On a disk by renaming. In a bucket a file appears by itself when all of it has
arrived; of a folder, the files that readers look for first arrive last.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from big_contrastive.config import errors
from big_contrastive.parallel import signals
from big_contrastive.storage import paths, urls
from big_contrastive.storage.paths import Path


def free(target: str, flag: str) -> Path:
  """Resolves a path that must not exist yet, or be an empty directory.

  Args:
    target: the path, local or of a bucket.
    flag: its name in errors.

  Raises:
    UserError: if something is there, or if its parent directory is missing.
  """
  path = paths.absolute(target, flag)
  with urls.reached(flag, target):
    taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
  if taken:
    remedy = "Remove it yourself, or choose another."
    raise errors.UserError(flag, target, "a path where nothing is", remedy)
  check_parent(path, target, flag)
  return path


def check_parent(path: Path, target: str, flag: str) -> None:
  """Raises UserError if the directory of a path is missing."""
  if not urls.remote(path) and not path.parent.is_dir():
    remedy = f"{path.parent} does not exist."
    raise errors.UserError(flag, target, "a path in a directory", remedy)


@contextlib.contextmanager
def appears(path: Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path to write to; it becomes `path` on success."""
  away = urls.remote(path)
  # Beside it, so that a rename does: or else on this machine's disk.
  folder = tempfile.mkdtemp(
    prefix=f".{path.name}.", dir=None if away else path.parent
  )

  def remove(*_: object) -> None:
    shutil.rmtree(folder, ignore_errors=True)

  try:
    new = pathlib.Path(folder) / path.name
    with signals.removing(remove):
      yield new
      if away:
        upload(new, path)
      signals.end_no_more()  # From here on, the command reports success.
    if not away:
      if path.is_dir():
        path.rmdir()  # `free` checked that it is empty.
      new.rename(path)
  finally:
    shutil.rmtree(folder)


def upload(source: pathlib.Path, target: Path) -> None:
  """Copies a file or folder to a bucket; removes what a signal cuts short.

  Raises:
    OSError: if it can't be written.
  """
  if source.is_file():
    send(source, target)
    return

  def remove(*_: object) -> None:
    with contextlib.suppress(Exception):  # It may not have begun.
      urls.system(str(target), "a URL").rm(str(target), recursive=True)

  files = sorted(p for p in source.rglob("*") if p.is_file())
  with signals.removing(remove):
    try:
      for file in sorted(files, key=lambda p: _found_by(p, source)):
        send(file, target / file.relative_to(source).as_posix())
    except BaseException:
      remove()
      raise


def _found_by(file: pathlib.Path, folder: pathlib.Path) -> bool:
  """Whether readers look for this file to see whether something is there."""
  at_top = file.parent == folder and file.suffix == ".json"
  return at_top or file.name == "SHA256SUMS"


def send(source: pathlib.Path, target: Path) -> None:
  """Copies a file to a bucket, where it appears whole.

  Raises:
    OSError: if it can't be written.
  """
  files, url = urls.system(str(target), "a URL"), str(target)

  def put() -> None:
    files.put_file(str(source), url)
    _arrived(files, url, source.stat().st_size)

  urls.patiently(put, url, "written")


def _arrived(files: Any, url: str, size: int) -> None:
  """Raises OSError unless all bytes are there; the next try may do better."""
  if (there := files.info(url)["size"]) != size:
    raise OSError(f"{there:,} of {size:,} bytes have arrived")


def replace(path: Path, text: str) -> None:
  """Writes a file atomically: a kill leaves the old or the new content.

  So do several processes that write the same file at the same time.
  """
  if urls.remote(path):
    write_bytes(path, text.encode())
    return
  new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
  try:
    with new.open("w") as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())
    new.replace(path)
  except BaseException:
    new.unlink(missing_ok=True)
    raise


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file of a bucket, which appears whole.

  Raises:
    OSError: if it can't be written.
  """
  files, url = urls.system(str(path), "a URL"), str(path)

  def put() -> None:
    files.pipe_file(url, content)
    _arrived(files, url, len(content))

  urls.patiently(put, url, "written")


def rename(path: Path, target: Path) -> None:
  """Gives a file another name in its folder; of a bucket by a copy there."""
  if not urls.remote(path):
    path.rename(target)
    return
  files, old, new = urls.system(str(path), "a URL"), str(path), str(target)
  urls.patiently(lambda: files.cp_file(old, new), new, "written")
  urls.patiently(lambda: files.rm_file(old), old, "removed")
