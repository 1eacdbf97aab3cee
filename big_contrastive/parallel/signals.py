"""SIGTERM and SIGINT: who hears them, and how they end a command."""

import contextlib
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

from big_contrastive.config import errors

CODES = {
  signal.SIGTERM: errors.SAVED_AT_SIGTERM,
  signal.SIGINT: errors.INTERRUPTED,
}
Handler = Callable[[int, types.FrameType | None], object]

_PATIENCE = 5.0  # Seconds that the main thread may go on, in C.

# Done with the line and the exit code before `end_at_once` ends the process.
last: list[Callable[[str, int], object]] = []

_parked = threading.Event()


def say(line: str) -> None:
  """Writes a line to standard error at any moment, amid a print, too."""
  with contextlib.suppress(OSError):  # Nobody reads it any more.
    os.write(2, f"{line}\n".encode())


@contextlib.contextmanager
def unheard() -> Iterator[None]:
  """Threads and processes that begin in it never hear SIGTERM and SIGINT.

  Not for a moment: they are born with them blocked. What is sent to a whole
  process group is for the parent of these processes to hear.
  """
  # Who starts it blocks and unblocks them himself.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, CODES)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle(by: Handler | signal.Handlers) -> None:
  """Has both handled so, save one that this process was told to ignore."""
  for number in CODES:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, by)


@contextlib.contextmanager
def handled(by: Handler) -> Iterator[None]:
  """Does so until the end."""
  if threading.current_thread() is not threading.main_thread():
    yield  # In some notebooks; Python allows it in the main thread only.
    return
  before = {number: signal.getsignal(number) for number in CODES}
  handle(by)
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old)


def end_at_once() -> None:
  """Has them end this process from now on, whatever it does: a command's.

  It has nothing to save yet, or nothing at all. A thread ends it, not the
  main one: that may be compiling, or waiting for other processes; and an
  exception from a handler can come where Python drops it.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)
  threading.Thread(target=_hear, args=(read,), daemon=True).start()
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  handle(_park)


@contextlib.contextmanager
def removing(do: Callable[..., object]) -> Iterator[None]:
  """Has `do` remove what is half written, should they end this process."""
  last.append(do)
  try:
    yield
  finally:
    last.remove(do)


def end_no_more() -> None:
  """What is done is done: after `end_at_once`, they are ignored."""
  for number in CODES:
    if signal.getsignal(number) is _park:
      signal.signal(number, signal.SIG_IGN)


def _park(number: int, frame: types.FrameType | None) -> None:
  """Keeps the main thread from doing anything more."""
  _parked.set()
  while True:
    time.sleep(1)


def _hear(read: int) -> None:
  while True:
    number = signal.Signals(os.read(read, 1)[0])
    if signal.getsignal(number) is _park:  # Else another handler hears it.
      _parked.wait(_PATIENCE)
      _end(f"stopped by {number.name}", CODES[number])


def _end(line: str, code: int) -> None:
  say(f"error: {line}: nothing is half done. Give the same command again.")
  for do in last[::-1]:
    with contextlib.suppress(Exception):
      do(line, code)
  os._exit(code)
