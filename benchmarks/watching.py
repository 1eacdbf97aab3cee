"""What watching a run costs the host: microseconds of CPU time a step.

  python -m benchmarks.watching [--rounds 5]

The loop's calls without a model: clock, traces, a line of ten figures, sinks.
Prints a Markdown table: medians over the rounds, of the main thread, which
dispatches the steps, and of all threads, which may keep it from that; and what
shares of a step of 50 ms they are. A sink without its library is left out.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time
import types

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.factory import parts
from big_contrastive.storage import mirror
from big_contrastive.training import watch
from big_contrastive.training.experiment import Begin

_STEP = 50e-3  # Seconds.
_LINES = 200
SINKS = {
  "metrics.jsonl": {},
  "tensorboard": {"tensorboard": {}},
  "wandb, offline": {"wandb": {"project": "x", "mode": "offline"}},
  "trackio": {"trackio": {"project": "x"}},
  "mlflow, files": {"mlflow": {}},
}


def run(folder: pathlib.Path, sinks: dict, every: int) -> tuple[float, float]:
  """Returns seconds a step of CPU time: the main thread's, all threads'."""
  steps = every * _LINES
  experiment = types.SimpleNamespace(
    sinks={name: parts.sink(s, name, used=True) for name, s in sinks.items()},
    intervals=types.SimpleNamespace(total=steps),
    config={}, window=None, batch_size=1, flops=1.0,
  )  # fmt: skip
  watched = watch.Watch(experiment, mirror.Here(folder), Begin(0))
  values = {f"train/{i}": float(i) for i in range(10)}
  result = jax.block_until_ready(jnp.zeros(3, bool))
  time.sleep(2)  # Until they have begun.
  before = time.thread_time(), time.process_time()
  for step in range(1, steps + 1):
    if watched.tracer.over(step - 1) or watched.tracer.due(step):
      raise AssertionError
    with watched.clock.waiting():
      pass
    with watched.stepping(step):
      pass
    watched.clock.device.give(result)
    if step % every == 0:
      watched.record(step, values | watched.perf())
  main = time.thread_time() - before[0]
  watched.close()
  return main / steps, (time.process_time() - before[1]) / steps


def main() -> None:
  p = argparse.ArgumentParser(description=__doc__)
  p.add_argument("--rounds", type=int, default=5)
  rounds = p.parse_args().rounds
  print(
    "| sink | a line every | main thread | all "
    "| of a step of 50 ms: main thread, all |"
  )
  print("|---|---|---|---|---|")
  with tempfile.TemporaryDirectory() as home:
    os.environ |= {
      "TRACKIO_DIR": f"{home}/trackio",
      "MLFLOW_TRACKING_URI": f"file://{home}/mlflow",
      "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    for name, sinks in SINKS.items():
      for every in (50, 1):
        try:
          found = [
            run(pathlib.Path(tempfile.mkdtemp(dir=home)), sinks, every)
            for _ in range(rounds)
          ]
        except errors.UserError:
          continue
        own, whole = (statistics.median(x) for x in zip(*found, strict=True))
        print(
          f"| {name} | {every} | {1e6 * own:,.0f} | {1e6 * whole:,.0f} | "
          f"{own / _STEP:.2%}, {whole / _STEP:.2%} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
  main()
