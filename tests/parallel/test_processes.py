"""Real processes, joined by jax.distributed through launch/local.sh."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def local(processes, devices, *arguments, module=None, timeout=900):
  environment = os.environ | {"PYTHON": sys.executable}
  environment |= {"MODULE": module} if module else {}
  environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
  command = [ROOT / "launch/local.sh", "-n", processes, "-m", devices]
  return subprocess.run(
    [*map(str, command), *map(str, arguments)], env=environment, cwd=ROOT,
    capture_output=True, text=True, timeout=timeout, check=False,
  )  # fmt: skip


def train(processes, devices, workdir, *more):
  run = local(
    processes, devices, "--config", "configs/siglip.py:smoke", "--workdir",
    workdir, "--config.total=6 steps", "--config.mesh.fsdp=2",
    "--config.model.image.keep=0.5", "--config.model.text.dropout=0.1", *more,
  )  # fmt: skip
  assert run.returncode == 0, run.stderr
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def assert_same(a, b, rtol):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys() and x["step"] == y["step"]
    for key in x:
      if not key.startswith("perf/"):
        np.testing.assert_allclose(x[key], y[key], rtol=rtol, err_msg=key)


@pytest.mark.slow
def test_two_processes_of_two_devices_are_one_of_four(tmp_path):
  """Data, masks, dropout, FSDP, evaluation and checkpoints included."""
  one = train(1, 4, tmp_path / "one")
  two = train(2, 2, tmp_path / "two")
  assert_same(one, two, rtol=2e-4)
  # What two processes saved, one process with two devices goes on with.
  on = train(1, 2, tmp_path / "two", "--config.total=8 steps")
  assert [x["step"] for x in on if "train/loss" in x] == list(range(1, 9))


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_its_exit_code(tmp_path):
  run = local(
    2, 1, "--config", "configs/siglip.py:smoke", "--workdir", tmp_path / "x",
    "--config.batch_size=15",
  )  # fmt: skip
  assert run.returncode == 2
  assert "config.batch_size = 15" in run.stderr


def launch(tmp_path, code, *flags, timeout):
  """Runs two processes of the code."""
  (tmp_path / "toy.py").write_text(code)
  environment = os.environ | {
    "PYTHON": sys.executable, "MODULE": "toy", "PYTHONPATH": str(tmp_path)
  }  # fmt: skip
  return subprocess.run(
    [ROOT / "launch/local.sh", "-n", "2", *flags], env=environment,
    capture_output=True, text=True, timeout=timeout, check=False,
  )  # fmt: skip


def test_a_failing_process_kills_the_others(tmp_path):
  code = (
    "import os, sys, time\n"
    "if os.environ['JAX_PROCESS_ID'] == '1': sys.exit(7)\n"
    "time.sleep(3600)\n"
  )
  run = launch(tmp_path, code, timeout=600)
  assert run.returncode == 7 and "exit code 7" in run.stderr


def toy(tmp_path, codes, *flags):
  """Runs two processes; process 1 ends with one code after the other."""
  code = (
    "import os, pathlib, sys, time\n"
    f"codes, tries = {codes}, pathlib.Path(__file__).with_suffix('.tries')\n"
    "if os.environ['JAX_PROCESS_ID'] == '1':\n"
    "  done = len(tries.read_text()) if tries.exists() else 0\n"
    "  tries.write_text('x' * (done + 1))\n"
    "  sys.exit(codes[done])\n"
    "if 0 not in codes: time.sleep(3600)\n"
  )
  run = launch(tmp_path, code, *flags, timeout=600)
  return run, len((tmp_path / "toy.tries").read_text())


def test_the_launcher_starts_again_only_when_it_helps(tmp_path):
  run, tries = toy(tmp_path, [1, 75, 0], "--restart")
  assert (run.returncode, tries) == (0, 3), run.stderr
  assert run.stderr.count("starting again") == 2


@pytest.mark.parametrize(
  ("codes", "flags"), [([2], ["--restart"]), ([3], ["--restart"]), ([1], [])]
)
def test_the_launcher_gives_up_when_it_would_not_help(codes, flags, tmp_path):
  run, tries = toy(tmp_path, codes, *flags)
  assert (run.returncode, tries) == (codes[0], 1)
  assert "starting again" not in run.stderr


def test_processes_that_have_been_joined_already_are_taken(tmp_path):
  """As by Ray Train; the heartbeat starts, and an error ends with its code."""
  code = (
    "import socket, sys, threading, jax\n"
    "s = socket.socket(); s.bind(('', 0)); port = s.getsockname()[1]\n"
    "s.close()\n"
    "jax.distributed.initialize(f'localhost:{port}', 1, 0)\n"
    "from big_contrastive import train\n"
    "from big_contrastive.factory import cli\n"
    "cli.start(distributed=True)\n"
    "started = threading.active_count()\n"
    "cli.start(distributed=True)\n"
    "assert threading.active_count() == started > 2\n"
    "cli.main(train.run)\n"
  )
  flags = ["--config", "configs/siglip.py:smoke", "--config.batch_size=-1"]
  run = subprocess.run(
    [sys.executable, "-c", code, "--distributed", *flags, "--workdir",
     str(tmp_path / "x")],
    cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
  )  # fmt: skip
  assert run.returncode == 2, run.stderr
  assert "config.batch_size = -1" in run.stderr
