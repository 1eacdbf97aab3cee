"""Compiles a config's step and tells memory and time; trains nothing.

  python -m big_contrastive.plan --config configs/siglip.py:smoke
  python -m big_contrastive.plan --config configs/siglip.py:data=... \\
    --topology v5e:16x16 --config.batch_size=1048576 --config.micro_batch=32768

--topology is a TPU slice as libtpu names it, v5e:4x4, v5p:4x4x4, v6e:16x16: its
compiler is asked (pip install 'jax[tpu]'), no TPU is needed. Without it the
plan is for the devices of this machine. Bytes are the compiler's; times are
what the model's FLOPs take at a device's peak: no run is faster.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive import signals

  signals.end_at_once()

import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from big_contrastive import (
  command,
  errors,
  experiment,
  metrics,
  sharding,
  tree,
)

_GIB = 2**30

# How compilers say that a program does not fit.
_TOO_LARGE = (
  r"[Uu]sed ([\d.]+\w) of ([\d.]+\w) hbm",
  r"temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)",
)


def run() -> None:
  """Parses the flags, compiles and prints."""
  parser = command.parser(__doc__)
  parser.add_argument("--config", required=True, help="FILE.py[:ARGUMENT]")
  parser.add_argument("--topology", help="a TPU slice: v5e:4x4")
  flags, overrides = parser.parse_known_args()
  config = command.load_config(flags.config, overrides)
  command.start(flags.distributed)
  devices = slice_of(flags.topology) if flags.topology else jax.devices()
  for line in plan(experiment.build(config, devices), devices):
    print(line)


def slice_of(topology: str) -> Sequence[jax.Device]:
  """Returns the devices of a TPU slice, to compile for.

  Raises:
    UserError: where libtpu is missing, or knows no such slice.
  """
  # Only libtpu's compiler is used: it must not look for its machine.
  jax.config.update("jax_platforms", "cpu")
  for variable, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    os.environ.setdefault(variable, value)
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except Exception as e:  # libtpu's, of no common kind.
    first = next(iter(str(e).strip().splitlines()), type(e).__name__)
    raise errors.UserError(
      "--topology", topology,
      "a TPU slice that libtpu knows: v5e:4x4, v5p:4x4x4, v6e:16x16",
      f"pip install 'jax[tpu]', if it is missing. It says: {first[:200]}",
    ) from e  # fmt: skip
  return found.devices


def plan(
  made: experiment.Experiment, devices: Sequence[jax.Device]
) -> list[str]:
  """Returns lines about a step: parameters, memory, FLOPs, least time.

  Args:
    made: from experiment.build, for these devices.
    devices: all of the mesh.

  Raises:
    UserError: where the step does not fit into the devices' memory.
  """
  memory = compile_step(made).memory_analysis()
  placed, size = made.placed, made.batch_size
  n = sharding.ring_size(placed.mesh)
  shapes = tree.flatten(placed.abstract.params)
  count = sum(int(np.prod(x.shape)) for x in shapes.values())
  mesh = " x ".join(f"{k} {v}" for k, v in placed.mesh.shape.items())
  kind = devices[0].device_kind
  lines = [
    f"devices     {len(devices)} x {kind}, mesh {mesh}",
    f"parameters  {count:,}",
    f"batch       {size:,} pairs, {size // n:,} a device",
    f"state       {_state_bytes(placed) / _GIB:.2f} GiB a device",
    f"peak        {memory.peak_memory_in_bytes / _GIB:.2f} GiB a device in a "
    "step" + ": it fits" * (devices[0].platform != "cpu"),
    f"FLOPs       {made.flops * size:.3g} a step, of the model",
  ]
  peak = metrics.peak_flops(kind)
  if peak:
    seconds = made.flops * size / (peak * len(devices))
    lines.append(
      f"time        {seconds:.3g} s a step at the devices' peak of "
      f"{peak / 1e12:.0f} TFLOP/s, {size / seconds:,.0f} images/s: no run is "
      "faster; at 50 % MFU it takes twice as long"
    )
  return lines


def compile_step(made: experiment.Experiment) -> Any:
  """Returns the compiled step.

  Raises:
    UserError: where it does not fit into the devices' memory.
  """
  size, where = made.batch_size, sharding.batch(made.placed.mesh)
  example = made.training.examples(0, np.random.default_rng(0))
  batch = {
    k: jax.ShapeDtypeStruct((size, *np.shape(v)), v.dtype, sharding=where)
    for k, v in example.items()
    if k not in ("bad", "index")
  }
  try:
    return made.placed.update.lower(made.placed.abstract, batch).compile()
  except jax.errors.JaxRuntimeError as e:
    if told := _too_large(e, size):
      raise told from e
    raise


def _too_large(e: Exception, size: int) -> errors.UserError | None:
  for form in _TOO_LARGE:
    if found := re.search(form, str(e)):
      needs, has = found.groups()
      return errors.UserError(
        "config.batch_size", size,
        f"what fits: a step needs {needs} of a device's {has}",
        errors.SMALLER,
      )  # fmt: skip
  return None


def _state_bytes(placed: Any) -> int:
  """Bytes of parameters and optimizer on one device."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
    for x in jax.tree.leaves(placed.abstract)
  )


if __name__ == "__main__":
  command.main(run)
