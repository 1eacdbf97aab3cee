"""Speed and memory of `embed` over many shards.

  python -m benchmarks.embed [--minutes 20] [--per_shard 500] [--photos DIR]

A ViT-Ti/16 of random weights at 224 pixels embeds JPEGs of 256 pixels and a
caption each, the same ones again and again as records of one long data set.
After each shard it notes the records/s so far and the process's memory. Photos
are the JPEGs below DIR, or random colors, which decode as fast.
"""

import argparse
import io
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
import PIL.Image

from big_contrastive.data.source import Source
from big_contrastive.factory import experiment
from big_contrastive.inference.model import load
from big_contrastive.offline import folder, tasks, worker
from big_contrastive.offline.embedding import Embedding
from big_contrastive.training import loop


class Again(Source):
  """Some pictures, as many times as asked for."""

  def __init__(self, pictures: list[bytes], records: int):
    self._pictures, self._records = pictures, records

  def __len__(self) -> int:
    return self._records

  def __getitem__(self, index: int) -> dict:
    image = self._pictures[index % len(self._pictures)]
    return {"image": image, "text": f"photo {index}", "id": index % 2**31}

  def name(self, index: int) -> str:
    return f"photo:{index}"


def pictures(path: str | None) -> list[bytes]:
  """Returns JPEGs whose shorter side has 256 pixels."""
  files = sorted(pathlib.Path(path).rglob("*.jpg"))[:256] if path else []
  rng, found = np.random.default_rng(0), []
  for k in range(len(files) or 64):
    if files:
      image = PIL.Image.open(files[k]).convert("RGB")
    else:
      small = rng.integers(0, 256, (32, 40, 3)).astype(np.uint8)
      image = PIL.Image.fromarray(small)
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size])
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    found.append(file.getvalue())
  return found


def memory() -> float:
  """Returns this process's memory in MiB."""
  status = pathlib.Path("/proc/self/status").read_text()
  line = next(x for x in status.splitlines() if x.startswith("VmRSS"))
  return int(line.split()[1]) / 1024


def model(root: pathlib.Path) -> pathlib.Path:
  """Writes a checkpoint of Ti/16 at 224 pixels; returns its workdir."""
  from big_contrastive.config import files

  config = files.load_config(
    "configs/siglip.py:smoke",
    [
      "--config.model.image.variant=Ti/16", "--config.model.image.res=224",
      "--config.model.text.variant=Ti", "--config.model.text.out_dim=192",
      "--config.total=2 steps",
      "--config.schedule.warmup=0",
    ],
  )  # fmt: skip
  resize = [["resize", {"size": 224}]]
  changed = {"evals": {}, "train_image": resize, "eval_image": resize}
  loop.fit(experiment.build(config | changed), root / "model")
  return root / "model"


def main() -> None:
  p = argparse.ArgumentParser(description=__doc__)
  p.add_argument("--minutes", type=float, default=20)
  p.add_argument("--per_shard", type=int, default=500)
  p.add_argument("--photos")
  flags = p.parse_args()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    loaded = load(model(root), batch_size=64 * jax.local_device_count())
    work = Embedding(loaded, Again(pictures(flags.photos), 10**8), "float16")
    out = folder.begin(str(root / "parts"), "--out")
    out.mkdir()
    rates, memories, began = [], [], time.monotonic()
    number = 0
    while time.monotonic() - began < 60 * flags.minutes:
      start = number * flags.per_shard
      path = tasks.path(out, number)
      task = tasks.Task(number, start, start + flags.per_shard, path)
      stats = worker.run(task, work)
      path.unlink()  # The disk is not what is measured.
      rates.append(stats.records / stats.seconds)
      memories.append(memory())
      number += 1
  print(f"{number} shards of {flags.per_shard}, {flags.minutes:g} minutes")
  print(f"records/s, median of shards: {statistics.median(rates[1:]):.1f}")
  for share in (0.05, 0.25, 0.5, 0.75, 1.0):
    at = max(1, round(share * number)) - 1
    print(f"MiB after {share:.0%} of the shards: {memories[at]:,.0f}")


if __name__ == "__main__":
  main()
