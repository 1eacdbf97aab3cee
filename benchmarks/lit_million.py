"""A step of LiT on 1,048,576 pairs in one batch, on 8 virtual CPU devices.

  python -m benchmarks.lit_million [--batch 1048576] [--width 8]

Random vectors in the place of images, in parts such as embed writes; a text
tower of one layer, softmax, Adafactor, micro-batches of 65,536 texts. Beside
the loss is that of 512 of the pairs among all, in float64: an estimate of it.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("PJRT_NPROC", "16")
# Eight devices share two cores: one may wait for another far longer than the
# 40 s after which XLA ends the process.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + "".join(
  f" --xla_cpu_collective_{name}_seconds=86400"
  for name in ("timeout", "call_terminate_timeout", "call_warn_stuck_timeout")
)

import jax
import numpy as np
import pyarrow as pa
from scipy.special import logsumexp

from big_contrastive.config import files
from big_contrastive.data.build import build_source
from big_contrastive.data.source import Source
from big_contrastive.factory import experiment
from big_contrastive.models.model import merge
from big_contrastive.offline import folder, tasks, worker
from big_contrastive.offline.embedding import fixed

_SHARD, _SAMPLE = 65536, 512


class Numbers(Source):
  """Records that no one reads: their vectors are random."""

  def __init__(self, count: int):
    self._count = count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict:
    return {"image": np.zeros((1, 1, 3), np.uint8), "id": index}


class Random:
  """Work whose vectors are random, and whose captions are numbers."""

  made = {"dtype": "float32", "model": {}, "views": [], "seed": 0}

  def __init__(self, count: int, width: int):
    self.source, self._width = Numbers(count), width

  def __call__(self, task: tasks.Task) -> tuple[pa.Table, dict[str, int]]:
    r = np.random.default_rng(task.number)
    z = r.normal(size=(len(task), self._width)).astype(np.float32)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    numbers = np.arange(task.start, task.stop)
    texts = [[f"the picture {i}"] for i in numbers]
    columns = {
      "key": pa.array(map(str, numbers), pa.string()),
      "id": pa.array(numbers, pa.int32()),
      "label": pa.nulls(len(task), pa.int32()),
      "captions": pa.array(texts, pa.list_(pa.string())),
      "bad": pa.nulls(len(task), pa.string()),
      "image": fixed(z, "float32"),
    }
    return pa.table(columns), {}


def built(parts: pathlib.Path, batch: int, width: int):
  """Returns the experiment."""
  config = files.load_config(
    f"configs/lit.py:smoke,cached={parts},width={width}",
    [f"--config.batch_size={batch}", "--config.model.dtype=float32"],
  )
  config["tokenizer"] = {"kind": "bytes", "length": 20}
  config["model"]["text"] |= {
    "depth": 1, "width": width, "heads": 1, "mlp": 2 * width
  }  # fmt: skip
  config["loading"] = {"workers": 2}
  # Tiles that fit a core's cache: 0.7 of the time of those of 2,048 rows.
  config["objective"]["tile"] = 256
  config["micro_batch"] = min(batch, _SHARD)
  config["evals"], config["total"] = {}, "2 steps"
  return experiment.build(config)


def estimate(made, state, batch) -> float:
  """The loss of some pairs' rows and columns, in float64."""
  params = jax.device_get(state.params)
  embed = merge(made.embedder.graph, params).embed_text
  text = jax.device_get(batch["text"])
  ztxt = [embed(part) for part in np.array_split(text, 16)]
  ztxt = np.concatenate(ztxt).astype(np.float64)
  zimg = jax.device_get(batch["image"]).astype(np.float64).reshape(ztxt.shape)
  zimg /= np.linalg.norm(zimg, axis=-1, keepdims=True)
  some = np.arange(0, len(zimg), len(zimg) // _SAMPLE)
  halves = []
  for rows, others in ((zimg, ztxt), (ztxt, zimg)):
    for few in np.array_split(some, 32):
      logits = np.exp(float(params["t"])) * rows[few] @ others.T
      right = logits[np.arange(len(few)), few]
      halves.append(np.mean(logsumexp(logits, axis=-1) - right))
  return float(np.mean(halves))


def main() -> None:
  p = argparse.ArgumentParser(description=__doc__)
  p.add_argument("--batch", type=int, default=2**20)
  p.add_argument("--width", type=int, default=8)
  flags = p.parse_args()
  jax.config.update("jax_num_cpu_devices", 8)
  with tempfile.TemporaryDirectory() as name:
    work = Random(flags.batch, flags.width)
    out = folder.begin(f"{name}/parts", "--out")
    about = {"per_shard": _SHARD, "scale": 10.0, "bias": 0.0, "data": "random"}
    folder.describe(out, work, about)
    shards = tasks.tasks(flags.batch, out, _SHARD)
    worker.run_all(shards, work, lambda line: None)
    assert len(build_source(f"cached:{out}", "parts")) == flags.batch
    made = built(out, flags.batch, flags.width)
    began = time.perf_counter()
    batches = made.training.batches(0, 1)
    batch = next(batches)
    read, began = time.perf_counter() - began, time.perf_counter()
    state = made.first()
    expected = estimate(made, state, batch)
    compiled = made.placed.update.lower(state, batch).compile()
    peak = compiled.memory_analysis().temp_size_in_bytes
    print(f"temporary {peak / 2**20:.0f} MiB a device", flush=True)
    began = time.perf_counter()
    _, metrics = jax.block_until_ready(compiled(state, batch))
    took = time.perf_counter() - began
    batches.close()
  print(
    f"{flags.batch:,} pairs: read in {read:.0f} s, a step in {took:.0f} s, "
    f"loss {float(metrics['loss']):.5f}, of {_SAMPLE} pairs {expected:.5f}"
  )


if __name__ == "__main__":
  main()
