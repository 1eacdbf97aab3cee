"""Worker processes: what they make, which signals they hear, how they end."""

import contextlib
import gc
import itertools
import multiprocessing
import multiprocessing.util
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from test_loader import Source, image, same
from test_shuffle import stream

from big_contrastive.parallel import signals


@pytest.mark.parametrize("rows", [[0, 1, 5], range(70)])
def test_any_number_of_worker_processes_makes_the_same_batches(rows):
  plain = list(stream(Source(), 70, rows, ops=image).batches(1, 6))
  for workers in (1, 2, 3):
    again = stream(Source(), 70, rows, ops=image, workers=workers)
    for a, b in zip(plain, again.batches(1, 6), strict=True):
      same(a, b)


def children():
  """Process ids of all children, whatever began them, from their birth."""
  for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      parent = int(file.read_text().rpartition(")")[2].split()[1])
      if parent == os.getpid():
        yield int(file.parent.name)


@contextlib.contextmanager
def signalled():
  """Sends both signals to all children for as long as it lasts."""
  ended, reached = threading.Event(), set()

  def send():
    while not ended.is_set():
      for pid in children():
        for number in signals.CODES:
          with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            reached.add(pid)

  sending = threading.Thread(target=send)
  sending.start()
  try:
    yield reached
  finally:
    ended.set()
    sending.join()


@pytest.mark.parametrize("ahead", [0, 2])
def test_workers_leave_signals_to_their_parent_from_birth_to_end(ahead):
  """As those to a process group; the parent itself goes on hearing them."""
  plain = list(stream(Source(), ops=image).batches(0, 9))
  with signalled() as reached:
    run = stream(Source(), ops=image, workers=2, ahead=ahead)
    for a, b in zip(run.batches(0, 9), plain, strict=True):
      same(a, b)
  assert len(reached) >= 2
  blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
  assert not blocked & signals.CODES.keys()


STARTED = """
next(batches)
pids = [child.pid for child in multiprocessing.active_children()]
"""

STARTING = """
threading.Thread(target=next, args=(batches,), daemon=True).start()
while len(begun := multiprocessing.active_children()) < 2:
  time.sleep(0.001)
pids = [child.pid for child in begun]
"""

ORPHANS = """
import multiprocessing, threading, time
from test_shuffle import Source, image, stream
def main():
  batches = stream(Source(), ops=image, workers=2).batches(0, 10**6)
  BEGIN
  print(*pids, flush=True)
  time.sleep(1000)
if __name__ == "__main__":
  main()
"""


@pytest.mark.parametrize("begin", [STARTED, STARTING], ids=["on", "new"])
def test_workers_end_when_their_parent_is_killed(begin, tmp_path):
  code = ORPHANS.replace("BEGIN", begin.strip().replace("\n", "\n  "))
  (tmp_path / "orphans.py").write_text(code)
  folder = os.path.dirname(__file__)
  root = pathlib.Path(__file__).parents[2]
  path = os.pathsep.join([folder, str(root)])
  with subprocess.Popen(
    [sys.executable, tmp_path / "orphans.py"], stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": path}, text=True,
  ) as parent:  # fmt: skip
    pids = parent.stdout.readline().split()
    parent.kill()
  assert len(pids) == 2
  until = time.monotonic() + 300
  while any(os.path.exists(f"/proc/{pid}") for pid in pids):
    assert time.monotonic() < until
    time.sleep(0.1)


@pytest.mark.parametrize("stop", [1, 6])
def test_worker_processes_leave_no_semaphores(stop):
  """Whether the stream ends or is left: Python's own collector is off."""
  registry = multiprocessing.util._finalizer_registry
  gc.collect()
  before = len(registry)
  gc.disable()
  try:
    run = stream(Source(), ops=image, workers=2)
    batches = run.batches(0, 6)
    taken = list(itertools.islice(batches, stop))
    batches.close()
    assert len(taken) == stop and not multiprocessing.active_children()
    assert len(registry) == before
  finally:
    gc.enable()
