"""Tars behind a slow connection: one request a record, blocks, a local disk.

  python -m benchmarks.bucket [--latency 0.02] [--threads 8] [--rounds 3]

A file system in memory whose reads take a while longer; no bytes per second are
limited. Images/s of an epoch in the order of training: records are read, their
images not decoded. Medians of rounds that take turns, and their ratios.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from concurrent import futures

import fsspec
import numpy as np

from big_contrastive.data.loader import shuffle
from big_contrastive.data.sources import webdataset

_TARS, _SAMPLES, _BYTES = 4, 1000, 30_000


class Slow(fsspec.get_filesystem_class("memory")):
  """A file system in memory, each of whose reads takes `latency` seconds."""

  protocol = "slow"
  latency = 0.0

  def cat_file(self, path, start=None, end=None, **kwargs):
    time.sleep(Slow.latency)
    return super().cat_file(path, start, end, **kwargs)


def tar(k: int) -> bytes:
  """Returns a tar of random images, which nothing decodes, with captions."""
  rng, file = np.random.default_rng(k), io.BytesIO()
  with tarfile.open(fileobj=file, mode="w") as out:
    for i in range(_SAMPLES):
      for ending, data in (("jpg", rng.bytes(_BYTES)), ("txt", b"a caption")):
        member = tarfile.TarInfo(f"{i:06}.{ending}")
        member.size = len(data)
        out.addfile(member, io.BytesIO(data))
  return file.getvalue()


def rate(make, threads: int, records: int) -> float:
  """Returns records/s in the order of training, with an empty cache."""
  source = make()
  order = shuffle.stream(source, 0)(np.arange(records))
  began = time.perf_counter()
  with futures.ThreadPoolExecutor(threads) as pool:
    for _ in pool.map(lambda i: source[int(i)]["id"], order):
      pass
  return records / (time.perf_counter() - began)


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--latency", type=float, default=0.02)
  parser.add_argument("--threads", type=int, default=8)
  parser.add_argument("--rounds", type=int, default=3)
  flags = parser.parse_args()
  fsspec.register_implementation("slow", Slow)
  with tempfile.TemporaryDirectory() as root:
    for k in range(_TARS):
      data = tar(k)
      fsspec.filesystem("slow").pipe_file(f"slow://b/{k}.tar", data)
      with open(f"{root}/{k}.tar", "wb") as file:
        file.write(data)
    urls = "slow://b/*.tar"
    all_of = _TARS * _SAMPLES

    def of(**kwargs):
      return lambda: webdataset.source(index=root, **kwargs)

    # Of one request a record, a part of the epoch is enough.
    cases = {
      "a request a record": (of(urls=urls, block_mb=0), all_of // 10),
      "blocks of 8 MiB": (of(urls=urls), all_of),
      "local disk": (of(urls=f"{root}/*.tar"), all_of),
    }
    found = {name: [] for name in cases}
    for _ in range(flags.rounds):
      for name, (make, records) in cases.items():
        Slow.latency = flags.latency
        found[name].append(rate(make, flags.threads, records))
        Slow.latency = 0.0
  print("| | records/s | times a request a record | of the local disk |")
  print("|---|---|---|---|")
  for name, rates in found.items():
    ratios = [
      statistics.median(a / b for a, b in zip(rates, found[to], strict=True))
      for to in ("a request a record", "local disk")
    ]
    shown = " | ".join(f"{x:.2f}" for x in ratios)
    print(f"| {name} | {statistics.median(rates):,.0f} | {shown} |")


if __name__ == "__main__":
  main()
