"""The tables of a report."""

from typing import Any

from big_contrastive.reports import curves, differences, evaluations, notes
from big_contrastive.reports.markup import Markup, joined, table, tag
from big_contrastive.reports.notes import Note
from big_contrastive.reports.numerals import counted, shown
from big_contrastive.reports.runs import Run
from big_contrastive.reports.series import Series

# A page must stay small, whatever went wrong.
_NOTES = 40


def overview(runs: list[Run]) -> Markup:
  """Returns a row for each run: how far it is, and its last figures."""
  goodput = sorted(
    {n for run in runs for n in run.metrics if n.startswith("perf/goodput")}
  )
  head = ["run", "step", "batch", "loss", "images/s"]
  head += [name.removeprefix("perf/").replace("_", " ") for name in goodput]
  rows = []
  for i, run in enumerate(runs):
    where = tag("small", run.path, class_="path")
    name = tag("div", curves.sample(i), tag("b", run.name), class_="run")
    names = "train/loss", "perf/images_per_s", *goodput
    rows.append(
      [joined(name, where), _progress(run), _batch(run)]
      + [_last(run, name) for name in names]
    )
  return table("Runs", head, rows, "overview")


def _progress(run: Run) -> Markup:
  done = f"{run.step:,}"
  if not run.total:
    return joined(done)
  text = f"{done} of {run.total:,}"
  share = min(1.0, run.step / run.total)
  bar = tag("span", class_="done", style=f"width:{100 * share:.1f}%")
  return joined(text, tag("span", bar, class_="bar", aria_hidden="true"))


def _batch(run: Run) -> str:
  size = (run.config or {}).get("batch_size")
  return f"{size:,}" if isinstance(size, int) else ""


def _last(run: Run, name: str) -> str:
  values = run.metrics.get(name)
  return "" if values is None else shown(values.finite.last)


def _named(runs: list[Run], run: Run) -> Markup:
  """A run's name, behind the line that it has in charts."""
  return joined(curves.sample(runs.index(run)), run.name)


def _has_finite(values: Series | None) -> bool:
  return values is not None and len(values.finite.steps) > 0


def warnings(runs: list[Run]) -> Markup:
  """Returns what the workdirs know of trouble, in the order of the runs."""
  blocks = []
  for i, run in enumerate(runs):
    if not run.notes:
      continue
    ordered = sorted(run.notes, key=lambda note: note.step or 0)
    lines = [_note(note) for note in ordered[:_NOTES]]
    if len(ordered) > _NOTES:
      more = f"{len(ordered) - _NOTES:,} more are in {run.path}"
      lines.append(tag("li", more, class_="quiet"))
    title = tag("h3", curves.sample(i), run.name)
    blocks.append(tag("div", title, tag("ul", lines, class_="notes")))
  if not blocks:
    return tag("p", "Nothing was recorded.", class_="quiet")
  if len(blocks) < len(runs):
    clean = [run.name for run in runs if not run.notes]
    text = f"Nothing was recorded of {', '.join(clean)}."
    blocks.append(tag("p", text, class_="quiet"))
  return joined(blocks)


def _note(note: Note) -> Markup:
  step = "" if note.step is None else f"step {note.step:,}"
  quiet = "quiet" if note.kind in notes.QUIET else None
  return tag("li", tag("span", step, class_="step"), note.text, class_=quiet)


def results(runs: list[Run], evaluation: str, names: list[str]) -> Markup:
  """Returns the last and the best value of metrics, by run.

  Args:
    runs: all runs; those without any of the metrics are left out.
    evaluation: "eval/NAME".
    names: metrics of it.
  """
  having = [run for run in runs if run.metrics.keys() & set(names)]
  above: list[Any] = [(None, 2)]
  above += [(_named(runs, run), 2) for run in having]
  head = ["metric", "chance", *["last", "best"] * len(having)]
  rows = [_result(having, name) for name in names]
  title = evaluation.removeprefix("eval/")
  return table(title, head, rows, "results", above)


def _result(runs: list[Run], name: str) -> list[Any]:
  levels = []
  cells: list[Any] = []
  lasts = [_last_value(run, name) for run in runs]
  sign = evaluations.better(name.rpartition("/")[2])
  known = [x for x in lasts if x is not None]
  top = max((sign * x for x in known), default=None) if sign else None
  for run, last in zip(runs, lasts, strict=True):
    if last is None:
      cells += ["", ""]
      continue
    level, label = evaluations.level_of(name, run.metrics)
    if level and _has_finite(run.metrics[level]):
      text = shown(run.metrics[level].finite.last)
      levels.append(text if label == "chance" else f"{text} {label}")
    # As far as can be seen: of equal figures all are the first.
    first = len(known) > 1 and sign and shown(sign * last) == shown(top)
    cells.append(tag("b", shown(last)) if first else shown(last))
    cells.append(_best(name, run.metrics[name]))
  return [name.rpartition("/")[2], ", ".join(dict.fromkeys(levels)), *cells]


def _last_value(run: Run, name: str) -> float | None:
  values = run.metrics.get(name)
  return values.finite.last if _has_finite(values) else None


def _best(name: str, values: Series) -> Markup | str:
  """The best value and its step; of a metric without a direction its range."""
  found, s = evaluations.best(name, values), values.finite
  if found is not None:
    at = tag("small", f" at {found[1]:,}")
    return joined(shown(found[0]), at)
  if s.constant:
    return ""
  return tag("small", f"{shown(s.values.min())} to {shown(s.values.max())}")


def times(runs: list[Run]) -> Markup | None:
  """Returns what the wall time of the runs went to; None if nobody knows."""
  known = [run for run in runs if sum(run.seconds.values()) > 0]
  if not known:
    return None
  phases = dict.fromkeys(phase for run in known for phase in run.seconds)
  head: list[Any] = ["phase"]
  head += [_named(runs, run) for run in known]
  rows: list[list[Any]] = [[phase] for phase in phases]
  for run in known:
    whole = sum(run.seconds.values())
    for row, phase in zip(rows, phases, strict=True):
      seconds = run.seconds.get(phase, 0.0)
      at = tag("small", f" {seconds:,.0f} s")
      row.append(joined(f"{100 * seconds / whole:.1f} %", at))
  order = known[0].seconds
  rows.sort(key=lambda row: -order.get(row[0], 0.0))
  return table("Time", head, rows, "plain")


def unchanged(runs: list[Run], names: list[str]) -> Markup:
  """Returns a table of metrics that are no curves: one value a run."""
  head = ["metric", *(run.name for run in runs)]
  rows = [[name, *(_last(run, name) for run in runs)] for name in names]
  title = f"{counted(len(names), 'metric')} of one value"
  inside = table(title, head, rows, "plain")
  return tag("details", tag("summary", title), inside)


def configs(runs: list[Run]) -> Markup:
  """Returns the fields that differ, and the others folded."""
  known = [run for run in runs if run.config is not None]
  if not known:
    return tag("p", "No workdir has a config.", class_="quiet")
  differ, same = differences.split([run.config for run in known])
  pieces: list[Any] = []
  if len(known) > 1 and differ:
    head = ["field"]
    head += [_named(runs, run) for run in known]
    rows = [[name, *map(_value, values)] for name, values in differ.items()]
    pieces.append(table("Fields that differ", head, rows, "config"))
  elif len(known) > 1:
    pieces.append(tag("p", "All fields are the same.", class_="quiet"))
  if len(known) < len(runs):
    text = ", ".join(run.name for run in runs if run.config is None)
    pieces.append(tag("p", f"Not known of {text}.", class_="quiet"))
  if same:
    noun = "field" if len(known) == 1 else "other field"
    title = f"{counted(len(same), noun)}"
    if len(known) > 1:
      title += ", the same in all runs"
    rows = [[name, _value(value)] for name, value in same.items()]
    inside = table(title, ["field", "value"], rows, "config")
    pieces.append(tag("details", tag("summary", title), inside))
  return joined(pieces)


def _value(text: str) -> Markup:
  if text == differences.ABSENT:
    return tag("small", text)
  return tag("code", text)
