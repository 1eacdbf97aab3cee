"""The page of a report: one file, which needs no other and no network."""

import datetime
import importlib.resources
from collections.abc import Iterable, Iterator

from big_contrastive.reports import (
  axes,
  curves,
  evaluations,
  pictures,
  series,
  tables,
)
from big_contrastive.reports.curves import Curve
from big_contrastive.reports.markup import Markup, joined, tag
from big_contrastive.reports.runs import Run
from big_contrastive.reports.series import Series

# What a page of ours begins with, so that it may be written over.
BEGINNING = "<!doctype html>\n<!-- big_contrastive.report -->\n"


def page(runs: list[Run], axis: str) -> str:
  """Returns the HTML of a report.

  Args:
    runs: one or more, with different names.
    axis: of the charts at first, one of axes.AXES; the reader may choose.
  """
  names = [run.name for run in runs]
  title = ", ".join(names) if len(runs) < 3 else f"{len(runs)} runs"
  sections = {
    "Warnings": tables.warnings(runs),
    "Evaluations": _evaluations(runs),
    "Curves": _curves(runs, axis),
    "Time": tables.times(runs),
    "Pictures": pictures.gallery(runs),
    "Config": tables.configs(runs),
  }
  links = [tag("a", x, href=f"#{x.lower()}") for x in sections if sections[x]]
  body = [
    tag("section", tag("h2", name), inside, id=name.lower())
    for name, inside in sections.items()
    if inside
  ]
  now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
  about = f"A report of big_contrastive, {now}"
  head = tag(
    "head",
    tag("meta", charset="utf-8"),
    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
    tag("meta", name="color-scheme", content="light dark"),
    # No request, whatever a name or a config holds.
    tag(
      "meta", http_equiv="Content-Security-Policy",
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'",
    ),
    tag("link", rel="icon", href="data:,"),
    tag("title", title),
    Markup(f"<style>{_file('style.css')}</style>"),
  )  # fmt: skip
  header = tag(
    "header",
    tag("h1", title),
    tag("p", about, class_="quiet"),
    tables.overview(runs),
    tag("nav", links, aria_label="Sections"),
  )
  script = Markup(f"<script>{_file('script.js')}</script>")
  one = "one" if len(runs) == 1 else None
  whole = tag("body", header, tag("main", body), script, class_=one)
  html = f"{BEGINNING}{tag('html', head, whole, lang='en')}\n"
  # JSON may have halves of characters.
  return html.encode(errors="replace").decode()


def _file(name: str) -> str:
  return (importlib.resources.files(__package__) / name).read_text()


def _names(runs: list[Run]) -> list[str]:
  return list(dict.fromkeys(name for run in runs for name in run.metrics))


def _evaluations(runs: list[Run]) -> Markup | None:
  """A table for each evaluation."""
  found: dict[str, list[str]] = {}
  for name in _names(runs):
    used = [run for run in runs if name in run.metrics]
    level = all(evaluations.is_level(name, run.metrics) for run in used)
    if name.startswith("eval/") and not level:
      found.setdefault(name.rpartition("/")[0], []).append(name)
  blocks = [
    tag(
      "div",
      tag("h3", evaluation.removeprefix("eval/")),
      tables.results(runs, evaluation, names),
    )
    for evaluation, names in found.items()
  ]
  return tag("div", blocks, class_="tables") if blocks else None


def _curves(runs: list[Run], axis: str) -> Markup:
  """Charts along each axis that is known; one is shown, a button for each."""
  drawn, single = _drawn(runs)
  if not drawn:
    inside = _quiet("There are no curves yet.")
  else:
    moved = {x: [axes.along(run, x) for run in runs] for x in axes.AXES}
    known = [x for x in axes.AXES if any(moved[x])]
    blocks = [_along(runs, moved[x], x, drawn) for x in known]
    inside = blocks[0]
    if len(known) > 1:
      buttons = [_button(x, x == axis) for x in known]
      inside = tag("div", buttons, blocks, class_="axes")
  return joined(inside, tables.unchanged(runs, single) if single else None)


def _drawn(runs: list[Run]) -> tuple[list[str], list[str]]:
  """Metrics that are drawn, in order, and those that are but one number."""
  drawn, single = [], []
  for name in sorted(_names(runs), key=_order):
    having = [run for run in runs if name in run.metrics]
    if all(evaluations.is_level(name, run.metrics) for run in having):
      continue
    if _varies(run.metrics[name] for run in having):
      drawn.append(name)
    elif not name.startswith("eval/"):
      single.append(name)
  return drawn, single


def _button(axis: str, chosen: bool) -> Markup:
  """Shows the charts along an axis; style.css has what makes it work."""
  about = {"type": "radio", "name": "axis", "id": f"by-{axis}"}
  return joined(
    tag("input", checked="" if chosen else None, **about),
    tag("label", f"by {axis}", for_=about["id"]),
  )


def _along(
  runs: list[Run], moved: list[Run | None], axis: str, names: list[str]
) -> Markup:
  """Charts along an axis, by group."""
  groups: dict[str, list[Markup]] = {}
  for name in names:
    if found := _of(moved, name):
      log = name.startswith(("train", "perf")) and _may(name)
      chart = curves.chart(name.rpartition("/")[2], found, axis, log)
      groups.setdefault(_group(name), []).append(chart)
  blocks = [
    joined(tag("h3", group), tag("div", charts, class_="charts"))
    for group, charts in groups.items()
  ]
  said = [_quiet(text) for text in _said(runs, moved, axis)]
  return tag("div", said, blocks, class_=f"by-{axis}")


def _said(runs: list[Run], moved: list[Run | None], axis: str) -> Iterator[str]:
  """What a reader must know of the axis."""
  sizes = {(run.config or {}).get("batch_size") for run in runs}
  if axis == "step" and len(sizes) > 1:
    yield "Their batches differ in size: compare them by examples."
  if axis == "hours":
    yield (
      "Hours of steps and of waiting for their batches: without evaluations, "
      "saves, compiling, pauses, and what a kill undid."
    )
  missing = [a.name for a, b in zip(runs, moved, strict=True) if b is None]
  if missing:
    yield f"Not known of {', '.join(missing)}."


def _quiet(text: str) -> Markup:
  return tag("p", text, class_="quiet")


def _may(name: str) -> bool:
  """A rate that falls to nothing says nothing on a logarithmic scale."""
  return not name.endswith("learning_rate")


def _varies(found: Iterable[Series]) -> bool:
  """Whether there is more than one value at more than one step."""
  steps, values = set(), set()
  for s in found:
    steps |= set(s.finite.steps.tolist())
    values |= set(s.finite.values.tolist())
  return len(steps) > 1 and len(values) > 1


def _of(runs: list[Run | None], name: str) -> list[Curve]:
  """A metric's curves, with their levels."""
  out = []
  for i, run in enumerate(runs):
    values = run.metrics.get(name) if run else None
    if values is None or not len(values.finite.steps):
      continue
    other, label = evaluations.level_of(name, run.metrics)
    level = run.metrics[other] if other else None
    if name in run.chances:
      level = series.of([(int(values.steps[0]), run.chances[name])])
    if level is not None and not len(level.finite.steps):
      level = None
    out.append(Curve(i, run.name, values, level, label or "chance"))
  return out


def _group(name: str) -> str:
  """The heading of a metric's chart."""
  first, _, rest = name.partition("/")
  if _is_first(name):
    return "Loss, learning rate, speed"
  if first == "eval" and "/" in rest:
    return rest.rpartition("/")[0]
  return {"train": "Training", "data": "Data"}.get(first, first)


_FIRST = "train/loss", "train/learning_rate"


def _is_first(name: str) -> bool:
  is_loss = name.startswith("train/") and name.endswith("loss")
  return is_loss or name in _FIRST or name.startswith("perf/")


def _order(name: str) -> tuple[int, ...]:
  """The loss first, then evaluations, then what explains them."""
  if _is_first(name):
    speed = name.startswith("perf/")
    return 0, name != "train/loss", speed, name == "train/learning_rate"
  first = name.partition("/")[0]
  return {"eval": 1, "train": 2, "data": 3}.get(first, 4), 0, 0, 0
