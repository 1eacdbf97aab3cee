"""Real processes, joined by jax.distributed through launch/local.sh."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def local(processes, devices, *arguments, module=None, timeout=300):
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
def test_a_run_killed_by_sigkill_resumes_bit_for_bit(tmp_path):
  """And what it has written by then is complete checkpoints only."""
  command = [sys.executable, "-m", "big_contrastive.train", "--config"]
  command += ["configs/siglip.py:smoke", "--config.total=40 steps"]
  command += ["--config.save_every=2 steps", "--config.evals={}", "--workdir"]
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  subprocess.run([*command, whole], cwd=ROOT, check=True, capture_output=True)
  with subprocess.Popen(
    [*command, broken], cwd=ROOT, stderr=subprocess.PIPE
  ) as run:
    for line in run.stderr:
      if line.startswith(b"step 9/"):
        run.kill()
  assert run.returncode == -9
  found = [
    int(d.name) for d in (broken / "checkpoints").iterdir() if d.name.isdigit()
  ]
  assert found and max(found) < 40
  subprocess.run([*command, broken], cwd=ROOT, check=True, capture_output=True)
  rows = []
  for folder in (whole, broken):
    text = (folder / "metrics.jsonl").read_text()
    values = [json.loads(line) for line in text.splitlines()]
    rows.append(
      [{k: v for k, v in row.items() if k[:5] != "perf/"} for row in values]
    )
  assert rows[0] == rows[1]


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_its_exit_code(tmp_path):
  run = local(
    2, 1, "--config", "configs/siglip.py:smoke", "--workdir", tmp_path / "x",
    "--config.batch_size=15",
  )  # fmt: skip
  assert run.returncode == 2
  assert "config.batch_size = 15" in run.stderr


def test_a_failing_process_kills_the_others(tmp_path):
  (tmp_path / "toy.py").write_text(
    "import os, sys, time\n"
    "if os.environ['JAX_PROCESS_ID'] == '1': sys.exit(7)\n"
    "time.sleep(60)\n"
  )
  environment = os.environ | {
    "PYTHON": sys.executable, "MODULE": "toy", "PYTHONPATH": str(tmp_path)
  }  # fmt: skip
  run = subprocess.run(
    [ROOT / "launch/local.sh", "-n", "2"], env=environment, timeout=30,
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert run.returncode == 7 and "exit code 7" in run.stderr
