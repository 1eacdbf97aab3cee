"""Reads what the workdir of a run holds."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import durations, errors
from big_contrastive.reports import notes, series
from big_contrastive.reports.notes import Note
from big_contrastive.reports.series import Series
from big_contrastive.storage import paths, urls
from big_contrastive.storage.paths import Path
from big_contrastive.training import clock, events, metrics

_ALLOWED = "the workdir of a run"
_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, as far as it got.

  Attributes:
    name: its folder's, with those above where it would occur twice.
    path: as it was given.
    metrics: by name.
    hours: of training so far, by step; None if they weren't recorded.
    config: None if it isn't known.
    total: the steps it will have in the end, None if they aren't known.
    chances: values of guessing of metrics of training, by name.
    seconds: what the wall time went to, by phase, restarts included.
    notes: what is worth a reader's attention.
    pictures: PNG files by name.
  """

  name: str
  path: str
  metrics: dict[str, Series]
  hours: Series | None
  config: dict[str, Any] | None
  total: int | None
  chances: dict[str, float]
  seconds: dict[str, float]
  notes: list[Note]
  pictures: dict[str, Path]

  @property
  def step(self) -> int:
    """The last step that has a metric."""
    return max((int(s.steps[-1]) for s in self.metrics.values()), default=0)


def read(given: list[str]) -> list[Run]:
  """Returns the runs of these workdirs, on this machine or in buckets.

  Raises:
    UserError: for a path that is no run, or that is given twice.
  """
  homes = [paths.absolute(text, "RUN") for text in given]
  for i, home in enumerate(homes):
    if home in homes[:i]:
      allowed, remedy = "another run each time", "Leave one out."
      raise errors.UserError("RUN", given[i], allowed, remedy)
  return [
    _read(home, text, name)
    for home, text, name in zip(homes, given, _names(homes), strict=True)
  ]


def _names(homes: list[Path]) -> list[str]:
  """The ends of paths, each as long as it must be to differ from the others."""
  parts = [[p for p in home.parts if p != home.anchor] for home in homes]
  names = []
  for own in parts:
    others = [p for p in parts if p is not own]
    length = 1
    while length < len(own) and any(
      p[-length:] == own[-length:] for p in others
    ):
      length += 1
    names.append("/".join(own[-length:]) or "/")
  return names


def _read(home: Path, text: str, name: str) -> Run:
  with urls.reached("RUN", text):
    _check(home, text)
    rows, notes_of_file = _rows(home)
    values, wrong = _series(rows)
    hours = values.pop(clock.HOURS, None)
    happened, _ = _lines(home / events.FILE)
    config = _config(home)
    begun = [e for e in happened if e.get("kind") in ("began", "resumed")]
    last = begun[-1] if begun else {}
    return Run(
      name=name,
      path=text,
      metrics=values,
      hours=hours,
      config=config,
      total=_total(last.get("total"), config),
      chances={
        f"train/{k}": v for k, v in _numbers(last.get("chances")).items()
      },
      seconds=_numbers(_object(home / clock.FILE).get("seconds")),
      notes=[
        *notes.of_events(happened),
        *notes.of_batches(_batches(home)),
        *notes.of_metrics(values, wrong),
        *notes_of_file,
      ],
      pictures=_pictures(home),
    )


def _check(home: Path, text: str) -> None:
  """Raises UserError unless something here was written by a run."""
  names = (metrics.FILE, _CONFIG, find.FOLDER)
  if any((home / name).exists() for name in names):
    return
  if not home.exists():
    remedy = "It does not exist."
  elif not home.is_dir():
    remedy = f"It is a file. Give the folder that holds {metrics.FILE}."
  else:
    inside = sorted(home.iterdir())
    runs = [p for p in inside if (p / metrics.FILE).exists()]
    remedy = f"It holds no {metrics.FILE}."
    if not inside:
      remedy = "It is empty."
    elif runs:
      remedy = f"Did you mean {text.rstrip('/')}/{runs[0].name}?"
  raise errors.UserError("RUN", text, _ALLOWED, remedy)


def _text(path: Path) -> str:
  """A file's text, "" if there is none."""
  if not path.exists():
    return ""
  content = urls.patiently(path.read_bytes, str(path))
  return content.decode(errors="replace")


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
  """The objects of a JSONL file, and how many lines are none.

  The last line may lack its end: the run is writing it.
  """
  found, torn = [], 0
  text = _text(path)
  for line in text.splitlines(keepends=True):
    try:
      row = json.loads(line)
    except ValueError:
      torn += line.endswith("\n")
      continue
    if isinstance(row, dict):
      found.append(row)
    else:
      torn += 1
  return found, torn


def _rows(home: Path) -> tuple[list[dict[str, Any]], list[Note]]:
  """The lines of metrics that have a step, and a note of the others."""
  found, torn = _lines(home / metrics.FILE)
  rows = [row for row in found if _is_step(row.get("step"))]
  torn += len(found) - len(rows)
  if not torn:
    return rows, []
  text = f"{torn:,} of the lines of {metrics.FILE} can't be read"
  return rows, [Note(None, "file", text)]


def _is_step(value: Any) -> bool:
  return type(value) is int and 0 <= value < 2**53


def _series(
  rows: list[dict[str, Any]],
) -> tuple[dict[str, Series], dict[str, list[int]]]:
  """Metrics by name, and for each the steps where it was not finite."""
  points: dict[str, list[tuple[int, float]]] = {}
  for row in rows:
    step = row["step"]
    for name, value in row.items():
      if value is None:
        value = math.nan
      elif type(value) not in (int, float) or name == "step":
        continue
      points.setdefault(name, []).append((step, value))
  found = {name: series.of(values) for name, values in points.items()}
  wrong = {
    name: s.steps[s.values != s.values].tolist() for name, s in found.items()
  }
  return found, {name: steps for name, steps in wrong.items() if steps}


def _config(home: Path) -> dict[str, Any] | None:
  """The config, which also every checkpoint has."""
  if config := _object(home / _CONFIG):
    return config
  saved = find.steps(home / find.FOLDER)
  if not saved:
    return None
  try:
    meta = checkpointer.read_meta(home / find.FOLDER / str(saved[-1]))
    return dict(meta["config"])
  except Exception:  # Orbax has many kinds for a checkpoint that is damaged.
    return None


def _total(told: Any, config: dict[str, Any] | None) -> int | None:
  """The steps of the run; a config alone may give them in epochs."""
  if isinstance(told, int):
    return told
  try:
    return durations.steps(
      config["total"], "config.total", batch_size=config["batch_size"]
    )
  except (TypeError, KeyError, errors.UserError):
    return None


def _numbers(told: Any) -> dict[str, float]:
  """The finite numbers of an object."""
  items = told.items() if isinstance(told, dict) else ()
  return {
    str(name): float(value)
    for name, value in items
    if isinstance(value, int | float) and math.isfinite(value)
  }


def _object(path: Path) -> dict[str, Any]:
  """The object in a JSON file, {} if there is none."""
  try:
    found = json.loads(_text(path) or "null")
  except ValueError:  # It is being written.
    found = None
  return found if isinstance(found, dict) else {}


def _batches(home: Path) -> list[dict[str, Any]]:
  """What was written about batches whose numbers were not finite."""
  folder = home / "nonfinite"
  files = sorted(folder.glob("*.json")) if folder.is_dir() else []
  return [row for file in files for row in _lines(file)[0]]


def _pictures(home: Path) -> dict[str, Path]:
  folder = home / "pictures"
  return {
    str(file.relative_to(folder)).removesuffix(".png"): file
    for file in (_pngs(folder) if folder.is_dir() else ())
  }


def _pngs(folder: Path) -> Iterator[Path]:
  for path in sorted(folder.iterdir()):
    if path.suffix == ".png":
      yield path
    elif path.is_dir():
      yield from _pngs(path)
