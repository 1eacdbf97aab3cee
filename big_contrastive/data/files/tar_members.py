"""Lists the files in a tar; counts the members that are left out."""

import collections
import contextlib
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.files import paths

# The first bytes of gzip, bzip2, xz and zstd files.
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Members:
  """Yields (name, first byte, size) of the regular files of a tar.

  And of its links to earlier files. Of joined tars, yields the files of all;
  `archive` is the number of the current one. Names are normalized by
  paths.member. After the iteration, `damage` says what is wrong with the tar
  from some byte on, and `skipped` counts the members that were left out.
  """

  def __init__(self, file: Any, path: str, thing: str, total: int):
    self.damage, self.archive = "", 0
    self.skipped: collections.Counter[str] = collections.Counter()
    self._file, self._path, self._thing = file, path, thing
    self._total = total
    self._places: dict[str, tuple[int, int]] = {}

  def __iter__(self) -> Iterator[tuple[str, int, int]]:
    head = self._file.read(6)
    self._file.seek(0)
    if head.startswith(_PACKED):
      self._raise("It is compressed: decompress it with gunzip or unzstd.")
    if not self._total:
      self._raise("It is empty.")
    try:
      tar = tarfile.TarFile(fileobj=self._file, errors="backslashreplace")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
      self._raise(f"{e}.")
    with tar:
      for member in self._walk(tar):
        if place := self._place(member):
          name = paths.member(member.name)
          self._places[name] = place
          yield name, *place

  def _walk(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    last = -1
    while True:
      before = tar.offset
      try:
        member = tar.next()
      except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
        self.damage = f"broken header at byte {before:,}: {e}"
        return
      tar.members = []  # type: ignore[attr-defined]  # All of them would stay in memory.
      if member is None:
        if not self._goes_on(tar):
          return
        continue
      end = member.offset_data + member.size
      if member.size < 0 or member.offset <= last:  # An endless loop.
        self.damage = f"broken header at byte {member.offset:,}"
        return
      last = member.offset
      if member.isreg() and end > self._total:
        self.damage = f"truncated at byte {self._total:,}, within {member.name}"
        return
      yield member

  def _goes_on(self, tar: tarfile.TarFile) -> bool:
    """Whether another tar follows the end of this one.

    A complete tar ends in zeros; tarfile stops silently at any damage.
    """
    offset = min(tar.offset, self._total)
    self._file.seek(offset)
    block = self._file.read(512)
    if len(block) < 512:
      self.damage = f"truncated at byte {self._total:,}"
    elif block.strip(b"\0"):
      self.damage = f"broken header at byte {offset:,} of {self._total:,}"
    else:
      while block := self._file.read(2**20):
        zeros = len(block) - len(block.lstrip(b"\0"))
        if zeros < len(block):
          self.archive += 1
          tar.offset = self._file.tell() - len(block) + zeros // 512 * 512
          return True
    return False

  def _place(self, member: tarfile.TarInfo) -> tuple[int, int] | None:
    """Offset and size of a member's data; None if it has none in this tar."""
    reason = ""
    try:
      name = paths.member(member.name)
    except bad_records.BadRecord:
      reason = "path that leads out of the tar"
    if member.isdir():
      return None
    if not reason and name.rpartition("/")[2].startswith("._"):
      reason = "notes of macOS (._*)"
    if not reason and member.isreg() and not member.issparse():
      return member.offset_data, member.size
    if not reason and (member.islnk() or member.issym()):
      with contextlib.suppress(bad_records.BadRecord):
        folder = posixpath.dirname(name) if member.issym() else ""
        target = paths.member(posixpath.join(folder, member.linkname))
        if target in self._places:
          return self._places[target]
      reason = "link to what is not before it in the tar"
    self.skipped[reason or "sparse file, or a device"] += 1
    return None

  def _raise(self, remedy: str) -> None:
    allowed = "uncompressed tars"
    raise errors.UserError(self._thing, self._path, allowed, remedy)
