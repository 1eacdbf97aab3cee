"""Times whole training steps side by side, in interleaved rounds.

  python -m benchmarks.step [--variant Ti/16] [--batch 32] [--rounds 7]

Random pairs, all devices. Prints a Markdown table: medians over the rounds,
and each recipe's speed relative to the first, as the median of the ratios
within a round. Machines are noisy: only the ratios travel.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from big_contrastive.config import rules
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.factory import parts
from big_contrastive.models import layers
from big_contrastive.models.build import build_model
from big_contrastive.objectives import Setting
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import flops, step

RECIPES = {
  "sigmoid": {},
  "softmax": {"loss": "softmax"},
  "sigmoid, half of the patches": {"keep": 0.5},
  "sigmoid, image tower frozen": {"frozen": "img"},
  "sigmoid, bfloat16": {"dtype": "bfloat16"},
}


def recipe(
  mesh,
  variant,
  batch,
  *,
  loss="sigmoid",
  keep=1.0,
  frozen=None,
  dtype="float32",
  remat=layers.REMAT,
  attention="auto",
  micro_batch=None,
  tile=None,
  length=64,
  image=None,
  text_=None,
):
  """Returns a step, by default at 224 pixels, and the model FLOPs of a batch.

  image, text_: more of the sections config.model.image and .text.
  """
  words = build_tokenizer("bytes", length)
  size = variant.partition("/")[0]
  image = {"variant": variant, "res": 224, "keep": keep} | (image or {})
  width = layers.SIZES[size][0]
  config = {
    "image": image,
    "text": {"variant": size, "out_dim": width} | (text_ or {}),
    "scale": 10.0, "bias": -10.0 if loss == "sigmoid" else None,
    "dtype": dtype, "remat": remat, "attention": attention,
  }  # fmt: skip
  model = build_model(config, words, sharding.pin(mesh))
  names = frozenset(rules.flatten(model.shapes))
  fixed = frozenset(k for k in names if k.split("/")[0] == frozen)
  method = parts.objective(
    {"name": "pairs", "loss": loss, "tile": tile},
    Setting(model, mesh, batch, micro_batch), ema=None,
  ).freeze(fixed)  # fmt: skip
  rate, tx = parts.optimizer(
    {"name": "adamw", "lr": 1e-3}, {"decay": "constant"},
    {"decay": [(".*", 1.0)], "lr_mult": [(".*", 1.0)]}, list(names),
    {"batch_size": batch, "epoch": batch, "total": 1000},
  )  # fmt: skip
  made = step.Step(method, tx, rate, names - fixed, 0)
  return made, batch * method.flops()


def shapes(batch, mesh, length=64, res=224):
  """Returns the batch of `recipe` as shapes with shardings."""
  where = sharding.batch(mesh)
  fields = {
    "image": ((batch, res, res, 3), np.uint8),
    "text": ((batch, length), np.int32),
    "id": ((batch,), np.int32),
  }
  return {
    k: jax.ShapeDtypeStruct(*v, sharding=where) for k, v in fields.items()
  }


def make(mesh, variant, batch, **kwargs):
  """Returns (update, state, batch, FLOPs of a step) for one recipe."""
  made, flops = recipe(mesh, variant, batch, **kwargs)
  placed = step.place(made, mesh, placement.EVERYTHING)
  r, res = np.random.default_rng(0), (kwargs.get("image") or {}).get("res", 224)
  host = {
    k: r.integers(3, 256, x.shape).astype(x.dtype)
    for k, x in shapes(batch, mesh, res=res).items()
  }
  host["id"] = np.arange(batch, dtype=np.int32)
  pairs = sharding.to_global(host, batch, mesh)
  return placed.update, placed.init(), pairs, flops


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--variant", default="Ti/16")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=7)
  flags = parser.parse_args()
  mesh = sharding.make_mesh()
  runs, seconds = {}, {name: [] for name in RECIPES}
  for name, kwargs in RECIPES.items():
    update, state, pairs, flops = make(
      mesh, flags.variant, flags.batch, **kwargs
    )
    state, _ = update(state, pairs)  # Compiles.
    runs[name] = [update, jax.block_until_ready(state), pairs, flops]
  for _ in range(flags.rounds):
    for name, run in runs.items():
      began = time.perf_counter()
      run[1], _ = run[0](run[1], run[2])
      jax.block_until_ready(run[1])
      seconds[name].append(time.perf_counter() - began)
  print_table(flags, runs, seconds)


def print_table(flags, runs, seconds) -> None:
  """Prints medians, MFU where the peak is known, and ratios."""
  device = jax.devices()[0].device_kind
  count, peak = jax.device_count(), flops.peak_flops(device)
  print(
    f"{flags.variant} at 224, batch {flags.batch}, {count} x {device}, "
    f"jax {jax.__version__}, {flags.rounds} interleaved rounds\n"
  )
  print("| step | images/s | GFLOP/s | MFU | speed relative to the first |")
  print("|---|---|---|---|---|")
  first = next(iter(seconds.values()))
  for name, times in seconds.items():
    median = statistics.median(times)
    rate = runs[name][3] / median
    mfu = f"{rate / peak / count:.1%}" if peak else "-"
    pairs = zip(first, times, strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"| {name} | {flags.batch / median:.1f} | {rate / 1e9:.0f} | {mfu} "
          f"| {ratio:.2f} |")  # fmt: skip


if __name__ == "__main__":
  main()
