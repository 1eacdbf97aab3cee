"""How well CapFilt tells right captions from wrong ones, of what is known.

  python -m benchmarks.capfilt --captioned OUT \\
    --data shapes:split=train,wrong=0.3 [--threshold 0.5]

Prints figures of a folder that `caption` has written of the embedded data set,
some of whose records have the captions of others:

  precision, recall   of the filter on web captions: of those that it keeps, the
                      share that is the record's own; of these, the share kept
  area                under the curve: a record's own before those of others
  true, kept_true     share of the generated captions that say only what is so;
                      of those that are kept
  restored            of records with captions of others, the share that now
                      have only true ones
  lost                of all records, the share without any caption left
  pool_before, pool   share of true captions, before and after
"""

import argparse
import json

import numpy as np

from big_contrastive.data.build import build_source
from big_contrastive.data.files import captioned
from big_contrastive.data.source import Source
from big_contrastive.storage import paths


def rows(folder: captioned.Folder, source: Source) -> dict[str, np.ndarray]:
  """Returns the captions: record, whether web, whether true, score."""
  found = []
  for block in range(len(folder.groups)):
    done = sum(n for _, _, n in folder.groups[:block])
    table = folder.read(block)
    for i, captions in enumerate(table["captions"].to_pylist(), done):
      for c in captions:
        score = -np.inf if c["score"] is None else c["score"]
        true = bool(source.true(i, c["text"]))
        found.append((i, c["source"] == "web", true, score))
  columns = zip(*found, strict=True)
  return dict(zip(("record", "web", "true", "score"), map(np.array, columns)))


def area(score: np.ndarray, right: np.ndarray) -> float:
  """Returns how often a right one has the larger score; ties are halves."""
  wrong = np.sort(score[~right])
  below = np.searchsorted(wrong, score[right])
  upto = np.searchsorted(wrong, score[right], side="right")
  return float((below + upto).mean() / 2 / len(wrong))


def figures(
  found: dict[str, np.ndarray], wrong: np.ndarray, threshold: float
) -> dict[str, float]:
  """Returns the figures that the docstring names.

  Args:
    found: what `rows` returns.
    wrong: bool [n], the records with the captions of others.
    threshold: the least score that is kept.
  """
  web, true, at = found["web"], found["true"], found["record"]
  kept, own = found["score"] >= threshold, ~wrong[at]
  has, spoiled = np.zeros((2, len(wrong)), bool)
  has[at[kept]] = True
  spoiled[at[kept & ~true]] = True
  share = lambda x: float(x.mean()) if len(x) else 0.0  # noqa: E731
  return {
    "precision": share(own[web & kept]),
    "recall": share(kept[web & own]),
    "area": area(found["score"][web], own[web]),
    "true": share(true[~web]),
    "kept_true": share(true[~web & kept]),
    "restored": share((has & ~spoiled)[wrong]),
    "lost": share(~has),
    "pool_before": share(true[web]),
    "pool": share(true[kept]),
  }


def run() -> None:
  """Prints the figures as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--captioned", required=True)
  parser.add_argument("--data", required=True)
  parser.add_argument("--threshold", type=float, default=0.5)
  flags = parser.parse_args()
  source = build_source(flags.data, "--data")
  path = paths.at(flags.captioned, "--captioned")
  found = rows(captioned.Folder(path, "--captioned"), source)
  print(json.dumps(figures(found, source.wrong, flags.threshold)))


if __name__ == "__main__":
  run()
