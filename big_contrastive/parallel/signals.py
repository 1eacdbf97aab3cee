"""SIGTERM and SIGINT: who handles them, and how they end a command.

SIGUSR1 asks a run for a trace (training/trace.py), and ends nothing.
"""

import contextlib
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker

from big_contrastive.config import errors

CODES = {
  signal.SIGTERM: errors.SAVED_AT_SIGTERM,
  signal.SIGINT: errors.INTERRUPTED,
}
Handler = Callable[[int, types.FrameType | None], object]

_PATIENCE = 5.0  # Seconds to wait for a main thread that is busy in C code.

# Called with a message and the exit code, the last added first, before
# `end_at_once` ends the process.
last: list[Callable[[str, int], object]] = []

_parked = threading.Event()


def say(line: str) -> None:
  """Writes a line to standard error, safely even in the middle of a print."""
  with contextlib.suppress(OSError):  # Nobody reads it any more.
    os.write(2, f"{line}\n".encode())


@contextlib.contextmanager
def unheard() -> Iterator[None]:
  """Shields threads and processes that start inside it from all signals.

  They start with SIGTERM, SIGINT and SIGUSR1 blocked, so there is no gap.
  Signals to a process group are left to the parent of these processes.
  """
  # First, because starting the tracker ends with both signals unblocked.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {*CODES, signal.SIGUSR1})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle(
  handler: Handler | signal.Handlers, numbers: Iterable[int] = CODES
) -> None:
  """Sets the handler of signals, but keeps a signal ignored if it is."""
  for number in numbers:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, handler)


@contextlib.contextmanager
def handled(handler: Handler, numbers: Iterable[int] = CODES) -> Iterator[None]:
  """Sets the handler as `handle` does, and restores the old ones at exit."""
  if threading.current_thread() is not threading.main_thread():
    yield  # As in some notebooks: only the main thread may set handlers.
    return
  before = {number: signal.getsignal(number) for number in numbers}
  handle(handler, numbers)
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old)


def end_at_once() -> None:
  """Lets both signals end this process from now on, whatever it is doing.

  For a command that has nothing to save, or nothing yet. A helper thread ends
  the process: the main thread may be compiling or waiting for other
  processes, and Python may drop an exception that a handler raises.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)
  threading.Thread(target=_wait_for_signal, args=(read,), daemon=True).start()
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  # Until a run hears it; by itself it would end the process.
  signal.signal(signal.SIGUSR1, lambda number, frame: None)
  handle(_park)


@contextlib.contextmanager
def removing(cleanup: Callable[..., object]) -> Iterator[None]:
  """Calls `cleanup` on half-written output if a signal ends this process."""
  last.append(cleanup)
  try:
    yield
  finally:
    last.remove(cleanup)


def end_no_more() -> None:
  """Undoes `end_at_once` once the work is done: both signals are ignored."""
  for number in CODES:
    if signal.getsignal(number) is _park:
      signal.signal(number, signal.SIG_IGN)


def _park(number: int, frame: types.FrameType | None) -> None:
  """Keeps the main thread from doing anything further."""
  _parked.set()
  while True:
    time.sleep(1)


def _wait_for_signal(read: int) -> None:
  while True:
    number = signal.Signals(os.read(read, 1)[0])
    if signal.getsignal(number) is _park:  # Else another handler has it.
      _parked.wait(_PATIENCE)
      _end(f"stopped by {number.name}", CODES[number])


def _end(line: str, code: int) -> None:
  say(f"error: {line}: nothing is half done. Give the same command again.")
  for callback in last[::-1]:
    with contextlib.suppress(Exception):
      callback(line, code)
  os._exit(code)
