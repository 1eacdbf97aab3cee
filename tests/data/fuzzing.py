"""Mutated data files of all sources, read as training reads them.

Run in a process of its own: python fuzzing.py FOLDER FIRST COUNT. It writes
one JSON line a case; a case without a line crashed or hung.
"""

import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tarfile
import warnings

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.build import build_source
from big_contrastive.data.loader import examples
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.data.transforms import operations

COUNT = 6
SECONDS = 300  # Nothing takes long, even on a machine that is busy.


def encoded(i, form="PNG", **kwargs):
  pixels = np.random.default_rng(i).integers(0, 256, (24, 31, 3), np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, form, **kwargs)
  return file.getvalue()


FORMS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")


def picture(i):
  return encoded(i, FORMS[i % len(FORMS)])


def make_tar(path, names):
  with tarfile.open(path, "w") as tar:
    for name, data in names:
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def build(root):
  """Writes a small set of each kind; returns {name: (config, files)}."""
  pairs = [
    part
    for i in range(COUNT)
    for part in (
      (f"{i}.jpg", picture(i)),
      (f"{i}.json", json.dumps({"caption": f"caption {i}"}).encode()),
      (f"{i}.txt", f"caption {i}".encode()),
    )
  ]
  make_tar(root / "wds.tar", pairs)
  make_tar(root / "images.tar", [p for p in pairs if p[0].endswith("jpg")])
  rows = {"image": [f"{i}.jpg" for i in range(COUNT)], "caption": ["a b"] * 6}
  for suffix, between in ((".csv", ","), (".tsv", "\t")):
    lines = [between.join(rows), *map(between.join, zip(*rows.values()))]
    (root / f"table{suffix}").write_text("\n".join(lines) + "\n")
  lines = [json.dumps(dict(zip(rows, r))) for r in zip(*rows.values())]
  (root / "table.jsonl").write_text("\n".join(lines) + "\n")
  for folder in ("classes/a", "classes/b", "texts"):
    (root / folder).mkdir(parents=True)
    for i in range(COUNT):
      (root / folder / f"{i}.jpg").write_bytes(picture(i))
  for i in range(COUNT):
    (root / f"texts/{i}.txt").write_text(f"caption {i}")
  images = [{"bytes": picture(i), "path": "x"} for i in range(COUNT)]
  captions = [[f"caption {i}", "b"] for i in range(COUNT)]
  data = pa.table({"image": images, "caption": captions})
  for kind in ("snappy", "zstd", "none"):
    pq.write_table(
      data, root / f"{kind}.parquet", row_group_size=2, compression=kind
    )
  config = {"data_dir": f"{root}/tfds", "train_size": 20, "size": 16}
  build_source({"name": "shapes", "split": "train", **config}, "x")
  (folder,) = root.glob("tfds/shapes/*/*/dataset_info.json")
  tfds = [p for p in folder.parent.iterdir() if "train" in p.name]
  jsons = [folder, folder.parent / "features.json"]
  table = {"name": "table", "images": f"{root}/images.tar"}
  return {
    "wds": (f"wds:{root}/wds.tar,caption=txt|json:caption", ["wds.tar"]),
    **{
      f"table{s}": (
        table | {"captions": f"{root}/table{s}"},
        [f"table{s}", "images.tar"],
      )
      for s in (".csv", ".tsv", ".jsonl")
    },
    "classes": (
      f"folder:{root}/classes",
      ["classes/a/1.jpg", "classes/b/3.jpg"],
    ),
    "texts": (f"folder:{root}/texts", ["texts/0.jpg", "texts/1.txt"]),
    **{
      kind: (f"parquet:{root}/{kind}.parquet", [f"{kind}.parquet"])
      for kind in ("snappy", "zstd", "none")
    },
    "tfds": (
      f"tfds:{folder.parent},split=train",
      [str(p.relative_to(root)) for p in tfds + jsons],
    ),
  }


def mutate(data, rng):
  """Cuts, flips, zeroes, repeats or inserts bytes, or changes a number."""
  data, size = bytearray(data), max(1, len(data))
  at = rng.randrange(size)
  # Half of the time where formats keep what matters.
  at = rng.choice([at, rng.choice([min(at, 600), max(0, size - 1 - at % 200)])])
  kind = rng.randrange(7)
  if kind == 0:
    del data[at:]
  elif kind == 1:
    for _ in range(rng.choice([1, 4, 50])):
      data[rng.randrange(size)] ^= 1 << rng.randrange(8)
  elif kind == 2:
    length = rng.choice([1, 16, 512])
    data[at : at + length] = bytes(len(data[at : at + length]))
  elif kind == 3:
    data[at : at + 8] = b"\xff" * len(data[at : at + 8])
  elif kind == 4:
    data[at:at] = rng.randbytes(rng.choice([1, 7, 700]))
  elif kind == 5:
    data[at:at] = data[max(0, at - 512) : at]
  else:
    data[at : at + 12] = b"77777777777\0"[: len(data[at : at + 12])]
  return bytes(data)


def read(config):
  """Returns {outcome: how often} of all records, as training sees them."""
  source = build_source(config, "config.source")
  ops = operations.parse([("random_resized_crop", {"size": 16})], "x")
  make = examples.Examples(source, ops, build_tokenizer("bytes", 12))
  found = {}
  for i in range(min(len(source), 100)):
    try:
      make._example(i, np.random.default_rng(0))
      outcome = "good"
    except (OSError, ValueError, SyntaxError) as e:
      outcome = bad_records.kind(e)
    found[outcome] = found.get(outcome, 0) + 1
  return found


def case(number, whole, root, configs):
  """One mutated file of one source, in a fresh copy."""
  rng = random.Random(number)
  name = list(configs)[number % len(configs)]
  config, files = configs[name]
  target = rng.choice(files)
  shutil.rmtree(root, ignore_errors=True)
  shutil.copytree(whole, root)
  path = root / target
  path.write_bytes(mutate(path.read_bytes(), rng))
  config = json.loads(json.dumps(config).replace(str(whole), str(root)))
  said = {"case": number, "source": name, "file": target}
  try:
    return said | {"found": read(config)}
  except errors.UserError as e:
    return said | {"error": str(e)}


def main(folder, first, count):
  warnings.simplefilter("ignore")
  folder = pathlib.Path(folder)
  whole, root = folder / "whole", folder / "target"
  whole.mkdir()
  configs = build(whole)
  for name, (config, _) in configs.items():
    assert set(read(config)) == {"good"}, name
  for path in whole.rglob("*.index.npz"):
    path.unlink()
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  signal.signal(signal.SIGALRM, lambda *_: os.abort())  # A hang is a crash.
  for number in range(first, first + count):
    signal.alarm(SECONDS)
    print(json.dumps(case(number, whole, root, configs)), flush=True)
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  print(json.dumps({"grown_mb": grown / 1024}), flush=True)


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
