"""Memory, FLOPs and time of the losses beside what others do.

  python -m benchmarks.loss memory [--devices 1 8] [--write]
  python -m benchmarks.loss time [--batch 8192] [--rounds 5]

`memory` compiles value and all gradients and reads the plan, so it takes no
memory and is exact; bytes a device beside arguments and results. FLOPs are
those of the matrix products of the optimized program, loops counted as often
as they run, over B b d. `time` runs one device in interleaved rounds: only the
ratios, medians over the rounds, travel. With --write the picture of `memory`
goes to docs. Losses between views of an image: benchmarks/views.py.
"""

import argparse
import functools
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import baselines, hlo
from big_contrastive.config import registry
from big_contrastive.objectives import _base
from big_contrastive.parallel import sharding

KINDS = ("sigmoid", "softmax")
OURS = "ours"
PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "loss_memory.png"
MIB = 2**20
# Loss memory that Inf-CL's paper prints (arXiv:2410.17243, table 1, 8 GPUs,
# ViT-L/14): global batch and GB.
INF_CL = {32768: 0.18, 65536: 0.36, 131072: 0.72, 262144: 1.45}


def value_and_grad(kind, name, mesh, tile=None):
  """Returns (zimg, ztxt, t, b) -> value and all gradients; tile: of ours."""
  if name == OURS:
    own = registry.module("losses", kind, "").loss
    local = functools.partial(own, tile=tile)
  else:
    run = functools.partial(baselines.BASELINES[name], kind)

    def local(zimg, ztxt, *, scale, bias, ids, axis):
      return run(zimg, ztxt, scale=scale, bias=bias, axis=axis)

  over_mesh = _base.over_mesh(local, mesh)
  if kind == "sigmoid":
    f = lambda z, y, t, b: over_mesh(z, y, t, b, None)  # noqa: E731
    return jax.value_and_grad(f, argnums=(0, 1, 2, 3))
  f = lambda z, y, t, b: over_mesh(z, y, t, None, None)  # noqa: E731
  return jax.value_and_grad(f, argnums=(0, 1, 2))


def plan(kind, name, mesh, size, d, dtype):
  """Returns temporary MiB and dot FLOPs a device."""
  where = sharding.batch(mesh)
  z = jax.ShapeDtypeStruct((size, d), dtype, sharding=where)
  scalar = jax.ShapeDtypeStruct((), jnp.float32)
  compiled = jax.jit(value_and_grad(kind, name, mesh)).lower(
    z, z, scalar, scalar
  ).compile()  # fmt: skip
  temporary = compiled.memory_analysis().temp_size_in_bytes / MIB
  return temporary, hlo.dot_flops(compiled.as_text())


def memory_table(flags) -> dict:
  """Prints two Markdown tables, returns temporary MiB by what was compiled."""
  found, flops = {}, {}
  names = (OURS, *baselines.BASELINES)
  print(
    f"jax {jax.__version__}, {jax.devices()[0].device_kind}, compiled plans\n\n"
    "Temporary MiB a device:\n"
  )
  print(f"| loss | devices | B | d | dtype | {' | '.join(names)} |")
  print("|---" * (5 + len(names)) + "|")
  cases = [
    (n, size, d, dtype)
    for n in flags.devices
    if n <= jax.device_count()
    for size in flags.sizes
    for d in flags.dims
    for dtype in flags.dtypes
    # The widths and dtypes once, at one batch: all laws are linear in them.
    if (d == 512 and dtype == "float32") or size == 16384
  ]
  for kind in KINDS:
    for n, size, d, dtype in cases:
      mesh = sharding.make_mesh(devices=jax.devices()[:n])
      cells = []
      for name in names:
        if name == "dense" and n > 1:
          cells.append("")  # As on one device, on each.
          continue
        temporary, counted = plan(kind, name, mesh, size, d, dtype)
        found[kind, n, size, d, dtype, name] = temporary
        cells.append(f"{temporary:,.1f}")
        if (size, d, dtype) == (16384, 512, "float32"):
          flops[kind, n, name] = counted / (size * (size // n) * d)
      print(
        f"| {kind} | {n} | {size:,} | {d} | {dtype} | {' | '.join(cells)} |",
        flush=True,
      )
  print("\nFLOPs of matrix products / B b d, B = 16,384, d = 512, float32:\n")
  print(f"| loss | devices | {' | '.join(names)} |")
  print("|---" * (2 + len(names)) + "|")
  for kind, n in dict.fromkeys(key[:2] for key in flops):
    row = [flops.get((kind, n, name)) for name in names]
    cells = ["" if x is None else f"{x:.2f}" for x in row]
    print(f"| {kind} | {n} | {' | '.join(cells)} |")
  return found


def picture(found: dict) -> None:
  """Draws memory against batch, ours and the others, Inf-CL's points."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
  n = max(k[1] for k in found)
  for axis, kind in zip(axes, KINDS, strict=True):
    for name in (OURS, *baselines.BASELINES):
      # The dense loss needs on each device what it needs on one.
      devices = 1 if name == "dense" else n
      points = sorted(
        (k[2], value) for k, value in found.items()
        if (k[0], k[1], *k[3:]) == (kind, devices, 512, "float32", name)
      )  # fmt: skip
      width = 2.5 if name == OURS else 1.2
      axis.loglog(*zip(*points, strict=True), "o-", label=name, lw=width)
    if kind == "softmax":
      published = {k: v * 1e9 / MIB for k, v in INF_CL.items()}
      axis.loglog(
        published.keys(),
        published.values(),
        "k*",
        label="Inf-CL, published (d = 768)",
      )
    axis.set_title(f"{kind}, {n} devices, d = 512, float32")
    axis.set_xlabel("global batch")
    axis.grid(alpha=0.3)
  axes[0].set_ylabel("loss memory a device, MiB")
  axes[1].legend(fontsize=8)
  figure.tight_layout()
  PICTURE.parent.mkdir(exist_ok=True)
  figure.savefig(PICTURE, dpi=110)


def interleaved(runs: dict, rounds: int) -> dict:
  """Returns seconds of each round, by name, of functions without arguments."""
  seconds = {name: [] for name in runs}
  names = list(runs)
  for run in runs.values():
    jax.block_until_ready(run())
  for i in range(rounds):
    # A different one first each round: none is always behind another.
    first = i % len(names)
    for name in [*names[first:], *names[:first]]:
      began = time.perf_counter()
      jax.block_until_ready(runs[name]())
      seconds[name].append(time.perf_counter() - began)
  return seconds


def relative(times: list, to: list) -> float:
  """Returns the median ratio of the times of the same rounds."""
  return statistics.median(a / b for a, b in zip(times, to, strict=True))


def time_table(flags) -> None:
  """Prints a Markdown table of interleaved runs on one device."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  r = np.random.default_rng(0)
  z = r.normal(size=(2, flags.batch, flags.dims[0]))
  z /= np.linalg.norm(z, axis=-1, keepdims=True)
  operands = (*jnp.asarray(z, flags.dtypes[0]), jnp.float32(10.0),
              jnp.float32(-10.0))  # fmt: skip
  print(
    f"jax {jax.__version__}, one {jax.devices()[0].device_kind} device, B = "
    f"{flags.batch:,}, d = {flags.dims[0]}, {flags.dtypes[0]}, value and all "
    f"gradients, {flags.rounds} interleaved rounds\n"
  )
  print("| loss | implementation | ms | time relative to dense |")
  print("|---|---|---|---|")
  for kind in KINDS:
    names = (*baselines.BASELINES, OURS)
    runs = {n: jax.jit(value_and_grad(kind, n, mesh)) for n in names}
    seconds = interleaved(
      {n: functools.partial(run, *operands) for n, run in runs.items()},
      flags.rounds,
    )
    for name, times in seconds.items():
      ratio = relative(times, seconds["dense"])
      print(f"| {kind} | {name} | {statistics.median(times) * 1e3:,.0f} | "
            f"{ratio:.2f} |", flush=True)  # fmt: skip


def main() -> None:
  """Prints the table that the first argument names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("table", choices=["memory", "time"])
  parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
  parser.add_argument("--sizes", type=int, nargs="+",
                      default=[1024, 4096, 16384, 65536, 262144])  # fmt: skip
  parser.add_argument("--dims", type=int, nargs="+", default=[512, 768, 1152])
  parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
  parser.add_argument("--batch", type=int, default=8192)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--write", action="store_true")
  flags = parser.parse_args()
  if flags.table == "time":
    time_table(flags)
    return
  # Before anything asks for a backend; other backends have what they have.
  jax.config.update("jax_num_cpu_devices", max(flags.devices))
  found = memory_table(flags)
  if flags.write:
    picture(found)


if __name__ == "__main__":
  main()
