"""One run at a time in a workdir; a dead run's lock is no obstacle."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from big_contrastive.config import errors
from big_contrastive.training import workdir_lock

HOLD = """
import pathlib, sys, time
from big_contrastive.training import workdir_lock
with workdir_lock.held(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds the lock of tmp_path."""
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE,
    cwd=os.getcwd(),
  ) as other:  # fmt: skip
    assert other.stdout.readline() == b"held\n"
    yield other
    other.kill()


def test_a_workdir_in_use_is_refused_and_then_it_is_not(holder, tmp_path):
  for _ in range(2):  # To be refused takes nothing away from the owner.
    refused = pytest.raises(errors.UserError, match="--workdir")
    with refused as e, workdir_lock.held(tmp_path):
      raise AssertionError
    assert f"process {holder.pid} on {socket.gethostname()}" in str(e.value)
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with workdir_lock.held(tmp_path):
    owner = json.loads((tmp_path / ".lock").read_text())
    assert owner == {"pid": os.getpid(), "host": socket.gethostname()}
  assert (tmp_path / ".lock").read_text() == ""


def test_a_lock_of_another_machine_is_alive_while_it_is_touched(
  tmp_path, monkeypatch
):
  """As on a shared disk that does not pass locks on."""
  monkeypatch.setattr(workdir_lock, "_TOUCH", 0.3)
  monkeypatch.setattr(workdir_lock, "_PATIENCE", 5.0)
  owner = json.dumps({"pid": 7, "host": "elsewhere"})
  (tmp_path / ".lock").write_text(owner)
  with workdir_lock.held(tmp_path):
    pass  # Nobody touched it: its owner is dead.
  (tmp_path / ".lock").write_text(owner)
  ended = threading.Event()
  touching = threading.Thread(
    target=workdir_lock._touch, args=(tmp_path / ".lock", ended)
  )
  touching.start()
  try:
    refused = pytest.raises(errors.UserError, match="process 7 on elsewhere")
    with refused, workdir_lock.held(tmp_path):
      raise AssertionError
  finally:
    ended.set()
    touching.join()
  assert (tmp_path / ".lock").read_text() == owner


def test_a_torn_lock_is_nobodys(tmp_path):
  for text in ("", '{"pid": 3', "[1]", "\x00\x00"):
    (tmp_path / ".lock").write_text(text)
    with workdir_lock.held(tmp_path):
      assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_workdir_that_cannot_be_is_a_users_error(tmp_path):
  (tmp_path / "file").touch()
  for path in (tmp_path / "file", tmp_path / "file" / "x"):
    refused = pytest.raises(errors.UserError, match="--workdir.*written to")
    with refused, workdir_lock.held(path):
      raise AssertionError
