"""Embeds the images and captions of a data set, shard by shard.

  python -m big_contrastive.embed --checkpoint runs/demo \\
    --data wds:shards/*.tar --out embedded --dtype float16

  OUT/part-00000.parquet ...  one row a record, in the order of the source
  OUT/about.json              the model, the data; the logit of a pair is
                              scale * image . text + bias

Columns: "key", the record's name; "id"; "label"; "digest" of the image's bytes;
"captions"; "image", a unit vector as a list of d numbers; "texts", one such
list a caption; "cosines" of the image with each caption; and "bad", null or the
kind of fault of a record that can't be read, whose other columns are null or
empty. With --views k the images are k random views, "view_0" to "view_{k-1}",
by --train_image. --dtype none leaves the vectors out; bfloat16 is stored as
uint16, its bits.

Give the same command again after a kill: parts that are there stay. Several
workers need not know of each other: worker i of n takes --shards i/n, by
default from SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX or TPU_WORKER_ID. With
--engine ray, n actors with --resources do this worker's shards. If the data get
more records at their end, the same command does those.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import functools
import sys

from big_contrastive.config import errors, files
from big_contrastive.factory import cli
from big_contrastive.offline import folder, ray_pool, tasks, worker
from big_contrastive.offline.embedding import DTYPES, open_work


def run() -> None:
  """Parses the flags and embeds this worker's shards."""
  flags = _flags()
  if flags.distributed:
    remedy = "Workers need not know of each other: give --shards i/n."
    raise errors.UserError("--distributed", True, "left out", remedy)
  share = tasks.share(flags.shards)
  out = folder.begin(flags.out, "--out")
  if flags.views:
    cli.require(flags, train_image="the operations that make a view")
  given = {k: getattr(flags, k) for k in _OF_WORK}
  work = open_work(**given)
  shards = tasks.tasks(len(work.source), out, flags.per_shard)
  spoken = {k: getattr(flags, k) for k in ("checkpoint", "data", "per_shard")}
  folder.describe(out, work, spoken | work.about())
  mine = share.of(shards)
  if flags.engine == "ray":
    make, resources = functools.partial(open_work, **given), flags.resources
    bad = ray_pool.run_all(mine, make, _tell, flags.actors, resources)
  else:
    bad = worker.run_all(mine, work, _tell)
  total = sum(map(len, mine))
  left = f", {sum(bad.values())} of them bad {bad}" if bad else ""
  shown = f"{len(mine)} of {len(shards)} shards"
  print(f"{shown}, {total:,} records{left}: {out}", file=sys.stderr)


_OF_WORK = (
  "checkpoint", "data", "tokenizer", "batch_size", "dtype", "views",
  "train_image", "seed",
)  # fmt: skip
_ENGINES = ("none", "ray")


def _tell(line: str) -> None:
  print(line, file=sys.stderr)


def _flags() -> argparse.Namespace:
  parser = cli.model_parser(__doc__)
  parser.add_argument("--out", required=True, help="a folder for the parts")
  parser.add_argument("--shards", help="i/n: worker i of n, from 0")
  parser.add_argument("--per_shard", type=int, default=tasks.PER_SHARD)
  parser.add_argument("--dtype", default="float32", help="or float16, bfloat16")
  parser.add_argument("--views", type=int, default=0, help="random ones")
  parser.add_argument(
    "--train_image", type=files.literal, help="of a view, as config.train_image"
  )
  parser.add_argument("--seed", type=int, default=0, help="of the views")
  parser.add_argument("--engine", default="none", help="or ray")
  parser.add_argument("--actors", type=int, default=1, help="of ray")
  parser.add_argument(
    "--resources", type=files.literal, default={"CPU": 1},
    help='of an actor: {"CPU": 1, "GPU": 1}',
  )  # fmt: skip
  flags = parser.parse_args()
  errors.choice("--engine", flags.engine, _ENGINES)
  errors.choice("--dtype", flags.dtype, DTYPES)
  errors.at_least("--views", flags.views, 0)
  errors.at_least("--actors", flags.actors, 1)
  if not isinstance(flags.resources, dict):
    allowed = 'numbers by name: {"CPU": 1}'
    raise errors.UserError("--resources", flags.resources, allowed, "Quote it.")
  return flags


if __name__ == "__main__":
  cli.main(run)
