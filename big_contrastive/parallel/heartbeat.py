"""Several processes: when one dies, the others end soon, and say which.

A collective waits for a dead process for minutes or for ever. So each process
tells that it lives every few seconds, by jax.distributed's key-value store;
process 0 listens to all, all others to process 0 alone: traffic grows with
the number of processes, not with its square.
"""

import os
import socket
import sys
import threading
import time
from typing import NoReturn

import jax
from jax._src import distributed  # The only door to the key-value store.

from big_contrastive.config import errors
from big_contrastive.parallel import signals

_BEAT = 2.0  # Seconds.
_PATIENCE = 60.0  # As long may a process be silent: a stalled disk, a swap.
_SUSPICION = 30.0  # So long, once a collective has failed.
_GRACE = 2 * _BEAT  # To say by itself what is wrong.

REMEDY = "The same command again goes on from the newest checkpoint."

_watch: "_Watch | None" = None


def start() -> None:
  """Begins to tell and to listen; after jax.distributed.initialize."""
  global _watch
  _watch = _Watch()
  for run in (_watch.beat, _watch.guard):
    threading.Thread(target=run, daemon=True).start()
  signals.last.append(_watch.stop)


def leave(line: str, code: int) -> NoReturn:
  """Ends this process with an exit code, once the others can know why.

  Without the barrier of a normal exit, where the dead would be waited for.
  """
  if _watch:
    _watch.ended(line, code)
  os._exit(code)


def suspect() -> errors.RunError | None:
  """Returns who is dead, None if all live; after a failed collective."""
  if _watch is None:
    return None
  until = time.monotonic() + _SUSPICION + 3 * _BEAT
  _watch.patience = _SUSPICION
  while _watch.verdict is None and time.monotonic() < until:
    time.sleep(0.2)
  return _watch.error() if _watch.verdict else None


class _Watch:
  """What this process knows of the others.

  Keys: alive/I "BEAT PID HOST"; ended/I and verdict/line "CODE LINE".
  """

  def __init__(self):
    self.index, self.count = jax.process_index(), jax.process_count()
    self.client = distributed.global_state.client
    self.patience = _PATIENCE
    self.verdict, self.code = None, errors.PROCESS_DIED
    self.leaving, self.beats = False, 0
    now = time.monotonic()
    self.answered = now  # When process 0 last did.
    self.changed = {str(i): ("", now) for i in range(self.count)}

  def beat(self) -> None:
    """Tells and hears, for ever."""
    while True:
      self.tell()
      time.sleep(_BEAT)

  def tell(self) -> None:
    """Tells that this process lives, and hears what there is."""
    self.beats += 1
    told = f"{self.beats} {os.getpid()} {socket.gethostname()}"
    self.changed[str(self.index)] = (told, time.monotonic())
    try:
      self._set(f"alive/{self.index}", told)
      if self.index == 0:
        self._listen()
      for _, value in self.client.key_value_dir_get("verdict/"):
        self._take(value)
      self.answered = time.monotonic()
    except Exception:
      pass  # Silence is what `guard` looks at.

  def _listen(self) -> None:
    """Process 0: finds who is silent or has ended with an error."""
    now = time.monotonic()
    for key, value in self.client.key_value_dir_get("alive/"):
      index = key.rpartition("/")[2]
      if value != self.changed[index][0]:
        self.changed[index] = (value, now)
    ended = {
      key.rpartition("/")[2]: value
      for key, value in self.client.key_value_dir_get("ended/")
    }
    for index, value in ended.items():
      code, _, line = value.partition(" ")
      if int(code) not in errors.STOPPED and index != "0":
        self._blame(index, int(code), line)
    for index, (_, since) in self.changed.items():
      if index not in ended and now - since > self.patience:
        told = f"is silent for {now - since:.0f} s: it has died or hangs"
        self._decide(f"{self._name(index)} {told}")

  def _name(self, index: str) -> str:
    _, pid, host = (*self.changed[index][0].split(" "), "?", "?")[:3]
    return f"process {index} of {self.count} (pid {pid} on {host})"

  def _blame(self, index: str, code: int, line: str) -> None:
    told = f"{self._name(index)} ended with exit code {code}: {line}"
    # Where to begin again does not help, no process may say that it does.
    useless = code in (errors.WRONG_INPUT, errors.BAD_NUMBERS)
    self._decide(told, code if useless else errors.PROCESS_DIED)

  def _decide(self, line: str, code: int = errors.PROCESS_DIED) -> None:
    if self.verdict is None:
      self._set("verdict/line", f"{code} {line}")
      self._take(f"{code} {line}")

  def _take(self, value: str) -> None:
    if self.verdict is None:
      code, _, line = value.partition(" ")
      self.code, self.verdict = int(code), line

  def error(self) -> errors.RunError:
    """The verdict, as this process tells it."""
    return errors.RunError(f"{self.verdict}. {REMEDY}", self.code)

  def stop(self, line: str, code: int) -> None:
    """Has the others end with the same exit code, before this one does."""
    self.leaving = True
    self._decide(f"{self._name(str(self.index))} was {line}", code)
    self.ended(line, code)

  def guard(self) -> None:
    """Ends this process when there is a verdict, or process 0 is silent."""
    while self.verdict is None:
      time.sleep(0.2)
      silent = time.monotonic() - self.answered
      if silent > self.patience:
        self.verdict = (
          f"process 0 of {self.count} is silent for {silent:.0f} s: it has "
          "died or hangs"
        )
    time.sleep(_GRACE)
    if not self.leaving:
      told = f"error: {self.error()}"
      print(told, file=sys.stderr, flush=True)
      leave(told, self.code)

  def ended(self, line: str, code: int) -> None:
    """Tells the others; process 0, whose end is theirs, goes last."""
    self.leaving = True
    try:
      self._set(f"ended/{self.index}", f"{code} {line}")
      if self.index == 0 and code not in errors.STOPPED:
        self._blame("0", code, line)
    except Exception:
      return  # Nobody is left to be told.
    # Until all have heard it, and have had their grace.
    until = time.monotonic() + 3 * _BEAT + _GRACE
    while self.index == 0 and time.monotonic() < until:
      if len(self.client.key_value_dir_get("ended/")) == self.count:
        time.sleep(0.5)
        return
      time.sleep(0.2)

  def _set(self, key: str, value: str) -> None:
    self.client.key_value_set(key, value, allow_overwrite=True)
