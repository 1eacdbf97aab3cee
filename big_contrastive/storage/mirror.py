"""A run's small files: metrics, events, pictures.

A bucket has no appending, so these are written to a folder on this machine,
and from there copied to the bucket, whole, when they have changed.
"""

import logging
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence

import jax

from big_contrastive.config import errors
from big_contrastive.storage import atomic, paths, urls
from big_contrastive.storage.paths import Path

_EVERY = 30.0  # Seconds; or twenty times as long as the last copying took.
_SHARE = 20


def of(home: Path, wanted: Sequence[str] = ()) -> "Here | Mirror":
  """Returns the folder to write a run's files to.

  Args:
    home: where they belong.
    wanted: files to go on with, copied from there if they are there.
  """
  return Mirror(home, wanted) if urls.remote(home) else Here(home)


class Here:
  """A folder on this machine: nothing is to be copied.

  Attributes:
    folder: to write to.
  """

  def __init__(self, home: Path):
    self.folder = pathlib.Path(home)

  def named(self, path: pathlib.Path) -> str:
    """Returns where a user finds a file of the folder."""
    return str(path)

  def publish(self) -> None:
    """Returns when everything in the folder is where it belongs."""

  def close(self) -> None:
    """Publishes for the last time."""


class Mirror(Here):
  """A folder that is copied to a bucket, in the background and on request."""

  def __init__(self, home: Path, wanted: Sequence[str]):
    super().__init__(pathlib.Path(tempfile.mkdtemp(prefix="run.")))
    self._home = home
    self._sent: dict[pathlib.Path, tuple[int, int]] = {}
    self._one_at_a_time, self._ended = threading.Lock(), threading.Event()
    if jax.process_index() == 0:  # Who writes them.
      for name in wanted:
        self._fetch(name)
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def _fetch(self, name: str) -> None:
    url, file = str(self._home / name), self.folder / name
    try:
      paths.get(urls.system(url, "--workdir"), url, file)
    except FileNotFoundError:
      file.unlink(missing_ok=True)  # Some libraries make an empty one.

  def named(self, path: pathlib.Path) -> str:
    return str(self._home / path.relative_to(self.folder).as_posix())

  def publish(self) -> None:
    """Copies what has changed.

    Raises:
      OSError: if the bucket is away for more than a minute.
    """
    with self._one_at_a_time:
      for file in sorted(self.folder.rglob("*")):
        if file.name.startswith(".") or not file.is_file():
          continue  # One that is being replaced, or a folder.
        stat = file.stat()
        version = stat.st_size, stat.st_mtime_ns
        if self._sent.get(file) != version:
          # As long as it was: lines are added meanwhile.
          with file.open("rb") as opened:
            content = opened.read(stat.st_size)
          target = self._home / file.relative_to(self.folder).as_posix()
          atomic.write_bytes(target, content)
          self._sent[file] = version

  def _watch(self) -> None:
    pause = _EVERY
    while not self._ended.wait(pause):
      began = time.monotonic()
      try:
        self.publish()
      except Exception as e:  # It is tried again, and before each save.
        logging.warning("%s", urls.told(e))
      pause = max(_EVERY, _SHARE * (time.monotonic() - began))

  def close(self) -> None:
    """Publishes for the last time, and removes the folder.

    Raises:
      UserError: if that can't be done; the folder then stays.
    """
    self._ended.set()
    try:
      self.publish()
    except Exception as e:
      raise errors.UserError(
        "--workdir", str(self._home), "a bucket that can be written to",
        f"{urls.told(e)}. The last metrics and pictures are in {self.folder}.",
      ) from e  # fmt: skip
    shutil.rmtree(self.folder, ignore_errors=True)
