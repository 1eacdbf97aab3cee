"""Curves lie where the axes say, and thinning them loses no spike."""

import re

import numpy as np
import pytest

from big_contrastive.reports import curves, numerals, scales, series
from big_contrastive.reports.curves import Curve


def points(d):
  """Pixels [n, 2] of a path, with a row of NaN where the pen is lifted."""
  rows = []
  for pen, x, y in re.findall(r"([ML])(-?[\d.]+) (-?[\d.]+)", d):
    if pen == "M" and rows:
      rows.append((np.nan, np.nan))
    rows.append((float(x), float(y)))
  return np.array(rows)


def path(svg, kind):
  drawing = svg.partition("</ul>")[2]  # Behind the legend's own lines.
  tags = re.findall(r"<path [^>]*>", drawing)
  (found,) = [t for t in tags if re.search(rf'class="{kind}[ "]', t)]
  return re.search(r' d="([^"]*)"', found)[1]


def number(text):
  unit = {"k": 1e3, "M": 1e6, "B": 1e9}.get(text[-1])
  return float(text[:-1]) * unit if unit else float(text)


def ticks(svg, row):
  """Pixels and values of the labels of one axis."""
  found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"( class="row")?>([^<]+)<',
                     svg.partition('class="ticks"')[2])  # fmt: skip
  kept = [(x, y, t) for x, y, c, t in found if bool(c) == row]
  # A label's text hangs 3.5 pixels below its line.
  at = [float(y) - 3.5 if row else float(x) for x, y, _ in kept]
  return np.array(at), np.array([number(t) for _, _, t in kept])


@pytest.mark.parametrize("log", [False, True])
def test_a_point_is_where_the_labels_of_the_axes_say(log):
  steps = np.array([3, 500, 1234, 4000])
  values = np.array([5000.0, 2.0, 1.0, 1.5] if log else [2.5, -1.0, 0.5, 1.0])
  s = series.of(list(zip(steps.tolist(), values, strict=True)))
  svg = curves.chart("loss", [Curve(0, "a", s)], "step", True)
  assert ("log scale" in svg) == log
  pixels = points(path(svg, "curve"))
  for axis, expected in ((0, steps), (1, values)):
    at, labels = ticks(svg, axis == 1)
    assert len(at) >= 3
    as_drawn = np.log10 if log and axis else lambda v: v
    slope, start = np.polyfit(at, as_drawn(labels.astype(float)), 1)
    span = np.ptp(as_drawn(expected.astype(float)))
    np.testing.assert_allclose(
      start + slope * pixels[:, axis], as_drawn(expected), atol=1e-3 * span
    )
  # All of it is inside the frame.
  assert curves.TOP <= pixels[:, 1].min() < pixels[:, 1].max() <= curves.BOTTOM


def test_the_last_values_and_the_words_are_those_of_the_data():
  s = series.of([(1, 3.0), (2, float("nan")), (1000, 0.123456)])
  svg = curves.chart("loss", [Curve(0, "a & b", s)], "step")
  assert "<b>0.1235</b><span> at 1,000</span>" in svg
  told = "a &amp; b: 3 at step 1, 0.1235 at 1,000; from 0.1235 to 3."
  assert f"<desc>{told}</desc>" in svg and "<title>loss by step</title>" in svg
  # The line is interrupted, the gap marked, and what stands alone is a dot.
  assert len(points(path(svg, "curve"))) == 3
  assert (
    path(svg, "dots").count("h0") == 2 and path(svg, "wrong").count("M") == 1
  )


@pytest.mark.parametrize("n", [2, 100, 308])
def test_a_curve_of_few_points_keeps_them_all(n):
  s = series.of([(i, float(i % 7)) for i in range(n)])
  assert series.thinned(s, 0, n, 154) is None


def test_thinning_keeps_the_least_and_largest_of_each_part():
  """By an independent loop, over what has spikes, gaps and uneven steps."""
  r = np.random.default_rng(1)
  steps = np.unique(r.integers(0, 10**6, 20_000))
  values = r.normal(size=len(steps))
  values[r.integers(0, len(steps), 20)] = 1e6
  values[r.integers(0, len(steps), 20)] = -1e6
  values[5000:5600] = np.nan
  s = series.Series(steps, values)
  low, high, parts = 0, int(steps[-1]), 150
  thin = series.thinned(s, low, high, parts)
  assert len(thin.line.steps) <= 2 * parts + 2
  assert len(thin.extremes.steps) <= 3 * parts + 2
  drawn = dict(zip(thin.extremes.steps, thin.extremes.values, strict=True))
  line = dict(zip(thin.line.steps, thin.line.values, strict=True))
  part = np.minimum(steps / high * parts, parts - 1).astype(int)
  for p in range(parts):
    mine = steps[part == p], values[part == p]
    own = set(mine[0].tolist())
    inside = [v for t, v in drawn.items() if t in own]
    if np.isfinite(mine[1]).any():
      assert np.nanmin(inside) == np.nanmin(mine[1])
      assert np.nanmax(inside) == np.nanmax(mine[1])
      ordered = np.sort(mine[1][np.isfinite(mine[1])])
      assert ordered[(len(ordered) - 1) // 2] in line.values()
    assert np.isnan(inside).any() == np.isnan(mine[1]).any()
  # Each point is one of the data, in order; the ends are there.
  for thinned in (thin.line, thin.extremes):
    assert (np.diff(thinned.steps) > 0).all()
    np.testing.assert_array_equal(
      thinned.values, values[np.searchsorted(steps, thinned.steps)]
    )
    assert thinned.steps[0] == steps[0] and thinned.steps[-1] == steps[-1]
  # What the pointer shows as the range of a point is that of its part.
  where = np.minimum(thin.line.finite.steps / high * parts, parts - 1)
  for p, least, most in zip(where.astype(int), thin.least, thin.most,
                            strict=True):  # fmt: skip
    assert least == np.nanmin(values[part == p])
    assert most == np.nanmax(values[part == p])


def test_the_later_of_two_values_of_a_step_counts_and_steps_ascend():
  s = series.of([(5, 1.0), (2, 2.0), (5, 3.0), (3, 1e301)])
  assert s.steps.tolist() == [2, 3, 5] and s.last == 3.0
  assert s.finite.steps.tolist() == [2, 5]


@pytest.mark.parametrize(
  ("low", "high"), [(0, 1), (0.4, 0.41), (-3, 5e6), (1e-8, 2e-8), (0, 3e38)]
)
@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_round_and_between_the_ends(low, high, log):
  if log and low <= 0:
    low = high / 1e9
  found = scales.Scale(low, high, 0, 100, log).ticks(5)
  assert 2 <= len(found) <= 9 and found == sorted(set(found))
  assert all(low <= t * (1 + 1e-9) and t <= high * (1 + 1e-9) for t in found)
  assert all(len(f"{abs(t):.6e}".rstrip("0")) <= 12 for t in found)


def test_a_chart_of_one_value_or_of_huge_ones_has_an_axis():
  for values in ([0.0, 0.0], [3.4e38, -3.4e38], [1.0, 1.0], [1e-300, 2e-300]):
    s = series.of(list(enumerate(values)))
    svg = curves.chart("x", [Curve(0, "a", s)], "step")
    assert np.isfinite(points(path(svg, "curve"))).all()


def test_a_level_is_one_line_or_one_for_each_run():
  s = series.of([(1, 0.2), (2, 0.6)])
  half, tenth = series.of([(2, 0.5)]), series.of([(2, 0.1)])
  y = [Curve(0, "a", s, half), Curve(1, "b", s, half)]
  svg = curves.chart("top1", y, "step")
  assert svg.count('class="level"') == 2 and "chance 0.5<" in svg  # And a text.
  svg = curves.chart("top1", [y[0], Curve(1, "b", s, tenth)], "step")
  assert "chance 0.5<" in svg and "chance 0.1<" in svg
  assert 'class="level c0"' in svg and 'class="level c1"' in svg


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0.123456, "0.1235"), (9.99996, "10"), (0.5, "0.5"), (1234.5, "1,234"),
    (95141.04, "95,141"), (3e-9, "3e-9"), (1.2346e-7, "1.235e-7"), (7, "7"),
    (-0.25, "-0.25"), (2e20, "2e20"), (float("nan"), "not finite"),
  ],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
  assert numerals.shown(value) == text


@pytest.mark.parametrize(
  ("value", "text"),
  [(0, "0"), (0.25, "0.25"), (5000, "5000"), (20000, "20k"), (1.5e7, "15M"),
   (1e-5, "1e-5"), (-30000, "-30k"), (3e38, "3e38")],
)  # fmt: skip
def test_ticks_are_short(value, text):
  assert numerals.tick(value) == text


def test_forty_runs_look_different():
  assert len({curves.looks(i) for i in range(40)}) == 40
