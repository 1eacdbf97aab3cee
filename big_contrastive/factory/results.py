"""Figures of models on sets: kept as they come, and one table of all."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.evals.suites import METRICS
from big_contrastive.factory.suites import Found
from big_contrastive.storage import atomic, paths, urls

# To be raised by a change of code after which the same data have other figures.
_REVISION = 1

_COLUMNS = (
  "model", "suite", "set", "metric", "value", "chance", "examples", "data",
)  # fmt: skip

Row = dict[str, Any]  # By the names of _COLUMNS.


def key(digests: Mapping[str, str], found: Found) -> str:
  """Returns the name of a model's figures on a set.

  Args:
    digests: inference.model.Model.digests.
    found: the set.
  """
  text = json.dumps([_REVISION, dict(sorted(digests.items())), found.digest])
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Results:
  """Figures in a folder, a file for each model and set; or nowhere.

  Args:
    out: the folder, which may hold figures of earlier runs; None for none.
    writes: whether this process has the folder; all keep theirs in memory.

  Raises:
    UserError: for what is no folder, or whose parent is missing.
  """

  def __init__(self, out: str | None, writes: bool = True):
    self._folder: paths.Path | None = None
    self._new: dict[str, dict[str, float]] = {}
    if out is None or not writes:
      return
    path = paths.absolute(out, "--out")
    with urls.reached("--out", out):
      if path.exists() and not path.is_dir():
        raise errors.UserError("--out", out, "a folder", "Choose another.")
    atomic.check_parent(path, out, "--out")
    self._folder = path

  def get(self, key: str) -> dict[str, float] | None:
    """Returns the figures; None if there are none yet.

    Raises:
      UserError: for a file that holds none.
    """
    if (
      self._folder is None
      or not (file := self._folder / f"{key}.json").exists()
    ):
      return self._new.get(key)
    try:
      figures = json.loads(file.read_text())["figures"]
      return {name: float(value) for name, value in figures.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as e:
      remedy = "Remove it: it will be evaluated again."
      raise errors.UserError(str(file), "unreadable", "figures", remedy) from e

  def put(self, key: str, figures: dict[str, float], about: Row) -> None:
    """Keeps figures, beside what they are of."""
    self._new[key] = figures
    text = json.dumps(about | {"figures": figures}, indent=2, allow_nan=False)
    self._write(f"{key}.json", text + "\n")

  def write(self, rows: Sequence[Row]) -> None:
    """Writes table.json, table.csv and table.md."""
    self._write("table.json", json.dumps(rows, indent=2) + "\n")
    self._write("table.csv", as_csv(rows))
    self._write("table.md", as_markdown(rows))

  def _write(self, name: str, text: str) -> None:
    if self._folder is not None:
      if not urls.remote(self._folder):
        self._folder.mkdir(exist_ok=True)
      atomic.replace(self._folder / name, text)


def rows(model: str, found: Found, figures: Mapping[str, float]) -> list[Row]:
  """Returns the rows of a set: its metrics, each with its chance level."""
  table = []
  for metric, chance in METRICS[found.task].items():
    counted = "texts" if metric.startswith("txt2img") else "images"
    examples = int(figures.get(counted, found.records))
    values = figures[metric], figures[chance], examples
    what = model, found.suite, found.name, metric
    table.append(dict(zip(_COLUMNS, (*what, *values, found.data), strict=True)))
  return table


def means(table: Sequence[Row]) -> list[Row]:
  """Returns the rows of means over the sets of a model's complete suite."""
  out = []
  for metric in dict.fromkeys(row["metric"] for row in table):
    some = [row for row in table if row["metric"] == metric]
    value, chance = (
      float(np.mean([row[k] for row in some])) for k in ("value", "chance")
    )
    examples = sum(row["examples"] for row in some)
    out.append(
      some[0]
      | {"set": "mean", "value": value, "chance": chance}
      | {"examples": examples, "data": f"{len(some)} sets"}
    )
  return out


def as_csv(table: Sequence[Row]) -> str:
  """Returns a table as CSV, a line for each figure."""
  file = io.StringIO()
  writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(table)
  return file.getvalue()


def as_markdown(table: Sequence[Row]) -> str:
  """Returns a table as Markdown, a column for each model."""
  models = list(dict.fromkeys(row["model"] for row in table))
  lines: dict[tuple, dict[str, str]] = {}
  for row in table:
    what = row["suite"], row["set"], row["metric"]
    line = lines.setdefault(what, {
      "set": f"{row['suite']}/{row['set']}", "metric": row["metric"],
      "chance": f"{row['chance']:.4f}", "examples": f"{row['examples']:,}",
    })  # fmt: skip
    line[row["model"]] = f"{row['value']:.4f}"
  heads = ["set", "metric", "chance", "examples", *models]
  cells = [heads, ["---"] * 2 + ["---:"] * (len(heads) - 2)]
  cells += [[line[head] for head in heads] for line in lines.values()]
  return "".join(
    "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n"
    for row in cells
  )
