"""A step of LiT: both towers trained, one locked, one replaced by its vectors.

  python -m benchmarks.lit [--batch 32] [--rounds 5] [--variant Ti/16]

An image tower at 224 pixels, a text tower of the same size, texts of 16
tokens, softmax, Adafactor, on one device. Times are medians of rounds that take
turns; beside their ratio is that of the steps' FLOPs, the bound.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from big_contrastive.config import files
from big_contrastive.factory import experiment
from big_contrastive.offline import embedding, folder, tasks, worker
from big_contrastive.training import loop

_DATA = "shapes:split=train,train_size=256,size=64"
KINDS = ("trained", "locked", "vectors")


def built(kind: str, flags: argparse.Namespace, root: pathlib.Path):
  """Returns an experiment; for the vectors, those of the locked tower."""
  size = flags.variant.partition("/")[0]
  cached = f",cached={root}/parts" if kind == "vectors" else ""
  config = files.load_config(
    f"configs/lit.py:smoke{cached}",
    [f"--config.batch_size={flags.batch}", "--config.model.dtype=float32"],
  )
  config["model"]["text"] |= {"variant": size, "out_dim": flags.width}
  config["evals"] = {}
  if kind == "vectors":
    image = {"tower": "vectors", "width": flags.width}
    ops = [["vectors", {"size": flags.width}]]
  else:
    image = {"variant": flags.variant, "res": 224}
    ops = [["resize", {"size": 224}]]
    config["source"] = _DATA
    config["freeze"] = [("img/.*", kind == "locked"), (".*", False)]
  config["model"]["image"] = image
  config["train_image"] = config["eval_image"] = ops
  return experiment.build(config)


def stored(root: pathlib.Path, flags: argparse.Namespace) -> None:
  """Embeds the data with a locked tower of random weights."""
  first = built("locked", flags, root)
  store = loop.Checkpoints(root / "run")
  store.save(0, first.first().items(), first.meta(0), first.blob)
  store.close()
  work = embedding.open_work(checkpoint=str(root / "run"), data=_DATA)
  out = folder.begin(str(root / "parts"), "--out")
  folder.describe(out, work, work.about() | {"per_shard": 256})
  shards = tasks.tasks(len(work.source), out, 256)
  worker.run_all(shards, work, lambda line: None)


def main() -> None:
  p = argparse.ArgumentParser(description=__doc__)
  p.add_argument("--batch", type=int, default=32)
  p.add_argument("--rounds", type=int, default=5)
  p.add_argument("--variant", default="Ti/16")
  p.add_argument("--width", type=int, default=192, help="of the variant")
  flags = p.parse_args()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    stored(root, flags)
    runs, flops = {}, {}
    for kind in KINDS:
      made = built(kind, flags, root)
      flops[kind] = made.flops()
      batches = made.training.batches(0, 2)
      runs[kind] = made.placed.update, made.first(), next(batches)
      batches.close()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(flags.rounds + 1):
      for kind, (update, state, batch) in runs.items():
        began = time.perf_counter()
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        runs[kind] = update, state, batch
        if turn:  # The first one compiles.
          times[kind].append(time.perf_counter() - began)
  medians = {kind: statistics.median(t) for kind, t in times.items()}
  for kind, seconds in medians.items():
    reached, bound = (x["vectors"] / x[kind] for x in (medians, flops))
    print(
      f"{kind:8} {1e3 * seconds:8.1f} ms  vectors need {reached:.3f} of it, "
      f"and {bound:.3f} of its FLOPs"
    )
  assert np.isfinite(list(medians.values())).all()


if __name__ == "__main__":
  main()
