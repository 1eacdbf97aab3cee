"""Captions a data set, and scores its captions: CapFilt (arXiv:2201.12086).

  python -m big_contrastive.caption --model runs/blip \\
    --data wds:shards/*.tar --out captions

  OUT/part-00000.parquet ...  one row a record, in the order of the source
  OUT/about.json              the models, the data

Columns: "key", the record's name; "id"; "label"; "captions", a list of structs,
{"text", "source", "score"}; and "bad", null or the kind of fault of a record
that can't be read, whose other columns are null or empty. The source is "web"
for the record's own captions, "synthetic" for the one that --model tells. The
score is that of --filter, by default --model itself: with BLIP's text tower the
probability that text and image match (--by match), with two towers the cosine
(--by cosine); a blank caption has none. --by none scores nothing.

Train on the captions that score well with config.source.filter = {"captions":
OUT}. Captions are sampled as BLIP's were: --method nucleus, --top_p 0.9,
--repetition_penalty 1.1, 5 to 20 tokens. What is drawn for a record depends on
--seed and its number.

Give the same command again after a kill: parts that are there stay. Several
workers need not know of each other: worker i of n takes --shards i/n, by
default as in embed. If the data get more records at their end, the same command
does those.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import dataclasses
import sys

from big_contrastive.config import errors
from big_contrastive.factory import cli
from big_contrastive.models.captioning.generation import Decoding
from big_contrastive.offline import folder, tasks, worker
from big_contrastive.offline.captioning import BY, open_work


def run() -> None:
  """Parses the flags and captions this worker's shards."""
  flags = _flags()
  if flags.distributed:
    remedy = "Workers need not know of each other: give --shards i/n."
    raise errors.UserError("--distributed", True, "left out", remedy)
  share = tasks.share(flags.shards)
  out = folder.begin(flags.out, "--out")
  decoding = {name: getattr(flags, name) for name in _DECODING}
  try:
    Decoding(**{k: v for k, v in decoding.items() if v is not None})
    work = open_work(
      decoding=decoding, **{k: getattr(flags, k) for k in _OF_WORK}
    )
  except errors.UserError as e:
    thing = str(e).partition(" ")[0]
    known = thing in (*_DECODING, "prompt")
    raise (e.replaced(thing, f"--{thing}") if known else e) from e
  shards = tasks.tasks(len(work.source), out, flags.per_shard)
  spoken = {k: getattr(flags, k) for k in ("model", "data", "per_shard")}
  spoken["filter"] = None if work.by == "none" else flags.filter or flags.model
  folder.describe(out, work, spoken)
  mine = share.of(shards)
  bad = worker.run_all(mine, work, _tell)
  total = sum(map(len, mine))
  left = f", {sum(bad.values())} of them bad {bad}" if bad else ""
  shown = f"{len(mine)} of {len(shards)} shards"
  print(f"{shown}, {total:,} records{left}: {out}", file=sys.stderr)


_OF_WORK = (
  "model", "data", "filter", "by", "tokenizer", "batch_size", "prompt", "seed",
)  # fmt: skip
_DEFAULTS = {
  "method": "nucleus", "repetition_penalty": 1.1, "min_tokens": 5,
  "max_tokens": None,
}  # fmt: skip
# Of generation.Decoding: the name of a flag, its default.
_DECODING = {
  f.name: _DEFAULTS.get(f.name, f.default) for f in dataclasses.fields(Decoding)
}


def _tell(line: str) -> None:
  print(line, file=sys.stderr)


def _flags() -> argparse.Namespace:
  parser = cli.model_parser(__doc__, "--model")
  add = parser.add_argument
  add("--out", required=True, help="a folder for the parts")
  add("--filter", help="what scores the captions; by default --model")
  add("--by", help="match, cosine or none; by default the best there is")
  add("--prompt", default="", help="what captions begin with, left out of them")
  add("--seed", type=int, default=0, help="of nucleus sampling")
  add("--shards", help="i/n: worker i of n, from 0")
  add("--per_shard", type=int, default=tasks.PER_SHARD)
  for name, value in _DECODING.items():
    kind = str if name == "method" else type(getattr(Decoding, name))
    add(f"--{name}", type=kind, default=value, help="see generation.Decoding")
  flags = parser.parse_args()
  if flags.by is not None:
    errors.choice("--by", flags.by, BY)
  errors.at_least("--seed", flags.seed, 0)
  if flags.by == "none" and flags.filter is not None:
    allowed = "left out with --by none"
    raise errors.UserError("--filter", flags.filter, allowed, "Choose.")
  return flags


if __name__ == "__main__":
  cli.main(run)
