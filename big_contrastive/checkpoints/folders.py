"""The folder of a run's checkpoints: how one appears, and goes.

On a disk, what is being written or removed has another name, and gets its own
by renaming. A bucket can't rename: there, an object STEP.saving beside the
folder STEP says that STEP isn't a checkpoint yet; likewise STEP.deleting and
STEP.damaged.
"""

import contextlib
import re
import shutil
import time

from big_contrastive.checkpoints import checksums, objects
from big_contrastive.storage import atomic, urls
from big_contrastive.storage.paths import Path

_MARKS = _SAVING, _DELETING, _DAMAGED = ".saving", ".deleting", ".damaged"
# What a killed run leaves, of a save or of the removal of an old one.
_LEFT = re.compile(r"(\d+)\.(saving|deleting|orbax-checkpoint-tmp)")


def of(path: Path) -> "Disk | Bucket":
  """Returns what handles a folder of checkpoints, which need not exist yet."""
  return Bucket(path) if urls.remote(path) else Disk(path)


class Disk:
  """On this machine, or on a disk that machines share."""

  def __init__(self, path: Path):
    self.path = path

  def steps(self) -> list[int]:
    """Returns the steps of all complete checkpoints, ascending."""
    inside = self.path.iterdir() if self.path.is_dir() else []
    return sorted(int(d.name) for d in inside if d.name.isdigit())

  def prepare(self) -> None:
    """Makes the folder, and removes what a killed run has left in it."""
    self.path.mkdir(parents=True, exist_ok=True)
    for left in self.path.iterdir():
      if _LEFT.match(left.name):
        shutil.rmtree(left, ignore_errors=True)

  def begin(self, step: int) -> None:
    """Makes room for a checkpoint; for the first process alone."""

  def writing(self, step: int) -> Path:
    """Returns where all processes write a checkpoint."""
    return self.path / f"{step}{_SAVING}"

  def finish(self, step: int) -> None:
    """Lets a checkpoint appear that is written."""
    saving = self.writing(step)
    checksums.write(saving)
    saving.rename(self.path / str(step))
    checksums.sync_folder(self.path)

  def abandon(self, step: int) -> None:
    """Removes a save that failed; Orbax's threads may still be writing."""
    for _ in range(100):
      folders = list(self.path.glob(f"{step}{_SAVING}*"))
      for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
      if not folders:
        return
      time.sleep(0.05)

  def remove(self, step: int) -> None:
    """Removes a checkpoint."""
    self._rename(step, _DELETING)
    shutil.rmtree(self.path / f"{step}{_DELETING}")

  def set_damaged(self, step: int, why: str) -> None:
    """Lets a checkpoint be none any more, without removing it."""
    self._rename(step, _DAMAGED)

  def _rename(self, step: int, suffix: str) -> None:
    new = self.path / f"{step}{suffix}"
    shutil.rmtree(new, ignore_errors=True)
    (self.path / str(step)).rename(new)


class Bucket:
  """In a bucket. See Disk for the methods."""

  def __init__(self, path: Path):
    self.path = path

  def steps(self) -> list[int]:
    names = self._names()
    return sorted(
      int(name)
      for name in names
      if name.isdigit() and not any(name + mark in names for mark in _MARKS)
    )

  def _names(self) -> set[str]:
    def names() -> set[str]:
      try:
        return {p.name for p in self.path.iterdir()}
      except FileNotFoundError:
        return set()

    return urls.patiently(names, str(self.path))

  def prepare(self) -> None:
    for name in self._names():
      if left := _LEFT.fullmatch(name):
        self._rm(left[1])
        self._rm(name)

  def begin(self, step: int) -> None:
    self._mark(step, _SAVING)
    self._rm(str(step))
    self._rm(f"{step}{_DAMAGED}")

  def writing(self, step: int) -> Path:
    return self.path / str(step)

  def finish(self, step: int) -> None:
    objects.write(self.writing(step))
    self._rm(f"{step}{_SAVING}")

  def abandon(self, step: int) -> None:
    with contextlib.suppress(Exception):  # If it is away, `prepare` does so.
      self._rm(str(step))
      self._rm(f"{step}{_SAVING}")

  def remove(self, step: int) -> None:
    self._mark(step, _DELETING)
    self._rm(str(step))
    self._rm(f"{step}{_DELETING}")

  def set_damaged(self, step: int, why: str) -> None:
    self._mark(step, _DAMAGED, why)

  def _mark(self, step: int, kind: str, text: str = "") -> None:
    atomic.write_bytes(self.path / f"{step}{kind}", (text + "\n").encode())

  def _rm(self, name: str) -> None:
    """Removes an object, or all below a name, if there are any."""
    url = str(self.path / name)
    files = urls.system(url, "a URL")
    with contextlib.suppress(FileNotFoundError):
      urls.patiently(lambda: files.rm(url, recursive=True), url, "removed")

  def is_marked(self, step: str) -> bool:
    """Whether a folder of that name is there, but is not a checkpoint."""
    return any((self.path / (step + mark)).exists() for mark in _MARKS)
