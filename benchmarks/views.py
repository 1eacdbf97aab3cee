"""Memory, FLOPs and time of losses between views, beside dense ones.

  python -m benchmarks.views [--batch 4096] [--queue 65536] [--rounds 5]

Bytes and FLOPs are of the compiled plans, times of one device, as in
benchmarks/loss.py.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import baselines, hlo, loss
from big_contrastive.config import registry
from big_contrastive.objectives import _base
from big_contrastive.parallel import sharding

# Which losses between views, and whether their second argument has a gradient.
VIEWS = {
  "nt_xent": ("nt_xent", True),
  "info_nce": ("info_nce", False),
  "info_nce, keys too": ("info_nce", True),
  "queue": ("queue", False),
}


def value_and_grad(kind, name, mesh):
  """Returns (z1, z2, [queue], scale) -> value and gradients; kind: of VIEWS."""
  file, both = VIEWS[kind]
  own = registry.module("losses.instance", file, "").loss
  chosen = own if name == loss.OURS else baselines.DENSE_VIEWS[file]

  def run(*arrays):
    *arrays, scale = arrays

    def local(*arrays, axis):
      *arrays, scale = arrays
      return chosen(*arrays, scale=scale, axis=axis)

    specs = {len(arrays): jax.sharding.PartitionSpec()}
    return _base.on_ring(local, mesh, specs)(*arrays, scale)

  return jax.value_and_grad(run, argnums=(0, 1) if both else 0)


def shapes(kind, flags) -> list:
  """Returns the shapes of the arrays of a loss between views."""
  z = (flags.batch, flags.dim)
  return [z, z, (flags.queue, z[1])] if VIEWS[kind][0] == "queue" else [z, z]


def plan(kind, name, mesh, flags):
  """Returns value and gradients of a loss between views, compiled."""
  rows, everywhere = sharding.batch(mesh), sharding.replicated(mesh)
  arrays = [
    jax.ShapeDtypeStruct(shape, flags.dtype, sharding=rows)
    for shape in shapes(kind, flags)
  ]
  one = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
  f = value_and_grad(kind, name, mesh)
  return jax.jit(f).lower(*arrays, one).compile()


def table(flags) -> None:
  """Prints Markdown tables of the losses between views, beside dense ones."""
  print(
    f"jax {jax.__version__}, {jax.devices()[0].device_kind}, B = "
    f"{flags.batch:,}, K = {flags.queue:,}, d = {flags.dim}, "
    f"{flags.dtype}, value and gradients; time of one device, "
    f"{flags.rounds} interleaved rounds\n"
  )
  print("| loss | devices | implementation | temporary MiB a device | "
        "GFLOPs a device | ms | time relative to dense |")  # fmt: skip
  print("|---" * 7 + "|")
  for kind in VIEWS:
    for n in sorted({n for n in flags.devices if n <= jax.device_count()}):
      mesh = sharding.make_mesh(devices=jax.devices()[:n])
      plans = {x: plan(kind, x, mesh, flags) for x in ("dense", loss.OURS)}
      seconds = times(kind, plans, mesh, flags) if n == 1 else {}
      for name, made in plans.items():
        temporary = made.memory_analysis().temp_size_in_bytes / loss.MIB
        flops = hlo.dot_flops(made.as_text()) / 1e9
        cells = "| | |"
        if seconds:
          median = statistics.median(seconds[name]) * 1e3
          ratio = loss.relative(seconds[name], seconds["dense"])
          cells = f"| {median:,.0f} | {ratio:.2f} |"
        print(f"| {kind} | {n} | {name} | {temporary:,.1f} | {flops:,.1f} "
              f"{cells}", flush=True)  # fmt: skip


def times(kind, plans, mesh, flags) -> dict:
  """Returns seconds of each round of compiled plans, on random unit vectors."""
  r = np.random.default_rng(0)
  arrays = []
  for shape in shapes(kind, flags):
    z = r.normal(size=shape)
    z = jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True))
    arrays.append(jax.device_put(z.astype(flags.dtype),
                                 sharding.batch(mesh)))  # fmt: skip
  scale = jax.device_put(jnp.float32(10), sharding.replicated(mesh))
  runs = {n: functools.partial(p, *arrays, scale) for n, p in plans.items()}
  return loss.interleaved(runs, flags.rounds)


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
  parser.add_argument("--dim", type=int, default=512)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--batch", type=int, default=4096)
  parser.add_argument("--queue", type=int, default=65536)
  parser.add_argument("--rounds", type=int, default=5)
  flags = parser.parse_args()
  # Before anything asks for a backend; other backends have what they have.
  jax.config.update("jax_num_cpu_devices", max(flags.devices))
  table(flags)


if __name__ == "__main__":
  main()
