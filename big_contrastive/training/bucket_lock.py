"""One run at a time in a workdir that is in a bucket.

An object .lock names the owner, who writes it anew every few seconds, with
another number. What is not written for a minute is taken over. Whoever takes
it over looks again later whether it is still the owner; and an owner that finds
another's name, because it was suspended for so long, ends without saving.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from big_contrastive.config import errors
from big_contrastive.parallel import signals
from big_contrastive.storage import urls
from big_contrastive.storage.paths import Path

BEAT = 10.0  # Seconds between two writings.
PATIENCE = 60.0  # Not written for longer, the owner is dead.
SETTLE = 3.0  # In which another one that takes it over would be seen.


class Lock:
  """The object of a workdir.

  Args:
    path: of the object.
    in_use: returns the error for a workdir that has an owner.
  """

  def __init__(
    self, path: Path, in_use: Callable[[dict[str, Any]], errors.UserError]
  ):
    self._url, self._in_use = str(path), in_use
    self._files = urls.system(self._url, "--workdir")
    self._owner = _here() | {"run": uuid.uuid4().hex, "beat": 0}

  def take(self) -> None:
    """Becomes the owner.

    Raises:
      UserError: if there is one that lives.
    """
    before = self._read()
    if before and _lives(before, self._read):
      raise self._in_use(before)
    try:
      self._write("overwrite" if before is not None else "create")
    except FileExistsError as e:
      raise self._in_use(self._read() or {}) from e
    if before is not None:
      time.sleep(SETTLE)
    if not self._is_mine(now := self._read()):
      raise self._in_use(now or {})

  @contextlib.contextmanager
  def kept(self) -> Iterator[None]:
    """Stays the owner until exit."""
    ended = threading.Event()
    beating = threading.Thread(target=self._beat, args=(ended,), daemon=True)
    beating.start()
    try:
      yield
    finally:
      ended.set()
      beating.join()
      with contextlib.suppress(Exception):  # It is stale after a minute.
        if self._is_mine(self._read()):
          self._files.rm(self._url)

  def _beat(self, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
      with contextlib.suppress(Exception):  # The bucket is away: later.
        now = self._read()
        if now and not self._is_mine(now):
          _end(self._url, now)
        self._owner["beat"] += 1
        self._write("overwrite")

  def _is_mine(self, owner: dict[str, Any] | None) -> bool:
    return bool(owner) and owner.get("run") == self._owner["run"]

  def _read(self) -> dict[str, Any] | None:
    """The owner; {} if that can't be understood, None if there is none."""
    try:
      owner = json.loads(self._files.cat_file(self._url))
    except FileNotFoundError:
      return None
    except ValueError:
      return {}
    return owner if isinstance(owner, dict) else {}

  def _write(self, mode: str) -> None:
    content = json.dumps(self._owner).encode() + b"\n"
    self._files.pipe_file(self._url, content, mode=mode)


def _end(url: str, owner: dict[str, Any]) -> None:
  """Ends this process: the workdir is another's, who must not be disturbed."""
  signals.say(
    f"error: {url} is now of process {owner.get('pid')} on "
    f"{owner.get('host')}: this one did not write it for {PATIENCE:.0f} s. "
    "Nothing more is saved; that run goes on."
  )
  os._exit(errors.PROCESS_DIED)


def _here() -> dict[str, Any]:
  """This process, so that another on this machine sees whether it lives."""
  return {
    "pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(),
    "began": _began(os.getpid()),
  }  # fmt: skip


def _boot() -> str:
  with contextlib.suppress(OSError):
    file = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return f"{file.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
  return ""


def _began(pid: Any) -> str:
  """When a process began, in the kernel's ticks; "" if there is none."""
  with contextlib.suppress(OSError):
    stat = pathlib.Path(f"/proc/{int(pid)}/stat").read_text()
    return stat.rpartition(")")[2].split()[19]
  return ""


def _lives(
  owner: dict[str, Any], read: Callable[[], dict[str, Any] | None]
) -> bool:
  """Whether an owner lives: its process is here, or it writes the lock."""
  here = _here()
  if owner.get("boot") and owner["boot"] == here["boot"]:
    return _began(owner.get("pid", 0)) == owner.get("began")
  until = time.monotonic() + PATIENCE
  while time.monotonic() < until:
    time.sleep(min(2.0, BEAT / 5))
    if (now := read()) != owner:
      return bool(now)
  return False
