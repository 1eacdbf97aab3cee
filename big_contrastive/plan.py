"""Compiles a config's step and evaluation, and prints memory and time.

  python -m big_contrastive.plan --config configs/siglip.py:smoke
  python -m big_contrastive.plan --config configs/siglip.py:data=... \\
    --topology v5e:16x16 --config.batch_size=1048576 --config.micro_batch=32768

--topology names a TPU slice as libtpu does: v5e:4x4, v5p:4x4x4, v6e:16x16;
--slices=2 takes two of them and says what goes from one to the other. Its
compiler runs here (pip install 'jax[tpu]'); no TPU is needed. Without the flag,
the plan is for the devices of this machine. Bytes are the compiler's. The time
is a lower bound: the model's FLOPs at the peak of the devices. No data set and
no weights are needed, and no vocabulary if its size is known.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_contrastive.config import errors, files, rules
from big_contrastive.factory import cli, experiment, reading
from big_contrastive.parallel import dcn, sharding, topology
from big_contrastive.training import flops
from big_contrastive.training.experiment import Experiment

# What compilers say if a program does not fit.
_TOO_LARGE = (
  r"[Uu]sed ([\d.]+\w) of ([\d.]+\w) hbm",
  r"temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)",
)


def run() -> None:
  """Parses the flags, compiles and prints the plan."""
  parser = cli.parser(__doc__)
  parser.add_argument("--config", required=True, help="as in train")
  parser.add_argument("--topology", help="a TPU slice: v5e:4x4")
  parser.add_argument("--slices", type=int, help="of that topology (1)")
  flags, overrides = parser.parse_known_args()
  if flags.slices is not None:
    cli.require(flags, topology="a TPU slice, for --slices of them")
  config = files.load_config(flags.config, overrides)
  cli.start(flags.distributed)
  devices = jax.devices()
  if flags.topology:
    slices = 1 if flags.slices is None else flags.slices
    devices = topology.devices(flags.topology, slices)
  for line in plan(config, devices):
    print(line)


def plan(config: dict[str, Any], devices: Sequence[jax.Device]) -> list[str]:
  """Returns lines about a step: parameters, memory, FLOPs, shortest time.

  Args:
    config: as `experiment.build` takes it.
    devices: all of the mesh.

  Raises:
    UserError: for a wrong config, or if a step or an evaluation does not fit
      into the devices' memory.
  """
  shapes_alone = reading.Shapes(config)
  built = experiment.build(
    reading.without_epochs(config), devices, shapes_alone
  )
  assumed = [f"assumed     {note}" for note in shapes_alone.notes]
  if "record" in built.objective.fields:
    assumed.append("assumed     data of one record: a bank has a row for each")
  step = compile_step(built)
  return [
    *_memory(built, step, devices), *_time(built, devices),
    *_between_slices(step, devices), *assumed,
  ]  # fmt: skip


def _memory(
  built: Experiment, step: jax.stages.Compiled, devices: Sequence[jax.Device]
) -> list[str]:
  placed, size = built.placed, built.batch_size
  n = sharding.ring_size(placed.mesh)
  shapes = rules.flatten(placed.abstract.params)
  count = sum(int(np.prod(x.shape)) for x in shapes.values())
  mesh = " x ".join(f"{k} {v}" for k, v in placed.mesh.shape.items())
  platform = devices[0].platform
  fits = ": it fits" * (platform != "cpu")
  lines = [
    f"devices     {len(devices)} x {devices[0].device_kind}, mesh {mesh}",
    f"parameters  {count:,}",
    f"batch       {size:,} pairs, {size // n:,} a device",
    f"state       {readable(_state_bytes(placed))} a device",
    f"peak        {_peak(step, platform)} a device in a step{fits}",
  ]
  if built.evaluators:
    at_once = f"{built.embedder.batch_size:,}"
    for name, x in compile_evaluation(built).items():
      detail = f"a device with {at_once} {name} at a time{fits}"
      lines.append(f"evaluation  {_peak(x, platform)} {detail}")
  return lines


def _time(built: Experiment, devices: Sequence[jax.Device]) -> list[str]:
  # Of the steps that most is on in.
  firsts = 0, *built.objective.switches
  work = max(map(built.flops, firsts)) * built.batch_size
  lines = [f"FLOPs       {work:.3g} a step, of the model"]
  peak = flops.peak_flops(devices[0].device_kind)
  if peak:
    seconds = work / (peak * len(devices))
    lines.append(
      f"time        {seconds:.3g} s a step at the devices' peak of "
      f"{peak / 1e12:.0f} TFLOP/s, {built.batch_size / seconds:,.0f} images/s: "
      "a lower bound; at 50 % MFU it takes twice as long"
    )
  return lines


def _between_slices(
  step: jax.stages.Compiled, devices: Sequence[jax.Device]
) -> list[str]:
  if len(sharding.slices(devices)) == 1:
    return []
  # Gradients leave at least: without any the text is of an unknown form.
  moved = dcn.leaving(step.as_text()) or {"all": None}
  known = {kind: size for kind, size in moved.items() if size is not None}
  kinds = [f"{kind} {readable(size)}" for kind, size in known.items()]
  kinds += [f"{kind} not counted" for kind in moved.keys() - known]
  total = readable(sum(known.values()))
  return [f"DCN         {total} leave a slice in a step: {', '.join(kinds)}"]


def compile_step(built: Experiment) -> jax.stages.Compiled:
  """Returns the compiled step: of several programs the largest.

  Raises:
    UserError: where it does not fit into the devices' memory.
  """
  size, where = built.batch_size, sharding.batch(built.placed.mesh)

  def batch(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *x.shape), x.dtype, sharding=where)

  placed, programs = built.placed, []
  for first in (0, *placed.later):
    arrays = jax.tree.map(batch, _example(built, first))
    lowered = placed.at(first).lower(placed.abstract, arrays)
    programs.append(_compiled(lowered, "a step", size))
  return max(programs, key=_bytes)


def compile_evaluation(
  built: Experiment,
) -> dict[str, jax.stages.Compiled]:
  """Returns the compiled functions that embed "images" and "texts".

  Raises:
    UserError: if it does not fit beside the state of training.
  """
  state = built.placed.abstract
  weights = built.weights(state)
  taken = {id(leaf) for leaf in jax.tree.leaves(weights)}
  others = jax.tree.leaves((state.params, state.extra))
  beside = state.opt, [leaf for leaf in others if id(leaf) not in taken]
  lowered = built.embedder.lower(weights, beside, _example(built))
  return {
    name: _compiled(x, f"evaluation of {name}", built.embedder.batch_size)
    for name, x in lowered.items()
  }


def _example(built: Experiment, step: int = 0) -> dict[str, Any]:
  """The fields of one example, as that step takes them."""
  make = built.training.examples.at(step)
  example = make(0, np.random.default_rng(0))
  return {k: v for k, v in example.items() if k not in ("bad", "index")}


def _compiled(
  lowered: jax.stages.Lowered, what: str, size: int
) -> jax.stages.Compiled:
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    if error := _too_large(e, what, size):
      raise error from e
    raise


def _too_large(e: Exception, what: str, size: int) -> errors.UserError | None:
  memory = too_large(e)
  if memory is None:
    return None
  needs, has = memory
  field = "batch_size" if what == "a step" else "micro_batch"
  allowed = f"what fits: {what} needs {needs} of a device's {has}"
  return errors.UserError(f"config.{field}", size, allowed, errors.SMALLER)


def too_large(e: Exception) -> tuple[str, str] | None:
  """Returns the memory a program needs and that a device has: "32G", "16G".

  None if the error is of another kind.
  """
  for form in _TOO_LARGE:
    if match := re.search(form, str(e)):
      return match[1], match[2]
  return None


def _peak(compiled: jax.stages.Compiled, platform: str) -> str:
  if platform != "cpu":
    return readable(compiled.memory_analysis().peak_memory_in_bytes)
  # The CPU backend's peak does not count temporaries.
  return readable(_bytes(compiled))


def _bytes(compiled: jax.stages.Compiled) -> int:
  """Bytes that a program holds, were its temporaries all alive at once."""
  m = compiled.memory_analysis()
  held = m.argument_size_in_bytes + m.temp_size_in_bytes
  return held + m.output_size_in_bytes - m.alias_size_in_bytes


def readable(size: int) -> str:
  """Returns a number of bytes with a unit: 512 B, 1.50 KiB, 2.00 MiB."""
  if size < 1024:
    return f"{size} B"
  amount, units = size / 1024, ["KiB", "MiB", "GiB", "TiB"]
  # As it is printed: 1023.999 would be 1024.00.
  while round(amount, 2) >= 1024 and len(units) > 1:
    amount, units = amount / 1024, units[1:]
  return f"{amount:.2f} {units[0]}"


def _state_bytes(placed: Any) -> int:
  """Bytes of parameters and optimizer on one device."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
    for x in jax.tree.leaves(placed.abstract)
  )


if __name__ == "__main__":
  cli.main(run)
