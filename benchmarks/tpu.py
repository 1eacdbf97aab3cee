"""Compiles for TPU pods without one: bytes a chip, and what overlaps.

  python -m benchmarks.tpu loss [--topologies v5e:4x4 ...]
  python -m benchmarks.tpu step
  python -m benchmarks.tpu attention [--lengths 196 729] [--heads 16x72]

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
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import AxisType, SingleDeviceSharding

from benchmarks import loss as losses
from benchmarks import step as whole_step
from big_contrastive import plan
from big_contrastive.models import attention
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


def by_splash(query, key, value):
  """Attention by JAX's Pallas kernel "splash", in blocks of 128 tokens."""
  length, heads, width = query.shape[1:]
  rows = -length % 128 + length
  full = splash.FullMask((rows, rows))
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([full] * heads), head_shards=1, q_seq_shards=1
  )
  real = (jnp.arange(rows) >= length).astype(jnp.int32)
  ids = splash.SegmentIds(real, real) if rows > length else None
  inputs = _heads_first(query * width**-0.5, key, value, rows=rows)
  y = jax.vmap(lambda *x: kernel(*x, segment_ids=ids))(*inputs)
  return jnp.swapaxes(y, 1, 2)[:, :length]


def by_flash(query, key, value):
  """Attention by JAX's Pallas kernel "flash", in blocks of 128 tokens."""
  size, length, _, width = query.shape
  rows = -length % 128 + length
  real = (jnp.arange(rows) >= length).astype(jnp.int32)
  real = jnp.broadcast_to(real, (size, rows))
  y = flash.flash_attention(
    *_heads_first(query, key, value, rows=rows),
    segment_ids=flash.SegmentIds(real, real), sm_scale=width**-0.5,
  )  # fmt: skip
  return jnp.swapaxes(y, 1, 2)[:, :length]


def _heads_first(*arrays, rows):
  """[b, l, h, k] to [b, h, rows, k], with zeros."""
  for x in arrays:
    more = ((0, 0), (0, rows - x.shape[1]), (0, 0), (0, 0))
    yield jnp.swapaxes(jnp.pad(x, more), 1, 2)


KERNELS = {"einsum": attention.attend, "splash": by_splash, "flash": by_flash}


def compile_attention(name, device, size, length, heads, width):
  """Returns the gradients of attention of a sequence to itself, compiled."""

  def total(*x):
    return (KERNELS[name](*x).astype(jnp.float32) ** 2).sum()

  x = jax.ShapeDtypeStruct(
    (size, length, heads, width), jnp.bfloat16,
    sharding=SingleDeviceSharding(device),
  )  # fmt: skip
  return jax.jit(jax.grad(total, (0, 1, 2))).lower(x, x, x).compile()


def attention_table(flags):
  """Prints a Markdown table of ways to compute attention."""
  heads, width = map(int, flags.heads.split("x"))
  print(f"jax {jax.__version__}, libtpu {libtpu_version()}, {flags.images} "
        f"sequences a chip, {heads} heads of {width} features, bfloat16, "
        "gradients of attention: MiB at the peak, MiB accessed\n")  # fmt: skip
  print(f"| topology | tokens | {' | '.join(KERNELS)} |")
  print("|---|---|---|---|---|")
  for topology in flags.topologies:
    device = mesh_of(topology).devices.flat[0]
    for length in flags.lengths:
      cells = [topology, f"{length:,}"]
      for name in KERNELS:
        made = compile_attention(
          name, device, flags.images, length, heads, width
        )
        peak = made.memory_analysis().peak_memory_in_bytes / MIB
        accessed = made.cost_analysis()["bytes accessed"] / MIB
        cells.append(f"{peak:,.0f}; {accessed:,.0f}")
      print(f"| {' | '.join(cells)} |", flush=True)


def libtpu_version():
  """Returns the version of the compiler."""
  import libtpu

  return libtpu.__version__


def main():
  """Prints the table that the first argument names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("table", choices=["loss", "step", "attention"])
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
  lengths = [196, 256, 576, 729, 1024]
  parser.add_argument("--lengths", type=int, nargs="+", default=lengths)
  parser.add_argument("--heads", default="12x64", help="heads x features")
  parser.add_argument("--images", type=int, default=32, help="sequences a chip")
  flags = parser.parse_args()
  tables = {"loss": loss_table, "step": step_table}
  (tables | {"attention": attention_table})[flags.table](flags)


if __name__ == "__main__":
  main()
