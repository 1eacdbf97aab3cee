"""The plan of a step: memory and time before anything is run."""

import importlib.util

import jax
import numpy as np
import pytest

import tiny
from big_contrastive import errors, experiment, plan, tree

NUMBER = r"([\d.,e+]+)"


def small(**mesh):
  config = tiny.load("siglip", "smoke")
  config["mesh"] = mesh
  return config


def test_the_state_is_the_parameters_and_two_moments():
  made = experiment.build(small(), jax.devices()[:1])
  shapes = tree.flatten(made.placed.abstract.params)
  count = sum(int(np.prod(x.shape)) for x in shapes.values())
  lines = plan.plan(made, jax.devices()[:1])
  assert any(line.split() == ["parameters", f"{count:,}"] for line in lines)
  # AdamW: the parameters, twice their moments, and a few counters.
  held = plan._state_bytes(made.placed)
  assert 12 * count <= held <= 12 * count + 64


def test_weights_that_are_split_take_less_of_a_device():
  whole = experiment.build(small(fsdp=1)).placed
  split = experiment.build(small(fsdp=8)).placed
  assert whole.mesh.size == split.mesh.size == 8
  assert plan._state_bytes(split) < plan._state_bytes(whole) / 6


def test_the_compiled_step_is_the_one_that_trains():
  """Its arguments are the state and the batch, byte by byte."""
  made = experiment.build(small(), jax.devices()[:1])
  batch = next(made.training.batches(0, 1))
  size = sum(x.nbytes for x in batch.values())
  memory = plan.compile_step(made).memory_analysis()
  held = plan._state_bytes(made.placed) + size
  assert memory.argument_size_in_bytes == held


@pytest.mark.parametrize(
  "said",
  [
    "Ran out of memory in memory space hbm. Used 32.19G of 15.75G hbm. Exceed",
    "temporaries (32.19G) exceeds available HBM (15.75G)",
  ],
)
def test_what_does_not_fit_is_said_in_one_line(said):
  error = plan._too_large(RuntimeError(said), 4096)
  for part in ("config.batch_size = 4096", "32.19G", "15.75G", "micro_batch"):
    assert part in str(error)
  assert plan._too_large(RuntimeError("INTERNAL: something else"), 1) is None


def test_a_slice_that_nobody_knows_is_an_error():
  with pytest.raises(errors.UserError, match="--topology = 'v5x:4x4'"):
    plan.slice_of("v5x:4x4")


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="no libtpu"
)
def test_a_pod_is_planned_without_one():
  devices = plan.slice_of("v5e:4x4")
  config = small() | {"batch_size": 64}
  lines = plan.plan(experiment.build(config, devices), devices)
  assert "16 x TPU v5 lite" in lines[0] and "it fits" in lines[4]
