"""Lists the records with the best scores.

  python -m big_contrastive.keep --scores scores --fraction 0.15 --out kept.npy

kept.npy has their numbers, int64, ascending: a source takes them with
filter.keep. --fraction f keeps exactly floor(f n) of n records, of equal scores
those of the first records; --threshold t keeps all scores from t up. What has
no score (NaN) is never kept. With --among A.npy,B.npy only records of all these
lists are, such as dedup and balance write; f is still of all records. Prints
what is kept, and a histogram of scores.
With --data SOURCE, the records: --picture FILE.png shows the best and the
worst, and those at the edge; --uids writes a list as DataComp has it, of dtype
"u8,u8", sorted; and lists of --among may be of that kind.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import fractions
import json
import math

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.files import uids
from big_contrastive.data.source import Source
from big_contrastive.factory import cli
from big_contrastive.offline import picture, selection
from big_contrastive.storage import atomic, paths


def run() -> None:
  """Parses the flags and writes the list."""
  parser = cli.parser(__doc__)
  parser.add_argument("--scores", required=True, help="a folder of score")
  parser.add_argument("--out", required=True, help="NAME.npy")
  parser.add_argument("--fraction", type=fraction)
  parser.add_argument("--threshold", type=float)
  parser.add_argument("--among", help="A.npy,B.npy: of all these alone")
  parser.add_argument("--picture", help="FILE.png, of records of --data")
  parser.add_argument("--uids", action="store_true", help="as DataComp lists")
  parser.add_argument("--data", help="SOURCE:VALUE,..., as embed had it")
  flags = parser.parse_args()
  cli.one_of(flags, "fraction", "threshold")
  out = selection.list_path(flags.out)
  scores = read(flags.scores)
  source = _records(flags, len(scores))
  if flags.among:
    lists = flags.among.split(",")
    scores = selection.among(scores, lists, "--among", source)
  chosen = choose(scores, flags.fraction, flags.threshold)
  count = chosen.above + chosen.ties
  with atomic.appears(out) as new:
    kept = np.lib.format.open_memmap(new, "w+", np.int64, (count,))
    done = 0
    for block in selection.numbers(scores, chosen):
      kept[done : done + len(block)] = block
      done += len(block)
    assert done == count
    kept.flush()
    if flags.uids:
      named = np.sort(uids.of(source, kept, "--uids"))
      del kept  # It maps the file that is now written.
      with new.open("wb") as file:
        np.save(file, named)
  if flags.picture:
    png = picture.draw(source, scores, chosen.least)
    target = paths.absolute(flags.picture, "--picture")
    with atomic.appears(target) as new:
      new.write_bytes(png)
  counts, edges = selection.histogram(scores)
  print(
    json.dumps(
      {
        "records": len(scores),
        "scored": selection.known(scores),
        "kept": count,
        "least": chosen.least,
        "histogram": {"counts": counts, "edges": edges},
      }
    )
  )


def _records(flags: argparse.Namespace, records: int) -> Source | None:
  """The records, checked; None without --data."""
  if flags.picture is not None:
    path = paths.absolute(flags.picture, "--picture")
    if path.suffix != ".png":
      value, allowed = flags.picture, "NAME.png"
      raise errors.UserError("--picture", value, allowed, "See --help.")
    atomic.check_parent(path, flags.picture, "--picture")
  if flags.picture is not None or flags.uids:
    cli.require(flags, data="the records, for --picture and --uids")
  elif flags.data is not None and flags.among is None:
    cli.require(flags, picture="a file, or --uids, or --among, with --data")
  if flags.data is None:
    return None
  source = build_source(flags.data, "--data")
  if len(source) != records:
    value, allowed = f"{len(source):,} records", f"{records:,}, as --scores"
    raise errors.UserError("--data", value, allowed, "Is it other data?")
  return source


def fraction(text: str) -> fractions.Fraction:
  """Returns a decimal as it is written: 0.29 of 100 is 29, not 28.99..."""
  return fractions.Fraction(text)


def read(path: str) -> np.ndarray:
  """Returns the scores of a folder, a memory map.

  Raises:
    UserError: if there are none.
  """
  file = paths.local(f"{path}/scores.npy", "--scores")
  try:
    scores = np.load(file, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError) as e:
    allowed = "a folder that score has written"
    raise errors.UserError("--scores", path, allowed, f"{e}.") from e
  if scores.dtype != np.float32 or scores.ndim != 1:
    value = f"{scores.dtype} {list(scores.shape)} in {file}"
    raise errors.UserError("--scores", value, "float32 [n]", "Run score again.")
  return scores


def choose(
  scores: np.ndarray,
  fraction: fractions.Fraction | None,
  threshold: float | None,
) -> selection.Chosen:
  """Returns what is kept by a fraction of all records, or by a threshold.

  Raises:
    UserError: if that is nothing, or more records than have scores.
  """
  if threshold is not None:
    if not math.isfinite(threshold):
      allowed = "a finite number"
      raise errors.UserError("--threshold", threshold, allowed, "See --help.")
    chosen = selection.at_least(scores, threshold)
    if not chosen.above + chosen.ties:
      allowed = "a score that some record has"
      raise errors.UserError("--threshold", threshold, allowed, "Lower it.")
    return chosen
  if not 0 < fraction <= 1:
    allowed = "a number above 0, at most 1"
    value = float(fraction)
    raise errors.UserError("--fraction", value, allowed, "See --help.")
  count, known = math.floor(fraction * len(scores)), selection.known(scores)
  if not 1 <= count <= known:
    value = f"{float(fraction)}: {count:,} of {len(scores):,} records"
    allowed = f"from 1 to {known:,} records, those that have a score"
    raise errors.UserError("--fraction", value, allowed, "Change it.")
  return selection.best(scores, count)


if __name__ == "__main__":
  cli.main(run)
