"""Folders and files that appear whole, or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from big_contrastive.config import errors
from big_contrastive.parallel import signals


def free(target: str, flag: str) -> pathlib.Path:
  """Returns the path of a target where nothing is, or an empty directory.

  Args:
    target: a path.
    flag: what it is called in errors.

  Raises:
    UserError: where something is, or where its directory does not exist.
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
  """Gives a path to write to, which is renamed if nothing goes wrong."""
  folder = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)

  def remove(*_: object) -> None:
    shutil.rmtree(folder, ignore_errors=True)

  try:
    new = pathlib.Path(folder) / path.name
    with signals.removing(remove):
      yield new
      signals.end_no_more()  # When it is there, the command says it is done.
    if path.is_dir():
      path.rmdir()  # Empty: it was looked at.
    new.rename(path)
  finally:
    shutil.rmtree(folder)


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file so that a kill leaves the old or the new one."""
  new = path.with_name(path.name + ".new")
  with new.open("w") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  new.replace(path)
