"""Lists the records of an embedded data set that are no duplicates.

  python -m big_contrastive.dedup --embedded embedded --by content \\
    --out unique.npy

unique.npy has their numbers, int64, ascending: for filter.keep, or for keep
--among. Of duplicates the first record stays; bad records never do.

--by content: the same image, byte for byte. --by captions: nearly the same
words, by MinHash. --by near: nearly the same image, by the cosine of their
vectors, within --clusters of k-means (SemDeDup); of these the one stays that
is farthest from the center of its cluster.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import json

import numpy as np

from big_contrastive.config import errors
from big_contrastive.factory import cli
from big_contrastive.offline import duplicates, near, scoring, selection
from big_contrastive.parallel import sharding
from big_contrastive.storage import atomic

BY = ("content", "captions", "near")
_THRESHOLDS = {"captions": 0.8, "near": 0.95}


def run() -> None:
  """Parses the flags and writes the list."""
  parser = cli.parser(__doc__)
  parser.add_argument("--embedded", required=True, help="a folder of embed")
  parser.add_argument("--out", required=True, help="NAME.npy")
  parser.add_argument("--by", required=True, help=" or ".join(BY))
  parser.add_argument(
    "--threshold", type=cli.number,
    help="from which similarity on: captions 0.8, near 0.95",
  )  # fmt: skip
  parser.add_argument("--clusters", type=int, help="of near: n / 5,000")
  parser.add_argument("--rounds", type=int, default=10, help="of k-means")
  parser.add_argument("--seed", type=int, default=0, help="of k-means")
  flags = parser.parse_args()
  errors.choice("--by", flags.by, BY)
  threshold = flags.threshold
  if flags.by == "content" and threshold is not None:
    allowed = "left out: content is the same or it isn't"
    raise errors.UserError("--threshold", threshold, allowed, "See --help.")
  if threshold is None:
    threshold = _THRESHOLDS.get(flags.by, 1.0)
  if not 0 < threshold <= 1:
    allowed = "a number above 0, at most 1"
    raise errors.UserError("--threshold", threshold, allowed, "See --help.")
  errors.at_least("--rounds", flags.rounds, 0)
  if flags.clusters is not None:
    errors.at_least("--clusters", flags.clusters, 1)
  out = selection.list_path(flags.out)
  parts = scoring.Parts(flags.embedded, "--embedded")
  bad = duplicates.bad(parts)
  clusters = flags.clusters
  if clusters is None:
    clusters = near.default_clusters(parts.records)
  if flags.by == "content":
    found = duplicates.content(parts)
  elif flags.by == "captions":
    found = duplicates.captions(parts, threshold)
  else:
    good = int(np.count_nonzero(~bad))
    if clusters > good:
      allowed = f"at most {good:,}, the records that are not bad"
      raise errors.UserError("--clusters", clusters, allowed, "Lower it.")
    found = near.near(
      parts, ~bad, sharding.make_mesh(), threshold, clusters, flags.rounds,
      flags.seed,
    )  # fmt: skip
  kept = np.flatnonzero(~(found | bad))
  with atomic.appears(out) as new:
    np.save(new, kept)
  counts = {
    "records": parts.records, "bad": int(bad.sum()),
    "duplicates": int(found.sum()), "kept": len(kept),
  }  # fmt: skip
  print(json.dumps(counts))


if __name__ == "__main__":
  cli.main(run)
