"""What in a workdir is worth a reader's attention: warnings, restarts, NaN."""

from typing import Any, NamedTuple

import numpy as np

from big_contrastive.reports.numerals import counted
from big_contrastive.reports.series import Series

# Kinds that say how a run went, and are no warnings.
QUIET = ("resumed", "stopped", "file")
_LISTED = 6


class Note(NamedTuple):
  """One line about a run.

  Attributes:
    step: where it happened; None for what is of the whole run.
    kind: "warning", "skipped", "resumed", "stopped", "not finite", "records" or
      "file".
    text: the line.
  """

  step: int | None
  kind: str
  text: str


def of_events(happened: list[dict[str, Any]]) -> list[Note]:
  """Returns notes of a run's events, each once.

  A run that was killed says again what it said after its last checkpoint; and
  one that began twice had no checkpoint to resume from.
  """
  if not happened:
    return [Note(None, "file", "no events.jsonl: its warnings were not kept")]
  found: list[Note] = []
  begun = 0
  for event in happened:
    step, kind = event.get("step"), str(event.get("kind"))
    if type(step) is not int:
      continue
    text = str(event.get("text") or "").removeprefix("warning: ")
    text = text.removeprefix(f"step {step}: ")
    if kind == "began":
      begun += 1
      if begun == 1:
        continue
      kind, text = "resumed", "began again: there was no checkpoint"
    elif kind == "resumed":
      when = str(event.get("time", ""))[:16].replace("T", " ")
      found.append(Note(step, kind, f"resumed {when} UTC".strip()))
      continue
    note = Note(step, kind, text or kind)
    if kind in QUIET or note not in found:
      found.append(note)
  return found


def of_batches(batches: list[dict[str, Any]]) -> list[Note]:
  """Returns notes of the batches that training was ended by."""
  return [
    Note(
      row["step"],
      "not finite",
      f"not finite: {_listed(map(str, row.get('not_finite', [])))}; the batch "
      "is in nonfinite/",
    )
    for row in batches
    if type(row.get("step")) is int
  ]


def of_metrics(
  values: dict[str, Series], wrong: dict[str, list[int]]
) -> list[Note]:
  """Returns notes of values that are not finite, and of bad records.

  Args:
    values: metrics by name.
    wrong: by name, the steps where one was not finite.
  """
  names: dict[tuple[int, ...], list[str]] = {}
  for name, steps in wrong.items():
    names.setdefault(tuple(steps), []).append(name)
  found = [
    Note(
      steps[0],
      "not finite",
      f"not finite: {_listed(those)}; at {counted(len(steps), 'step')}: "
      + _listed(f"{step:,}" for step in steps),
    )
    for steps, those in names.items()
  ]
  for name, series in values.items():
    number = series.finite.values.max(initial=0)
    if name.startswith("data/bad/") and number > 0:
      kind = name.removeprefix("data/bad/")
      told = f"{counted(int(number), 'bad record')}: {kind}"
      found.append(Note(_first(series), "records", told))
    if name == "train/skipped" and number > 0:
      told = f"{counted(int(number), 'step')} skipped in all"
      found.append(Note(_first(series), "skipped", told))
  return found


def _first(series: Series) -> int:
  return int(series.steps[np.argmax(series.values > 0)])


def _listed(items: Any) -> str:
  """The first of several texts, and how many more there are."""
  items = list(items)
  more = f" and {len(items) - _LISTED:,} more" if len(items) > _LISTED else ""
  return ", ".join(items[:_LISTED]) + more
