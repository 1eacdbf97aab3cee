"""One run at a time in a workdir.

The kernel locks the file .lock in it while its run lives; the file names the
owner. Some shared disks do not pass locks on to other machines, so a run also
touches the file every few seconds: while its time changes, the run lives. Of
buckets see bucket_lock.py.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import jax

from big_contrastive.config import errors
from big_contrastive.parallel import multihost
from big_contrastive.storage import urls
from big_contrastive.storage.paths import Path
from big_contrastive.training import bucket_lock

_FILE = ".lock"
_TOUCH = 5.0  # Seconds.
_PATIENCE = 60.0  # Untouched for longer, it's stale: a stalled disk, a swap.


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Holds the lock of a workdir; process 0 does so for all.

  Raises:
    UserError: on all processes, if another live run holds the lock or the
      workdir cannot be written to.
  """
  path, error = workdir / _FILE, None
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      try:
        if urls.remote(path):
          with urls.reached("--workdir", workdir):
            lock = bucket_lock.Lock(path, lambda owner: _in_use(path, owner))
            lock.take()
          stack.enter_context(lock.kept())
        else:
          file = stack.enter_context(_open(path))
          _take(file, path)
          stack.enter_context(_alive(file, path))
      except errors.UserError as e:
        error = e
    if multihost.on_any(error is not None):
      raise error or _in_use(path, {})
    yield


def _open(path: pathlib.Path) -> IO[str]:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")
  except OSError as e:
    raise errors.UserError(
      "--workdir",
      str(path.parent),
      f"a folder that can be written to; {e.strerror}",
      "Choose another, or change its permissions.",
    ) from e


@contextlib.contextmanager
def _alive(file: IO[str], path: pathlib.Path) -> Iterator[None]:
  """Touches the file until exit, then empties it: it has no owner."""
  ended = threading.Event()
  touching = threading.Thread(target=_touch, args=(path, ended), daemon=True)
  touching.start()
  try:
    yield
  finally:
    ended.set()
    touching.join()
    file.truncate(0)  # Removing it would race with the next run.


def _take(file: IO[str], path: pathlib.Path) -> None:
  before = _owner(file)
  try:
    # Not flock: a forked loader would hold that lock after our death.
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise _in_use(path, before) from None
  except OSError:
    pass  # The file system has no locks: the file's time must do.
  elsewhere = before.get("host") not in (None, socket.gethostname())
  if elsewhere and _changes(path):
    raise _in_use(path, before)
  file.truncate(0)
  owner = {"pid": os.getpid(), "host": socket.gethostname()}
  file.write(json.dumps(owner) + "\n")
  file.flush()


def _owner(file: IO[str]) -> dict[str, Any]:
  file.seek(0)
  try:
    owner = json.loads(file.read())
  except ValueError:
    return {}
  return owner if isinstance(owner, dict) else {}


def _changes(path: pathlib.Path) -> bool:
  """Returns whether another run touches the file; compares no clocks."""
  seen, until = path.stat().st_mtime_ns, time.monotonic() + _PATIENCE
  while time.monotonic() < until:
    time.sleep(0.2)
    if path.stat().st_mtime_ns != seen:
      return True
  return False


def _touch(path: pathlib.Path, ended: threading.Event) -> None:
  while not ended.wait(_TOUCH):
    with contextlib.suppress(OSError):
      os.utime(path)


def _in_use(path: Path, owner: dict[str, Any]) -> errors.UserError:
  who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
  return errors.UserError(
    "--workdir",
    str(path.parent),
    f"a folder that no run is writing to; {who} is",
    f"Wait for it, stop it (kill {owner.get('pid', '?')}), or use another.",
  )
