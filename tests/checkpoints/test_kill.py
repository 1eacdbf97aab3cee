"""A run that is killed goes on as if nothing had happened.

tests/checkpoints/killing.py does the same by hand, twenty times; figures are
in LOG.md.
"""

import contextlib
import pathlib
import random
import signal
import time

import numpy as np
import pytest

import killing

# By number of processes, whose steps take longer the more they are: enough
# for the kills, of which each comes at most 25 steps after the one before.
FLAGS = {
  1: ["--config.total=60", "--config.eval_every=30"],
  2: ["--config.total=40", "--config.eval_every=20"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Uninterrupted runs on 1 and 2 processes, made when they are asked for.

  Saved at their ends: a save takes as long as five steps.
  """
  folder, made = tmp_path_factory.mktemp("whole"), {}

  def get(processes):
    if processes not in made:
      made[processes] = folder / str(processes)
      flags = [*FLAGS[processes], "--config.save_every=0"]
      killing.train(made[processes], processes, 1, *flags)
    return made[processes]

  return get


@pytest.mark.slow
def test_killed_by_sigkill_nothing_changes(whole, tmp_path):
  """At any moment, after steps, and in the middle of a save.

  With two processes below, by the launcher that starts them again.
  """
  found = killing.kill_and_resume(
    tmp_path / "killed", 2, 1, signal.SIGKILL, 0, *FLAGS[1]
  )
  assert len(found) == 2 and all(code != 0 for _, _, code in found)
  killing.assert_same_bits(whole(1), tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_at_that_step(processes, whole, tmp_path):
  """To one of the processes: all save at the same step and end with 75."""
  workdir = tmp_path / "stopped"
  run = killing.start(workdir, processes, 1, *FLAGS[processes])
  killing.wait_until(run, lambda: len(killing.lines(workdir)) > 12)
  killing.os.kill(killing.workers(run)[-1], signal.SIGTERM)
  assert run.wait(timeout=900) == 75, killing.said(workdir)
  last = max(row["step"] for row in killing.lines(workdir))
  assert (workdir / "checkpoints" / str(last)).is_dir()
  assert f"saved at step {last}" in killing.said(workdir)
  assert not killing.saving(workdir)
  killing.train(workdir, processes, 1, *FLAGS[processes])
  killing.assert_same_bits(whole(processes), workdir)


def ends_with_75(run, workdir):
  pids = killing.workers(run)
  assert run.wait(timeout=900) == 75, killing.said(workdir)
  said = killing.said(workdir)
  assert "Traceback" not in said and "Exception ignored" not in said, said
  until = time.monotonic() + 60
  while left := [p for p in pids if pathlib.Path(f"/proc/{p}").exists()]:
    assert time.monotonic() < until, left
    time.sleep(0.1)


@pytest.mark.slow
def test_sigterm_as_two_processes_start_ends_both_with_75(whole, tmp_path):
  """Sent to all, by the launcher, at random; or to one of them alone."""
  workdir, rng = tmp_path / "stopped", random.Random(0)
  lock = workdir / ".lock"
  run = killing.start(workdir, 2, 1, *FLAGS[2])
  time.sleep(rng.uniform(0, 8))
  run.send_signal(signal.SIGTERM)
  ends_with_75(run, workdir)
  for index in (0, 1):
    lock.unlink(missing_ok=True)
    run = killing.start(workdir, 2, 1, *FLAGS[2])
    killing.wait_until(run, lock.exists)
    killing.os.kill(killing.workers(run)[index], signal.SIGTERM)
    ends_with_75(run, workdir)
  killing.train(workdir, 2, 1, *FLAGS[2])
  killing.assert_same_bits(whole(2), workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("before", "after", "config"),
  [
    ((1, 8), (1, 4), killing.SIGLIP),
    ((2, 1), (1, 1), killing.MOCO),
  ],
)
def test_what_some_devices_saved_others_go_on_with(
  before, after, config, tmp_path
):
  """Data and figures are the same, rounding aside."""
  whole, moved = tmp_path / "whole", tmp_path / "moved"
  flags = ["--config.total=20", "--config.loading={'threads': 2}"]
  killing.train(whole, *before, *flags, config=config)
  stop = ["--config.total=20", "--config.save_every=10"]
  run = killing.start(moved, *before, *stop, config=config)
  killing.wait_until(run, lambda: (moved / "checkpoints" / "10").exists())
  for pid in killing.workers(run):
    with contextlib.suppress(ProcessLookupError):
      killing.os.kill(pid, signal.SIGKILL)
  run.wait(timeout=900)  # The launcher's children outlive it, not it them.
  killing.train(moved, *after, *stop, config=config)
  ours, theirs = killing.lines(whole), killing.lines(moved)
  assert [r["step"] for r in ours] == [r["step"] for r in theirs]
  for a, b in zip(ours, theirs, strict=True):
    for name in ("train/loss", "train/t", "train/b", "train/param_norm"):
      if name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_the_launcher_starts_again_what_a_death_has_ended(whole, tmp_path):
  workdir = tmp_path / "again"
  run = killing.start(workdir, 2, 1, *FLAGS[2], launcher=["--restart"])
  killing.wait_until(run, lambda: len(killing.lines(workdir)) > 12)
  killing.os.kill(killing.workers(run)[-1], signal.SIGKILL)
  assert run.wait(timeout=900) == 0, killing.said(workdir)
  told = (tmp_path / "again.err").read_text()
  assert "ended with exit code 137" in told
  assert "starting again (1 of at most 100)" in told
  killing.assert_same_bits(whole(2), workdir)
