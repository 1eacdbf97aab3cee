"""Writes folders and files that appear complete, or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from big_contrastive.config import errors
from big_contrastive.parallel import signals


def free(target: str, flag: str) -> pathlib.Path:
  """Resolves a path that must not exist yet, or be an empty directory.

  Args:
    target: the path.
    flag: its name in errors.

  Raises:
    UserError: if something is there, or if its parent directory is missing.
  """
  path = pathlib.Path(target).resolve()
  if path.is_file() or (path.is_dir() and any(path.iterdir())):
    remedy = "Remove it yourself, or choose another."
    raise errors.UserError(flag, target, "a path where nothing is", remedy)
  if not path.parent.is_dir():
    remedy = f"{path.parent} does not exist."
    raise errors.UserError(flag, target, "a path in a directory", remedy)
  return path


@contextlib.contextmanager
def appears(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path to write to, and renames it on success."""
  folder = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)

  def remove(*_: object) -> None:
    shutil.rmtree(folder, ignore_errors=True)

  try:
    new = pathlib.Path(folder) / path.name
    with signals.removing(remove):
      yield new
      signals.end_no_more()  # From here on, the command reports success.
    if path.is_dir():
      path.rmdir()  # `free` checked that it is empty.
    new.rename(path)
  finally:
    shutil.rmtree(folder)


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file atomically: a kill leaves the old or the new content."""
  new = path.with_name(path.name + ".new")
  with new.open("w") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  new.replace(path)
