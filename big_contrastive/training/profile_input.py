"""Measures whether the input or the device is a run's bottleneck."""

import dataclasses
import time
from typing import Any

import jax

from big_contrastive.parallel import sharding
from big_contrastive.training.experiment import Experiment


def measure(
  experiment: Experiment, steps: int = 20, first: int = 0
) -> dict[str, float]:
  """Returns batches per second of the input alone and of the device alone.

  The input makes batches that no step uses; the device trains on the same
  batch again and again. Both are warmed up first. Nothing is saved.

  Args:
    experiment: from experiment.build.
    steps: timed batches, and timed training steps.
    first: the step whose program and whose views are measured.
  """
  mesh, size = experiment.placed.mesh, experiment.batch_size

  def put(local: dict[str, Any]) -> dict[str, jax.Array]:
    return sharding.to_global(local, size, mesh)

  # Batches that were prefetched before the clock started must not count.
  training, update = experiment.training, experiment.placed.at(first)
  warm = 2 + training.ahead
  fixed = dataclasses.replace(training, examples=training.examples.at(first))
  batches = fixed.batches(0, 2 * warm + steps, put)
  batch = [next(batches) for _ in range(warm)][-1]
  began = time.perf_counter()
  for _ in range(steps):
    batch = next(batches)
  jax.block_until_ready(batch)
  input_rate = steps / (time.perf_counter() - began)
  batches.close()  # Its threads stop, too.
  state = experiment.placed.init()
  for _ in range(2):  # The first one compiles.
    state, values = update(state, batch)
  jax.block_until_ready(values)
  began = time.perf_counter()
  for _ in range(steps):
    state, values = update(state, batch)
  jax.block_until_ready((state, values))
  device_rate = steps / (time.perf_counter() - began)
  return {"input": input_rate, "device": device_rate}


def verdict(rates: dict[str, float], batch_size: int) -> str:
  """Returns the lines that `train --profile-input` prints.

  Args:
    rates: from `measure`.
    batch_size: images a batch.
  """
  lines = [
    f"{name:7} alone {rate * batch_size:12,.1f} images/s"
    for name, rate in rates.items()
  ]
  ratio = rates["input"] / rates["device"]
  if ratio < 1:
    waiting = f"the device would wait {1 - ratio:.0%} of the time"
    remedy = (
      "Raise config.loading.threads or .workers, use smaller files or "
      "cheaper preprocessing."
    )
    return "\n".join(
      [*lines, f"The input is the bottleneck: {waiting}. {remedy}"]
    )
  reserve = f"the input could feed {ratio:.1f} times as fast a one"
  return "\n".join([*lines, f"The device is the bottleneck: {reserve}."])
