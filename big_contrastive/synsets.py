"""Makes a vocabulary of labels from captions: the nouns of WordNet (CatLIP).

  python -m big_contrastive.synsets --data wds:shards/*.tar \\
    --wordnet /usr/share/wordnet --counts nouns --out vocabulary.json

It counts in how many captions each noun is, shard by shard into --counts: give
the same command again after a kill, and --shards i/n to several workers. When
all parts are there, --out gets the synsets of --least captions or more (500, as
published), the most frequent first, --size of them at most. A word is a label
if it is the first of its synset's words (--synonyms head, as published), or
any of them (merge). --wordnet shapes is a part of WordNet that comes with the
package, for the data set shapes.

Train on the labels with config.tokenizer = {"kind": "synsets", "path": OUT,
"length": 32}. --published FILE takes the counts from a file such as CatLIP's,
{"n5928118": 52418327, ...} as JSON or pickled, in place of data.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import json
import sys

from big_contrastive.config import errors
from big_contrastive.data.labels import published, synsets, wordnet
from big_contrastive.factory import cli
from big_contrastive.offline import counting, folder, tasks, worker
from big_contrastive.storage import atomic
from big_contrastive.storage.paths import Path


def run() -> None:
  """Parses the flags, counts, and writes the vocabulary."""
  flags = _flags()
  out = None if flags.out is None else atomic.free(flags.out, "--out")
  nouns = wordnet.read(flags.wordnet, "--wordnet")
  if flags.published is not None:
    cli.require(flags, out="a new file")
    if flags.counts is not None or flags.shards is not None:
      allowed = "--data, or neither --counts nor --shards"
      raise errors.UserError("--published", flags.published, allowed, "Choose.")
    counts = published.read(flags.published, nouns, "--published")
    _write(flags, out, nouns, counts, flags.captions or 0)
    return
  if flags.captions is not None:
    allowed = "left out, where they are counted"
    raise errors.UserError("--captions", flags.captions, allowed, "See --help.")
  cli.require(flags, counts="a folder for the counts")
  share = tasks.share(flags.shards)
  at = folder.begin(flags.counts, "--counts")
  work = counting.Counting(flags.data, nouns, flags.synonyms)
  shards = tasks.tasks(len(work.source), at, flags.per_shard)
  folder.describe(at, work, {"data": flags.data, "per_shard": flags.per_shard})
  mine = share.of(shards)
  bad = worker.run_all(mine, work, _tell)
  if bad:
    _tell(f"bad records: {bad}")
  if out is None:
    return
  counts, labels = counting.total(shards, work.made, "--counts")
  captions = sum(labels.values())
  if not counts:
    allowed = "captions with nouns of WordNet"
    raise errors.UserError("--data", flags.data, allowed, "Are they English?")
  report = {
    "captions": captions,
    "captions_with_nouns": 1 - labels.get(0, 0) / captions,
    "nouns_a_caption": sum(k * n for k, n in labels.items()) / captions,
    "most_in_a_caption": max(labels),
  }
  _write(flags, out, nouns, counts, captions, **report)


def _write(
  flags: argparse.Namespace,
  out: Path,
  nouns: wordnet.Nouns,
  counts: dict[int, int],
  total: int,
  **report: float,
) -> None:
  """Writes the vocabulary, and prints what is in it."""
  least = flags.least if flags.published is None else 0
  kept = synsets.chosen(counts, least, flags.size)
  blob = synsets.vocabulary(nouns, flags.synonyms, kept, total)
  with atomic.appears(out) as new:
    new.write_bytes(blob)
  told = {
    "classes": len(kept), "of_synsets": len(counts), **report,
    "share_of_nouns_kept": sum(n for _, n in kept) / sum(counts.values()),
    "most_frequent": [nouns.head[n] for n, _ in kept[:10]],
    "least_frequent": [nouns.head[n] for n, _ in kept[-5:]],
  }  # fmt: skip
  print(json.dumps(told))


def _tell(line: str) -> None:
  print(line, file=sys.stderr)


def _flags() -> argparse.Namespace:
  parser = cli.parser(__doc__)
  add = parser.add_argument
  add("--data", help="SOURCE:VALUE,..., with captions")
  add("--published", help="a file of counts, in place of --data")
  add("--wordnet", required=True, help="a folder with WordNet 3.0's files")
  add("--counts", help="a folder for the counts")
  add("--out", help="NAME.json; without, it only counts")
  add("--synonyms", default="head", help="or merge")
  add("--least", type=int, default=500, help="captions of a class")
  add("--size", type=int, help="classes at most; 24320 in CatLIP")
  add("--captions", type=int, help="counted, of --published")
  add("--shards", help="i/n: worker i of n, from 0")
  add("--per_shard", type=int, default=tasks.PER_SHARD)
  flags = parser.parse_args()
  cli.one_of(flags, "data", "published")
  errors.choice("--synonyms", flags.synonyms, synsets.SYNONYMS)
  errors.at_least("--least", flags.least, 1)
  if flags.size is not None:
    errors.at_least("--size", flags.size, 1)
  if flags.captions is not None:
    errors.at_least("--captions", flags.captions, 1)
  return flags


if __name__ == "__main__":
  cli.main(run)
