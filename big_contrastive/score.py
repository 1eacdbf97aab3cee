"""Scores the pairs of an embedded data set: how well caption and image agree.

  python -m big_contrastive.score --embedded embedded --out scores

  OUT/scores.npy   float32 [n], in the order of the records; NaN for a bad
                   record, one without captions, and one that breaks a rule
  OUT/about.json   how they were made, and how many are NaN, by reason

--by cosine, of the image with its best caption; or --by normalized, minus the
CLIP loss of the pair among --reference others (arXiv:2405.19547), which needs
parts with vectors. Rules: --min_side and --max_aspect of images, --min_words
and --min_characters of captions. big_contrastive.keep takes the best.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import collections
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.factory import cli
from big_contrastive.offline import scoring, text_and_size
from big_contrastive.parallel import sharding
from big_contrastive.storage import atomic

BY = ("cosine", "normalized")


def run() -> None:
  """Parses the flags, and writes and describes the scores."""
  flags = _flags()
  out = atomic.free(flags.out, "--out")
  parts = scoring.Parts(flags.embedded, "--embedded")
  fields = ("min_side", "max_aspect", "min_words", "min_characters")
  chosen = {name: getattr(flags, name) for name in fields}
  made: dict[str, Any] = {"by": flags.by} | chosen
  if flags.by == "normalized":
    made |= {"reference": flags.reference, "seed": flags.seed}
    mesh = sharding.make_mesh()
    found = scoring.normalized(parts, mesh, flags.reference, flags.seed)
  else:
    found = scoring.cosines(parts)
  left_out: collections.Counter[str] = collections.Counter()
  with atomic.appears(out) as new:
    new.mkdir()
    scores = np.lib.format.open_memmap(
      new / "scores.npy", "w+", np.float32, (parts.records,)
    )
    rules = text_and_size.Rules(**chosen)
    for first, block in _ruled(found, parts, rules, left_out):
      scores[first : first + len(block)] = block
    scores.flush()
    scored = parts.records - sum(left_out.values())
    about = made | {
      "embedded": flags.embedded, "model": parts.about["made"]["model"],
      "data": parts.about["data"], "records": parts.records, "scored": scored,
      "left_out": dict(left_out),
    }  # fmt: skip
    (new / "about.json").write_text(json.dumps(about, indent=2) + "\n")
  counts = {k: about[k] for k in ("records", "scored", "left_out")}
  print(json.dumps(counts))


def _ruled(
  found: Iterator[tuple[int, np.ndarray]],
  parts: scoring.Parts,
  rules: text_and_size.Rules,
  left_out: collections.Counter[str],
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields blocks of scores, NaN where a rule is broken; counts reasons."""
  columns = ["bad", *text_and_size.COLUMNS]
  for (first, scores), (at, table) in zip(
    found, parts.tables(columns), strict=True
  ):
    assert first == at and len(scores) == len(table)
    bad = ~table["bad"].is_null().to_numpy()
    none = np.isnan(scores) & ~bad
    left_out.update({"bad": int(bad.sum()), "no caption": int(none.sum())})
    for name, broken in rules.broken(table).items():
      broken = broken & ~none
      left_out[name] += int(broken.sum())
      scores = np.where(broken, np.float32(np.nan), scores)
    yield first, scores


def _flags() -> argparse.Namespace:
  parser = cli.parser(__doc__)
  add = parser.add_argument
  add("--embedded", required=True, help="a folder that embed has written")
  add("--out", required=True, help="a new folder")
  add("--by", default="cosine", help=" or ".join(BY))
  add("--reference", type=int, default=32768, help="records of normalized")
  add("--seed", type=int, default=0, help="of the reference")
  add("--min_side", type=int, default=0, help="pixels")
  add("--max_aspect", type=cli.number, default=0.0, help="longer : shorter")
  add("--min_words", type=int, default=0)
  add("--min_characters", type=int, default=0)
  flags = parser.parse_args()
  errors.choice("--by", flags.by, BY)
  for name in ("min_side", "min_words", "min_characters"):
    errors.at_least(f"--{name}", getattr(flags, name), 0)
  errors.at_least("--reference", flags.reference, 1)
  return flags


if __name__ == "__main__":
  cli.main(run)
