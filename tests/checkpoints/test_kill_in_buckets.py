"""A run in a bucket that is killed, cut off, disturbed and stopped."""

import random
import signal
import time

import buckets
import pytest

import killing
from big_contrastive.storage import paths

FLAGS = ["--config.total=20", "--config.eval_every=10"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes"), [("gs", 2), ("s3", 1)])
def test_whatever_happens_nothing_changes(
  kind, processes, tmp_path, monkeypatch
):
  """Metrics and parameters are those of a run on a disk, bit for bit."""
  rng, log = random.Random(0), tmp_path / "log"
  whole = *FLAGS, "--config.save_every=0"
  killing.train(tmp_path / "whole", processes, 1, *whole)
  with buckets.served(kind, monkeypatch) as server:
    workdir = paths.at(f"{server.url}/run", "x")

    def start(steps):
      run = killing.start(workdir, processes, 1, *FLAGS, log=log)
      killing.wait_until(run, lambda: killing.last(workdir) >= steps)
      return run

    run = start(5)
    time.sleep(rng.uniform(0, 2))
    killing.os.kill(rng.choice(killing.workers(run)), signal.SIGKILL)
    assert run.wait(timeout=900) != 0
    run = start(12)
    server.process.send_signal(signal.SIGSTOP)  # It does not answer.
    time.sleep(10)
    server.process.send_signal(signal.SIGCONT)
    assert run.wait(timeout=900) == 0, log.read_text()[-3000:]
    killing.assert_same_bits(tmp_path / "whole", workdir)
    names = buckets.names(server.url)
    assert not [n for n in names if n.endswith((".saving", ".lock"))]
    assert {"run/config.json", "run/metrics.jsonl"} <= set(names)
