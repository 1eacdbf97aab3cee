"""A long run of a small model that saves often: does it leak?

  python -m benchmarks.soak --minutes 30

Trains configs/siglip.py:smoke with a checkpoint every 20 s, samples resident
memory, descriptors and threads of the training process and its workers, and
says whether they stay level after warm-up. Exit code 0 if they do.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

_SAMPLE = 5.0  # Seconds.


def sample(pid: int) -> tuple[float, int, int]:
  """Returns resident MiB, descriptors, threads of a process and its own."""
  process = pathlib.Path(f"/proc/{pid}")
  pages = int((process / "statm").read_text().split()[1])
  resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
  descriptors = len(list((process / "fd").iterdir()))
  tasks = list((process / "task").iterdir())
  for task in tasks:
    for child in (task / "children").read_text().split():
      more = sample(int(child))
      resident, descriptors = resident + more[0], descriptors + more[1]
  return resident, descriptors, len(tasks)


def growth(times: np.ndarray, values: np.ndarray) -> float:
  """Returns the slope an hour, by the median over pairs (Theil and Sen).

  A save's peak or a page that was given back doesn't move it.
  """
  i, j = np.triu_indices(len(times), 1)
  return float(np.median((values[j] - values[i]) / (times[j] - times[i])))


def train(workdir: str, save_seconds: float, workers: int) -> subprocess.Popen:
  """Starts a run that has no end of its own."""
  command = [
    sys.executable, "-m", "big_contrastive.train", "--workdir", workdir,
    "--config", "configs/siglip.py:smoke", "--config.total=10_000_000",
    "--config.save_every=0", f"--config.save_minutes={save_seconds / 60}",
    "--config.log_every=50", "--config.eval_every=5000",
    f"--config.loading.workers={workers}",
  ]  # fmt: skip
  return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def watch(run: subprocess.Popen, minutes: float) -> np.ndarray:
  """Returns rows [seconds, MiB, descriptors, threads]."""
  began, rows = time.monotonic(), []
  while time.monotonic() - began < 60 * minutes and run.poll() is None:
    rows.append((time.monotonic() - began, *sample(run.pid)))
    time.sleep(_SAMPLE)
  return np.array(rows)


def judge(rows: np.ndarray, warmup: float) -> list[tuple[str, float, float]]:
  """Returns (name, growth an hour, what is allowed) after warm-up.

  Allowed is 2 % of the resident memory, or 20 MiB, over the time watched:
  less is the allocator's; and not one descriptor or thread.
  """
  late = rows[rows[:, 0] > warmup]
  hours = late[:, 0] / 3600
  watched = hours[-1] - hours[0]
  memory = max(20.0, 0.02 * float(np.median(late[:, 1]))) / watched
  names = [("resident MiB", memory), ("descriptors", 1.0), ("threads", 1.0)]
  return [
    (name, growth(hours, late[:, i + 1]), allowed)
    for i, (name, allowed) in enumerate(names)
  ]


def main() -> None:
  """Runs, prints a table and a verdict."""
  p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  p.add_argument("--minutes", type=float, default=30)
  p.add_argument("--save_seconds", type=float, default=20)
  p.add_argument("--workers", type=int, default=0, help="that make batches")
  flags = p.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    run = train(folder, flags.save_seconds, flags.workers)
    try:
      rows = watch(run, flags.minutes)
    finally:
      run.terminate()
      code = run.wait()
    saved = sorted(os.listdir(pathlib.Path(folder) / "checkpoints"), key=len)
  print(
    f"{'minute':>7} {'resident MiB':>13} {'descriptors':>12} {'threads':>8}"
  )
  for row in rows[:: max(1, len(rows) // 15)]:
    print(f"{row[0] / 60:7.1f} {row[1]:13.1f} {row[2]:12.0f} {row[3]:8.0f}")
  print(f"SIGTERM: exit code {code}; checkpoints left: {saved}")
  found = judge(rows, warmup=20 * flags.minutes)
  for name, slope, allowed in found:
    print(f"{name}: {slope:+.2f} an hour after warm-up (allowed {allowed:.1f})")
  level = code == 75 and all(slope <= allowed for _, slope, allowed in found)
  print("verdict: level" if level else "verdict: IT GROWS, or did not end well")
  sys.exit(not level)


if __name__ == "__main__":
  main()
