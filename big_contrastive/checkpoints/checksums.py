"""Checksums of all files in a folder, in the format of sha256sum.

  cd runs/x/checkpoints/1000 && sha256sum -c SHA256SUMS

checks a checkpoint by hand.
"""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Iterable

FILE = "SHA256SUMS"

# Hashing releases the GIL, and reading waits for the disk.
_THREADS = 8


def write(folder: pathlib.Path) -> None:
  """Writes the checksums of a folder's files, and syncs all to disk.

  Raises:
    OSError: if the disk is full or broken.
  """
  names = sorted(_names(folder))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    sums = threads.map(lambda name: _digest(folder / name, sync=True), names)
    lines = [f"{digest}  {name}\n" for digest, name in zip(sums, names)]
  with (folder / FILE).open("w") as f:
    f.write("".join(lines))
    f.flush()
    os.fsync(f.fileno())
  for inside in {folder / name for name in names} | {folder / FILE}:
    sync_folder(inside.parent)


def damage(
  folder: pathlib.Path, part: tuple[int, int] = (0, 1), skip: str = ""
) -> str | None:
  """Returns what is wrong with a folder, None if its files are as written.

  A folder without checksums counts as intact: earlier versions wrote none.

  Args:
    folder: one that `write` was called for.
    part: (i, n): only every n-th file from the i-th on, for n processes.
    skip: files whose name begins with this are not read.
  """
  if not (folder / FILE).exists():
    return None
  try:
    lines = (folder / FILE).read_text().splitlines()
    expected = [tuple(reversed(line.split("  ", 1))) for line in lines]
    named = [(n, s) for n, s in expected if not skip or not n.startswith(skip)]
  except ValueError as e:
    return f"{FILE} can't be read: {e}"
  mine = named[part[0] :: part[1]]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    problems = threads.map(lambda pair: _wrong(folder, *pair), mine)
    return next((wrong for wrong in problems if wrong), None)


def sync_folder(folder: pathlib.Path) -> None:
  """Syncs a folder's entries to disk, so that a rename survives a crash."""
  number = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def _names(folder: pathlib.Path) -> Iterable[str]:
  for path in folder.rglob("*"):
    if path.is_file() and path != folder / FILE:
      yield str(path.relative_to(folder))


def _digest(path: pathlib.Path, sync: bool = False) -> str:
  with path.open("rb") as f:
    if sync:
      os.fsync(f.fileno())
    return hashlib.file_digest(f, "sha256").hexdigest()


def _wrong(folder: pathlib.Path, name: str, digest: str) -> str | None:
  try:
    actual = _digest(folder / name)
  except OSError as e:
    return f"{name}: {e.strerror}"
  return None if actual == digest else f"{name} is not as it was written"
