"""Kills runs at random moments and resumes them, until they are through.

  python tests/checkpoints/killing.py --kills 20 --signal KILL --out DIR

trains a smoke config once whole and once killed so many times, and says
whether both wrote the same figures and the same parameters, bit for bit.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

from big_contrastive.storage import urls

ROOT = pathlib.Path(__file__).parents[2]
SAVE_EVERY = 5
SIGLIP = (
  "--config", "configs/siglip.py:smoke", "--config.model.dtype=float32",
  "--config.optimizer.eps=1e-4",
)  # fmt: skip
# A teacher, a queue, and batch norms in the tower.
MOCO = ("--config", "tests/moco_with_norms.py")


def start(
  workdir, processes, devices, *flags, launcher=(), config=SIGLIP, log=None
):
  """Starts training; returns the process of it or of its launcher.

  What it says is in log, by default beside the workdir.
  """
  path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": path}
  if compiled := environment.get("JAX_COMPILATION_CACHE_DIR"):
    # Killed while it writes there, it may leave half a file.
    environment["JAX_COMPILATION_CACHE_DIR"] = f"{compiled}-killed"
  arguments = [
    *config, "--workdir", str(workdir), f"--config.save_every={SAVE_EVERY}",
    *flags,
  ]  # fmt: skip
  if processes > 1:
    command = [f"{ROOT}/launch/local.sh", *launcher]
    command += ["-n", processes, "-m", devices]
  else:
    environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "PJRT_NPROC": "16"}
    command = [sys.executable, "-m", "big_contrastive.train"]
  log = log or workdir.parent / f"{workdir.name}.err"
  with log.open("a") as err:
    return subprocess.Popen(
      [*map(str, command), *arguments], env=environment, cwd=ROOT, stderr=err
    )


def train(workdir, processes, devices, *flags, config=SIGLIP):
  """Trains to the end."""
  run = start(workdir, processes, devices, *flags, config=config)
  code = run.wait(timeout=900)
  assert code == 0, (code, said(workdir))


def said(workdir):
  """The end of what its runs wrote to standard error."""
  return (workdir.parent / f"{workdir.name}.err").read_text()[-3000:]


def lines(workdir, begin=1):
  """Rows of metrics.jsonl from a step on, without speeds."""
  path = workdir / "metrics.jsonl"
  # In a bucket, a run may put a newer one there while it is read.
  text = urls.patiently(path.read_text, path) if path.exists() else ""
  rows = [json.loads(line) for line in text.splitlines() if line[-1:] == "}"]
  return [
    {k: v for k, v in row.items() if not k.startswith("perf/")}
    for row in rows if row["step"] >= begin
  ]  # fmt: skip


def arrays(workdir):
  """Parameters of the newest checkpoint by flat name."""
  from big_contrastive.checkpoints import checkpointer, find
  from big_contrastive.config import rules

  folder = find.find(str(workdir), "workdir")
  return rules.flatten(checkpointer.read_exported(folder))


def assert_same_bits(a, b):
  assert lines(a) == lines(b)
  assert len({(r["step"], *r) for r in lines(b)}) == len(lines(b))
  ours, theirs = arrays(a), arrays(b)
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def workers(run):
  """Process ids that train, those of a launcher's children included."""
  listed = subprocess.run(
    ["ps", "-o", "pid=,args=", "--ppid", str(run.pid)],
    capture_output=True, text=True, check=False,
  ).stdout.splitlines()  # fmt: skip
  pids = [int(x.split()[0]) for x in listed if "big_contrastive.train" in x]
  return pids or [run.pid]


def saving(workdir):
  return [*(workdir / "checkpoints").glob("*.saving*")]


def last(workdir):
  """The last step that was told."""
  return max((row["step"] for row in lines(workdir)), default=0)


def begun(workdir, since):
  """Whether a run that started then has taken back what was not saved."""
  file = workdir / "config.json"
  return file.exists() and file.stat().st_mtime > since


def wait_until(run, happened, seconds=600):
  end = time.monotonic() + seconds
  while run.poll() is None and time.monotonic() < end and not happened():
    time.sleep(0.002)


def kill_once(run, workdir, number, sent, rng):
  """Kills at any moment, or after some new steps, or in a save after them.

  Returns what it was: whether something was half saved, and the last step.
  """
  since = time.time()
  if run.args[0] != sys.executable:  # Who kills a launcher kills no worker.
    wait_until(run, lambda: workers(run) != [run.pid])
  if number % 3 == 0:
    # But not so late, on a fast machine, that nothing is left to kill.
    until = time.monotonic() + rng.uniform(0, 12)
    most = last(workdir) + 5 * SAVE_EVERY
    wait_until(run, lambda: time.monotonic() > until or last(workdir) > most)
  else:
    wait_until(run, lambda: begun(workdir, since))
    wanted = last(workdir) + rng.randint(1, 4 * SAVE_EVERY)
    wait_until(run, lambda: last(workdir) >= wanted)
    time.sleep(rng.uniform(0, 0.3))
  if number % 3 == 2:
    wait_until(run, lambda: saving(workdir))
    time.sleep(rng.uniform(0, 0.05))
  os.kill(rng.choice(workers(run)), sent)
  code = run.wait(timeout=900)
  return bool(saving(workdir)), last(workdir), code


def kill_and_resume(workdir, kills, processes, sent, seed, *flags):
  """Returns (in a save, last step, exit code) of each kill; then all is done.

  Ends early when the run does.
  """
  rng, found = random.Random(seed), []
  for number in range(kills):
    run = start(workdir, processes, 1, *flags)
    found.append(kill_once(run, workdir, number, sent, rng))
    if found[-1][2] == 0:
      return found[:-1]
  train(workdir, processes, 1, *flags)
  return found


def main():
  p = argparse.ArgumentParser(description=__doc__)
  p.add_argument("--kills", type=int, default=20)
  p.add_argument("--processes", type=int, default=1)
  p.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
  p.add_argument("--steps", type=int, default=2000)
  p.add_argument("--seed", type=int, default=0)
  told = "that make the batches of the killed run, in place of threads"
  p.add_argument("--workers", type=int, default=0, help=told)
  p.add_argument("--out", type=pathlib.Path, required=True)
  f = p.parse_args()
  f.out.mkdir(parents=True)
  flags = [f"--config.total={f.steps}", f"--config.eval_every={f.steps // 4}"]
  train(f.out / "whole", f.processes, 1, *flags)
  found = kill_and_resume(
    f.out / "killed", f.kills, f.processes, signal.Signals[f"SIG{f.signal}"],
    f.seed, *flags, f"--config.loading.workers={f.workers}",
  )  # fmt: skip
  for half, step, code in found:
    print(f"after step {step}, half a save left: {half}, exit code {code}")
  assert_same_bits(f.out / "whole", f.out / "killed")
  inside = sum(half for half, _, _ in found)
  print(
    f"{len(found)} x SIG{f.signal} on {f.processes} processes, {inside} of "
    "them in a save: metrics.jsonl and parameters are bit-identical"
  )


if __name__ == "__main__":
  main()
