"""Charts of metrics as SVG."""

from typing import NamedTuple

import numpy as np

from big_contrastive.reports import scales, series
from big_contrastive.reports.markup import Markup, joined, tag
from big_contrastive.reports.numerals import shown, tick
from big_contrastive.reports.scales import Scale
from big_contrastive.reports.series import Series

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 42, 350, 8, 168
# Of the horizontal axis, of two pixels each.
_PARTS = (RIGHT - LEFT) // 2
# Colors and dashes by run; see style.css. Together they repeat late.
COLORS, DASHES = 8, 5
# With so few points, each is marked.
_MARKED = 30


class Curve(NamedTuple):
  """One run's line in a chart.

  Attributes:
    number: of the run, from 0.
    name: of the run.
    series: with at least one finite value.
    level: what to compare it with, such as chance; None if there is nothing.
    level_name: what that is.
  """

  number: int
  name: str
  series: Series
  level: Series | None = None
  level_name: str = "chance"


def looks(number: int) -> str:
  """Returns the classes of a run's color and dash."""
  return f"c{number % COLORS} d{number % DASHES}"


def sample(number: int) -> Markup:
  """Returns a short line as the run's curves are drawn."""
  line = tag("path", d="M0 5h28", class_=f"curve {looks(number)}")
  return tag(
    "svg", line, class_="sample", viewBox="0 0 28 10", aria_hidden="true"
  )


def chart(
  title: str,
  curves: list[Curve],
  unit: str,
  may_be_log: bool = False,
) -> Markup:
  """Returns a figure: a title, the last values as the legend, and the chart.

  Args:
    title: the metric.
    curves: of the runs that have it.
    unit: of the horizontal axis: "step".
    may_be_log: whether the vertical axis may be logarithmic.
  """
  x = _horizontal([c.series for c in curves])
  levels = _levels(curves)
  beside = [level.finite.values for level, _, _ in levels]
  y = scales.vertical(
    np.concatenate([c.series.finite.values for c in curves]),
    np.concatenate([*beside, np.zeros(0)]),
    BOTTOM,
    TOP,
    may_be_log,
  )
  drawing = tag(
    "svg",
    tag("title", f"{title} by {unit}"),
    tag("desc", _told(curves, unit)),
    _grid(x, y, unit),
    [_level(level, name, x, y, n) for level, name, n in levels],
    [_curve(curve, x, y) for curve in curves],
    tag("path", d="", class_="hair"),
    viewBox=f"0 0 {WIDTH} {HEIGHT}",
    role="img",
    data_left=LEFT,
    data_right=RIGHT,
    data_low=f"{x.low:.17g}",
    data_high=f"{x.high:.17g}",
  )
  scale = tag("small", "log scale") if y.log else None
  head = tag("figcaption", tag("h4", title), scale)
  return tag("figure", head, _legend(curves, unit), drawing, class_="chart")


def _horizontal(found: list[Series]) -> Scale:
  low = min(s.steps[0].item() for s in found)
  high = max(s.steps[-1].item() for s in found)
  return scales.horizontal(low, high, LEFT, RIGHT)


def _legend(curves: list[Curve], unit: str) -> Markup:
  """The runs and their last values, which the pointer changes."""
  items = []
  for curve in curves:
    last = curve.series.finite
    value = tag("b", shown(last.last))
    at = tag("span", f" at {shown(last.steps[-1])}")
    items.append(
      tag(
        "li",
        sample(curve.number),
        tag("span", curve.name, class_="name"),
        tag("span", value, at, class_="value"),
        title=curve.name,
        data_run=curve.number,
      )
    )
  return tag("ul", items, class_="legend", aria_label=f"Values by {unit}")


def _told(curves: list[Curve], unit: str) -> str:
  """The chart in words."""
  lines = []
  for curve in curves:
    s = curve.series.finite
    text = (
      f"{curve.name}: {shown(s.values[0])} at {unit} {shown(s.steps[0])}, "
      f"{shown(s.last)} at {shown(s.steps[-1])}; from {shown(s.values.min())} "
      f"to {shown(s.values.max())}"
    )
    if curve.level is not None:
      text += f"; {curve.level_name} {shown(curve.level.last)}"
    lines.append(text)
  return ". ".join(lines) + "."


def _grid(x: Scale, y: Scale, unit: str) -> Markup:
  rows = y.ticks(5)
  lines = "".join(f"M{LEFT} {_px(y(t))}H{RIGHT}" for t in rows)
  at = x.ticks(5)
  marks = "".join(f"M{_px(x(t))} {BOTTOM}v3" for t in at)
  texts = [
    tag("text", tick(t), x=LEFT - 6, y=_px(y(t) + 3.5), class_="row")
    for t in rows
  ]
  texts += [tag("text", tick(t), x=_px(x(t)), y=BOTTOM + 15) for t in at]
  texts.append(tag("text", unit, x=LEFT - 6, y=BOTTOM + 15, class_="row unit"))
  return joined(
    tag("path", d=lines, class_="grid"),
    tag("path", d=f"M{LEFT} {BOTTOM}H{RIGHT}{marks}", class_="axis"),
    tag("g", texts, class_="ticks", aria_hidden="true"),
  )


def _levels(curves: list[Curve]) -> list[tuple[Series, str, int | None]]:
  """Levels to draw, with their names, and the run where they differ."""
  found: list[tuple[Series, str, int | None]] = []
  for curve in curves:
    if curve.level is None:
      continue
    level, name = curve.level, curve.level_name
    same = [
      other for other, _, _ in found
      if other.constant and level.constant and other.last == level.last
    ]  # fmt: skip
    if not same:
      found.append((level, name, curve.number))
  if len(found) == 1 and found[0][0].constant:
    return [(*found[0][:2], None)]
  return found


def _level(
  level: Series, name: str, x: Scale, y: Scale, number: int | None
) -> Markup:
  """A level: across the chart if it is one number."""
  s = level.finite
  if not len(s.steps):
    return Markup("")
  color = "" if number is None else f" c{number % COLORS}"
  at = _px(y(s.last))
  if s.constant:
    d = f"M{LEFT} {at}H{RIGHT}"
  else:
    d = _line(s, x, y)
  text = f"{name} {shown(s.last)}"
  label = tag("text", text, x=RIGHT, y=_px(y(s.last) - 4), class_="level")
  return joined(tag("path", d=d, class_=f"level{color}"), label)


def _curve(curve: Curve, x: Scale, y: Scale) -> Markup:
  """A line, marks of its points if they are few, and of what isn't finite."""
  s, color, faint, ranges = curve.series, f"c{curve.number % COLORS}", None, {}
  few = series.thinned(s, x.low, x.high, _PARTS)
  if few:
    s = few.line
    d = _line(few.extremes, x, y)
    faint = tag("path", d=d, class_=f"extremes {color}")
    ranges = {"data_least": _values(few.least), "data_most": _values(few.most)}
  finite = s.finite
  line = tag(
    "path",
    d=_line(s, x, y),
    class_=f"curve {looks(curve.number)}",
    data_run=curve.number,
    data_at=_places(finite.steps),
    data_values=_values(finite.values),
    **ranges,
  )
  alone = np.isin(
    s.steps, finite.steps if len(s.steps) <= _MARKED else _alone(s)
  )
  dots = "".join(
    f"M{_px(px)} {_px(py)}h0"
    for px, py in zip(x(s.steps[alone]), y(s.values[alone]), strict=True)
    if np.isfinite(py)
  )
  wrong = "".join(
    f"M{_px(px - 3)} {TOP}l6 6m0 -6l-6 6"
    for px in x(s.steps[np.isnan(s.values)])
  )
  marks = [
    tag("path", d=dots, class_=f"dots {color}") if dots else None,
    tag("path", tag("title", "not finite"), d=wrong, class_=f"wrong {color}")
    if wrong
    else None,
  ]
  return joined(faint, line, marks)


def _places(steps: np.ndarray) -> str:
  return " ".join(f"{x:.6g}" if x.dtype.kind == "f" else str(x) for x in steps)


def _values(values: np.ndarray) -> str:
  return " ".join(shown(value) for value in values)


def _alone(s: Series) -> np.ndarray:
  """Steps between two values that are not finite."""
  gap = np.concatenate([[True], np.isnan(s.values), [True]])
  return s.steps[gap[:-2] & gap[2:] & ~gap[1:-1]]


def _line(s: Series, x: Scale, y: Scale) -> str:
  """The path of a series, interrupted where it is not finite."""
  pieces, pen = [], "M"
  for px, py, value in zip(x(s.steps), y(s.values), s.values, strict=True):
    if np.isnan(value):
      pen = "M"
      continue
    pieces.append(f"{pen}{_px(px)} {_px(py)}")
    pen = "L"
  return "".join(pieces)


def _px(value: float) -> str:
  return f"{float(value):.2f}".rstrip("0").rstrip(".")
