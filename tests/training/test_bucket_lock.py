"""One run at a time in a workdir of a bucket, whoever dies or is suspended."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import fsspec
import pytest

from big_contrastive.config import errors
from big_contrastive.storage import paths
from big_contrastive.training import bucket_lock, workdir_lock

HOLD = """
import sys, time
from big_contrastive.storage import paths
from big_contrastive.training import bucket_lock, workdir_lock
bucket_lock.BEAT = 0.2
with workdir_lock.held(paths.at(sys.argv[1], "--workdir")):
  print("held", flush=True)
  time.sleep(100)
"""


@pytest.fixture
def home(bucket, request, monkeypatch):
  """A workdir of this test's own; a minute is two seconds."""
  monkeypatch.setattr(bucket_lock, "BEAT", 0.2)
  monkeypatch.setattr(bucket_lock, "PATIENCE", 2.0)
  monkeypatch.setattr(bucket_lock, "SETTLE", 0.5)
  url = f"{bucket}/{abs(hash(request.node.name))}"
  return paths.at(url, "--workdir")


@pytest.fixture
def holder(home):
  """Another process that holds the lock of a workdir."""
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, str(home)], stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, cwd=os.getcwd(),
  ) as other:  # fmt: skip
    assert other.stdout.readline() == b"held\n"
    yield other
    other.kill()


def owner(home):
  return json.loads((home / ".lock").read_text())


def elsewhere(home, **changes):
  """A lock of another machine."""
  about = {"pid": 7, "host": "elsewhere", "boot": "other", "run": "theirs"}
  files = fsspec.filesystem(str(home).partition("://")[0])
  files.pipe_file(str(home / ".lock"), json.dumps(about | changes).encode())


def refused(home):
  refusal = pytest.raises(errors.UserError, match="--workdir")
  with refusal as e, workdir_lock.held(home):
    raise AssertionError
  return str(e.value)


def test_a_workdir_in_use_is_refused_and_then_it_is_not(holder, home):
  for _ in range(2):  # To be refused takes nothing away from the owner.
    where = f"process {holder.pid} on {socket.gethostname()}"
    assert where in refused(home)
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with workdir_lock.held(home):
    assert owner(home)["pid"] == os.getpid()
  assert not (home / ".lock").exists()


def test_one_of_another_machine_is_alive_while_it_is_written(home):
  ended, beats = threading.Event(), iter(range(100))

  def beat():
    while not ended.wait(0.2):
      elsewhere(home, beat=next(beats))

  thread = threading.Thread(target=beat)
  elsewhere(home)
  thread.start()
  try:
    assert "process 7 on elsewhere" in refused(home)
  finally:
    ended.set()
    thread.join()
  with workdir_lock.held(home):  # Nobody writes it any more.
    assert owner(home)["pid"] == os.getpid()


def test_of_two_that_take_it_over_one_stays(home, monkeypatch):
  elsewhere(home)
  real = bucket_lock.Lock._write

  def write(self, mode):
    real(self, mode)
    elsewhere(home, run="faster")  # Another one, a moment later.

  monkeypatch.setattr(bucket_lock.Lock, "_write", write)
  assert "process 7 on elsewhere" in refused(home)
  assert owner(home)["run"] == "faster"


def test_who_was_suspended_for_too_long_ends_and_saves_nothing(holder, home):
  """It must not write over what the other run does."""
  holder.send_signal(signal.SIGSTOP)
  elsewhere(home, run="taken over")
  holder.send_signal(signal.SIGCONT)
  assert holder.wait(timeout=30) == errors.PROCESS_DIED
  said = holder.stderr.read().decode()
  assert "is now of process 7 on elsewhere" in said
  assert owner(home)["run"] == "taken over"


def test_a_lock_that_can_not_be_understood_is_taken_over(home):
  files = fsspec.filesystem(str(home).partition("://")[0])
  files.pipe_file(str(home / ".lock"), b"{")
  with workdir_lock.held(home):
    assert owner(home)["pid"] == os.getpid()


def test_a_bucket_that_is_not_there_is_one_error(bucket):
  kind = bucket.partition("://")[0]
  home = paths.at(f"{kind}://no-such-bucket/run", "--workdir")
  assert "can be reached" in refused(home)
