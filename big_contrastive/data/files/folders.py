"""Files in folders and tars, by name."""

import glob
import logging
import os
import pathlib
from collections.abc import Iterator

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import paths
from big_contrastive.data.files.tar_members import Members


class Folder:
  """Files below a folder, by relative path."""

  def __init__(self, path: str):
    self.path = path

  def __contains__(self, name: str) -> bool:
    root = os.path.abspath(self.path)
    full = os.path.normpath(os.path.join(root, name))
    # A table from elsewhere must not lead out of the folder.
    inside = os.path.commonpath([root, full]) == root and "\0" not in name
    return inside and os.path.isfile(full)

  def read(self, name: str) -> bytes:
    return pathlib.Path(self.path, name).read_bytes()

  def names(self) -> Iterator[str]:
    """Yields the names of all files, sorted within each folder."""
    for folder, _, names in os.walk(self.path):
      for name in sorted(names):
        yield os.path.relpath(os.path.join(folder, name), self.path)


class Tar:
  """Members of an uncompressed tar, by name; read from any thread.

  The index is built once. For a damaged tar it holds the members before the
  damage, and a warning is logged.

  Raises:
    UserError: for a file that is not a tar, or a compressed one.
  """

  def __init__(self, path: str):
    self.path, self._reader = path, paths.Reader("images")
    self._index: dict[str, tuple[int, int]] = {}
    with open(path, "rb") as file:
      members = Members(file, path, "images", os.path.getsize(path))
      for name, start, size in members:
        if self._index.setdefault(name, (start, size)) != (start, size):
          members.skipped["second member of the same name"] += 1
    for reason, count in members.skipped.items():
      logging.warning("%s: %d left out: %s", path, count, reason)
    if members.damage:
      logging.warning("%s is damaged: %s", path, members.damage)

  def __contains__(self, name: str) -> bool:
    return _member(name) in self._index

  def read(self, name: str) -> bytes:
    start, size = self._index[_member(name)]
    try:
      return self._reader.read(self.path, start, start + size)
    except OSError as e:
      raise OSError(f"{self.path} ends within {name}") from e

  def names(self) -> Iterator[str]:
    """Yields the names of all members."""
    yield from self._index


def _member(name: str) -> str:
  try:
    return paths.member(name)
  except BadRecord:
    return ""  # No member has this name.


def roots(paths_: str) -> list[Folder | Tar]:
  """Returns the folders and tars of "a.tar,photos,b*.tar", globs sorted.

  Raises:
    UserError: for a path that does not exist or is neither.
  """
  by_path: dict[str, Folder | Tar] = {}
  # A path that exists may contain commas.
  exists = os.path.exists(os.path.expanduser(paths_.strip()))
  for pattern in [paths_] if exists else paths_.split(","):
    path = os.path.expanduser(pattern.strip())
    matches = [path] if os.path.exists(path) else sorted(glob.glob(path))
    if not matches:
      allowed = "folders and tars that exist, with commas between them"
      remedy = f"Nothing was found below {os.getcwd()}."
      raise errors.UserError("images", pattern, allowed, remedy)
    for match in matches:
      if match not in by_path:
        by_path[match] = Folder(match) if os.path.isdir(match) else Tar(match)
  return list(by_path.values())
