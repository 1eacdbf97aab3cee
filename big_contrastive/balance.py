"""Lists records of many topics, none too often: MetaCLIP's balancing.

  python -m big_contrastive.balance --data wds:shards/*.tar,caption=json:text \\
    --entries entries.txt --limit 20000 --out balanced.npy

entries.txt has one entry of the metadata a line: words, titles, WordNet's
synsets. A record belongs to each entry that stands in one of its captions. Of
an entry with more than --limit of them, about as many stay on its account; of
rarer ones all; records without any entry go. --tail 0.06 takes the limit that
leaves that share of all matches to rarer entries, as MetaCLIP 2 does for other
languages.

Whether a record stays depends on --seed, its number, and the counts alone.
balanced.npy has the numbers, int64, ascending, for filter.keep or keep --among.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import collections
import json
import pathlib
import sys
import tempfile
from concurrent import futures

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.build import build_source
from big_contrastive.data.files import paths
from big_contrastive.data.source import Source
from big_contrastive.factory import cli
from big_contrastive.offline import balancing, selection
from big_contrastive.storage import atomic

_BLOCK = 10_000


def run() -> None:
  """Parses the flags and writes the list."""
  parser = cli.parser(__doc__)
  parser.add_argument("--data", required=True, help="SOURCE:VALUE,...")
  parser.add_argument("--entries", required=True, help="a text file")
  parser.add_argument("--out", required=True, help="NAME.npy")
  parser.add_argument("--limit", type=int, help="20000 in MetaCLIP 400M")
  parser.add_argument("--tail", type=cli.number, help="0.06 in MetaCLIP 2")
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  if flags.limit is not None:
    errors.at_least("--limit", flags.limit, 1)
  if flags.tail is not None and not 0 < flags.tail < 1:
    allowed = "a number between 0 and 1"
    raise errors.UserError("--tail", flags.tail, allowed, "See --help.")
  errors.at_least("--seed", flags.seed, 0)
  out = selection.list_path(flags.out)
  names = paths.lines(flags.entries, "--entries")
  entries = balancing.Entries(names, f"--entries: {flags.entries}")
  cli.one_of(flags, "limit", "tail")
  source = build_source(flags.data, "--data")
  with tempfile.TemporaryDirectory() as folder:
    matches = balancing.Matches(entries, pathlib.Path(folder))
    bad = _match(source, matches)
    if not matches.counts.any():
      allowed = "entries that stand in captions"
      remedy = "Are they of this language, and written as there?"
      raise errors.UserError("--entries", flags.entries, allowed, remedy)
    limit = flags.limit
    if limit is None:
      limit = balancing.limit_of_tail(matches.counts, flags.tail)
    stays = matches.probabilities(limit)
  kept = np.flatnonzero(balancing.drawn(len(stays), flags.seed) < stays)
  with atomic.appears(out) as new:
    np.save(new, kept)
  counts, rare = matches.counts, matches.counts < limit
  print(
    json.dumps(
      {
        "records": len(source), "bad": bad,
        "matched": int(np.count_nonzero(stays)), "kept": len(kept),
        "expected": float(stays.sum()), "limit": limit,
        "entries": len(entries), "entries_matched": int((counts > 0).sum()),
        "tail": float(counts[rare].sum() / counts.sum()),
      }
    )
  )  # fmt: skip


def _match(source: Source, matches: balancing.Matches) -> dict[str, int]:
  """Matches all records; returns how many are bad, by kind."""
  bad: collections.Counter[str] = collections.Counter()

  def captions(index: int) -> list[str]:
    try:
      text = source[index].get("text", ())
    except (OSError, ValueError, SyntaxError) as e:
      bad[bad_records.kind(e)] += 1
      return []
    return [text] if isinstance(text, str) else list(text)

  with futures.ThreadPoolExecutor(8) as pool:
    for start in range(0, len(source), _BLOCK):
      block = range(start, min(start + _BLOCK, len(source)))
      matches.add(pool.map(captions, block, chunksize=64))
  if bad:
    print(f"bad records: {dict(bad)}", file=sys.stderr)
  return dict(bad)


if __name__ == "__main__":
  cli.main(run)
