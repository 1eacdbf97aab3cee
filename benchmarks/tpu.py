"""Compiles for TPU pods without one: bytes a chip, and what overlaps.

  python -m benchmarks.tpu loss [--topologies v5e:4x4 ...]
  python -m benchmarks.tpu step

Needs libtpu (pip install -e '.[tpu]'), no TPU. Peak bytes are the compiler's;
what does not fit is its error. Times are not claimed: nothing is run.
"""

import argparse
import os
import re

# Only the compiler of libtpu is used.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType

from benchmarks import loss as losses
from benchmarks import step as whole_step
from big_contrastive import plan
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import step

MIB = 2**20


def mesh_of(topology, fsdp=1):
  """Returns the mesh over all devices of a topology such as "v5e:4x4"."""
  found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  if not topology.startswith("v4:"):
    return sharding.make_mesh(fsdp=fsdp, devices=found.devices)
  # libtpu describes a v4 chip as two cores, which jax.make_mesh refuses.
  devices = np.array(found.devices).reshape(-1, fsdp, 1)
  names = ("data", "fsdp", "tensor")
  return jax.sharding.Mesh(devices, names, axis_types=(AxisType.Auto,) * 3)


def compile_loss(kind, mesh, size, d, dtype, name):
  """Returns value and all gradients of a loss, compiled."""
  f = losses.value_and_grad(kind, name, mesh)
  z = jax.ShapeDtypeStruct((size, d), dtype, sharding=sharding.batch(mesh))
  one = jax.ShapeDtypeStruct(
    (), jnp.float32, sharding=sharding.replicated(mesh)
  )
  return jax.jit(f).lower(z, z, one, one).compile()


def overlap(text):
  """Returns how the permutes of the ring's loops are scheduled.

  "3 of 3 async, over 2 loops": of all permutes in loop bodies those that are
  started, then followed by an inner loop or a fusion with a matrix product,
  then waited for; "sync" are those that the compiler doesn't split.
  """
  body, started, over, alone = [], {}, 0, 0
  total = 0
  for line in text.splitlines():
    name = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not name:
      body, started = [], {}
      continue
    if re.search(r" collective-permute\(", line):
      total += 1
      alone += 1
    elif " collective-permute-start(" in line:
      total += 1
      started[name.group(1)] = len(body)
    elif " collective-permute-done(" in line:
      of = re.search(r"done\(.*?%?([\w.\-]+)\)", line).group(1)
      between = body[started.pop(of) :]
      over += any(
        " while(" in x or "convolution" in x or " dot(" in x for x in between
      )
    body.append(line)
  return f"{over} of {total} over compute, {alone} sync"


def loss_table(flags):
  """Prints a Markdown table of both losses."""
  print(f"jax {jax.__version__}, libtpu {libtpu_version()}, d = {flags.dim}, "
        f"{flags.dtype}, value and all gradients\n")  # fmt: skip
  print("| topology | chips | B | loss | peak MiB a chip | permutes |")
  print("|---|---|---|---|---|---|")
  for topology in flags.topologies:
    mesh = mesh_of(topology)
    for size in flags.sizes:
      for kind in ("sigmoid", "softmax"):
        for which in (losses.OURS, "gathered strips"):
          name = f"{kind}, {which}"
          try:
            made = compile_loss(kind, mesh, size, flags.dim, flags.dtype, which)
          except jax.errors.JaxRuntimeError as error:
            print(f"| {topology} | {mesh.size} | {size:,} | {name} "
                  f"| {too_large(error)} | |", flush=True)  # fmt: skip
            continue
          peak = made.memory_analysis().peak_memory_in_bytes / MIB
          how = "" if which != losses.OURS else overlap(made.as_text())
          print(f"| {topology} | {mesh.size} | {size:,} | {name} | {peak:,.0f} "
                f"| {how} |", flush=True)  # fmt: skip


def too_large(error):
  """Returns what the compiler says that it needs, or raises its error."""
  found = plan.too_large(error)
  if found is None:
    raise error
  return f"needs {found[0]} of {found[1]}"


def compile_step(mesh, size, micro, remat, loss="sigmoid"):
  """Returns a whole SigLIP B/16-224 step in bfloat16, compiled."""
  made, _ = whole_step.recipe(
    mesh, "B/16", size, dtype="bfloat16", remat=remat, micro_batch=micro,
    loss=loss,
  )  # fmt: skip
  placed = step.place(made, mesh, placement.EVERYTHING)
  batch = whole_step.shapes(size, mesh)
  return placed.update.lower(placed.abstract, batch).compile()


def step_table(flags):
  """Prints a Markdown table of whole steps, batch and micro-batch."""
  print(f"jax {jax.__version__}, libtpu {libtpu_version()}, SigLIP B/16 at "
        "224, 64 tokens, bfloat16, AdamW\n")  # fmt: skip
  print("| topology | fsdp | batch | micro-batch | remat | peak GiB a device |")
  print("|---|---|---|---|---|---|")
  for case in flags.cases:
    topology, fsdp, size, micro, remat = case.split(",")
    size, micro, mesh = int(size), int(micro), mesh_of(topology, int(fsdp))
    try:
      made = compile_step(mesh, size, micro, remat)
      peak = made.memory_analysis().peak_memory_in_bytes / 2**30
      said = f"{peak:.2f}"
    except jax.errors.JaxRuntimeError as error:
      said = too_large(error)
    print(f"| {topology} | {fsdp} | {size:,} | {micro:,} | {remat} | {said} |",
          flush=True)  # fmt: skip


def libtpu_version():
  """Returns the version of the compiler."""
  import libtpu

  return libtpu.__version__


def main():
  """Prints the table that the first argument names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("table", choices=["loss", "step"])
  topologies = ["v5e:4x4", "v5p:4x4x4", "v6e:16x16"]
  parser.add_argument("--topologies", nargs="+", default=topologies)
  sizes = [32768, 262144, 1048576]
  parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
  parser.add_argument("--dim", type=int, default=768)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--cases", nargs="+",
    default=[
      *(f"v4:2x2x1,8,{b},{b},nothing_saveable" for b in (4096, 8192, 16384)),
      "v4:2x2x1,8,32768,4096,nothing_saveable",
      "v5e:16x16,1,32768,32768,nothing_saveable",
      "v5e:16x16,1,1048576,32768,nothing_saveable",
    ],
    help="topology,fsdp,batch,micro-batch,remat",
  )  # fmt: skip
  flags = parser.parse_args()
  {"loss": loss_table, "step": step_table}[flags.table](flags)


if __name__ == "__main__":
  main()
