"""When one process dies, all others end soon and say which one it was.

A collective waits for a dead process for minutes or forever. So each process
sends a heartbeat every few seconds, through jax.distributed's key-value store.
Process 0 listens to all, and all others to process 0 alone: traffic grows with
the number of processes, not with its square.
"""

import os
import socket
import sys
import threading
import time
from typing import NoReturn

import jax
from jax._src import distributed  # The only way to the key-value store.

from big_contrastive.config import errors
from big_contrastive.parallel import signals

_BEAT = 2.0  # Seconds.
_PATIENCE = 60.0  # Silence that is allowed: a stalled disk, a swap.
_SUSPICION = 30.0  # Silence that is allowed once a collective has failed.
_GRACE = 2 * _BEAT  # For a process to say by itself what is wrong.

REMEDY = "The same command again goes on from the newest checkpoint."

_watch: "_Watch | None" = None


def start() -> None:
  """Starts the heartbeat, once; call it after jax.distributed.initialize."""
  global _watch
  if _watch:
    return
  _watch = _Watch()
  for run in (_watch.beat, _watch.guard):
    threading.Thread(target=run, daemon=True).start()
  signals.last.append(_watch.stop)


def leave(line: str, code: int) -> NoReturn:
  """Ends this process with an exit code, once the others can know why.

  It skips the barrier of a normal exit, which would wait for dead processes.
  """
  if _watch:
    _watch.ended(line, code)
  os._exit(code)


def suspect() -> errors.RunError | None:
  """After a failed collective: an error that names the dead, None if none."""
  if _watch is None:
    return None
  until = time.monotonic() + _SUSPICION + 3 * _BEAT
  _watch.patience = _SUSPICION
  while _watch.verdict is None and time.monotonic() < until:
    time.sleep(0.2)
  return _watch.error() if _watch.verdict else None


class _Watch:
  """The heartbeat of this process, and what it knows of the others.

  Keys: alive/I "BEAT PID HOST"; ended/I and verdict/line "CODE LINE".
  """

  def __init__(self):
    self.index, self.count = jax.process_index(), jax.process_count()
    self.client = distributed.global_state.client
    self.patience = _PATIENCE
    self.verdict, self.code = None, errors.PROCESS_DIED
    self.leaving, self.beats = False, 0
    now = time.monotonic()
    self.answered = now  # When process 0 was last reached.
    self.changed = {str(i): ("", now) for i in range(self.count)}

  def beat(self) -> None:
    """Sends heartbeats forever."""
    while True:
      self.tell()
      time.sleep(_BEAT)

  def tell(self) -> None:
    """Sends one heartbeat, and reads what the others wrote."""
    self.beats += 1
    beat = f"{self.beats} {os.getpid()} {socket.gethostname()}"
    self.changed[str(self.index)] = (beat, time.monotonic())
    try:
      self._set(f"alive/{self.index}", beat)
      if self.index == 0:
        self._listen()
      for _, value in self.client.key_value_dir_get("verdict/"):
        self._take(value)
      self.answered = time.monotonic()
    except Exception:
      pass  # `guard` notices the silence.

  def _listen(self) -> None:
    """On process 0: finds who is silent or has ended with an error."""
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
        state = f"is silent for {now - since:.0f} s: it has died or hangs"
        self._decide(f"{self._name(index)} {state}")

  def _name(self, index: str) -> str:
    _, pid, host = (*self.changed[index][0].split(" "), "?", "?")[:3]
    return f"process {index} of {self.count} (pid {pid} on {host})"

  def _blame(self, index: str, code: int, line: str) -> None:
    verdict = f"{self._name(index)} ended with exit code {code}: {line}"
    # No process may exit with a code that asks for a restart in vain.
    in_vain = code in (errors.WRONG_INPUT, errors.BAD_NUMBERS)
    self._decide(verdict, code if in_vain else errors.PROCESS_DIED)

  def _decide(self, line: str, code: int = errors.PROCESS_DIED) -> None:
    if self.verdict is None:
      self._set("verdict/line", f"{code} {line}")
      self._take(f"{code} {line}")

  def _take(self, value: str) -> None:
    if self.verdict is None:
      code, _, line = value.partition(" ")
      self.code, self.verdict = int(code), line

  def error(self) -> errors.RunError:
    """Returns the verdict as this process's own error."""
    return errors.RunError(f"{self.verdict}. {REMEDY}", self.code)

  def stop(self, line: str, code: int) -> None:
    """Ends the other processes with this exit code, before this one ends."""
    self.leaving = True
    self._decide(f"{self._name(str(self.index))} was {line}", code)
    self.ended(line, code)

  def guard(self) -> None:
    """Ends this process once there is a verdict or process 0 is silent."""
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
      line = f"error: {self.error()}"
      print(line, file=sys.stderr, flush=True)
      leave(line, self.code)

  def ended(self, line: str, code: int) -> None:
    """Tells the others that this process ends; process 0 waits for theirs."""
    self.leaving = True
    try:
      self._set(f"ended/{self.index}", f"{code} {line}")
      if self.index == 0 and code not in errors.STOPPED:
        self._blame("0", code, line)
    except Exception:
      return  # Nobody is left to tell.
    # Process 0 keeps the store open until all have read it, grace included.
    until = time.monotonic() + 3 * _BEAT + _GRACE
    while self.index == 0 and time.monotonic() < until:
      if len(self.client.key_value_dir_get("ended/")) == self.count:
        time.sleep(0.5)
        return
      time.sleep(0.2)

  def _set(self, key: str, value: str) -> None:
    self.client.key_value_set(key, value, allow_overwrite=True)
