"""Curves by step, by examples and by hours of training."""

import re

import numpy as np
import pytest

import workdirs
from big_contrastive.reports import axes, page, runs

made = workdirs.made


def read(*paths):
  return runs.read([str(p) for p in paths])


def timed(hours, every=10):
  """Lines of steps 10, 20, ... at these hours."""
  return [
    {"step": every * i, "train/loss": 9.0 - i, "perf/hours": h}
    for i, h in enumerate(hours, 1)
  ]


def at(run, axis, name):
  """Places and values of a metric along an axis."""
  s = axes.along(run, axis).metrics[name]
  return s.steps.tolist(), s.values.tolist()


def test_hours_are_those_of_the_lines_and_between_them(tmp_path):
  """An evaluation's line has no time; one after the last has none yet."""
  rows = [workdirs.evaluated(step, step / 100) for step in (0, 15, 20, 30)]
  (run,) = read(made(tmp_path / "a", [*timed([0.1, 0.3]), *rows]))
  hours, losses = at(run, "hours", "train/loss")
  assert hours == pytest.approx([0.1, 0.3]) and losses == [8.0, 7.0]
  hours, top1 = at(run, "hours", "eval/zero_shot/classes/top1")
  assert hours == pytest.approx([0.0, 0.2, 0.3]) and top1 == [0.0, 0.15, 0.2]
  assert at(run, "step", "train/loss") == ([10, 20], losses)
  assert "perf/hours" not in run.metrics  # An axis, and no curve.


def test_hours_go_on_where_a_run_had_lost_its_times(tmp_path):
  rows = timed([1.0, 2.0, 0.5, 1.5])
  rows.append({"step": 50, "train/loss": 0.0, "perf/hours": None})
  (run,) = read(made(tmp_path / "a", rows))
  hours, _ = at(run, "hours", "train/loss")
  assert hours == pytest.approx([1.0, 2.0, 2.5, 3.5])


def test_what_is_not_known_has_no_axis(tmp_path):
  (run,) = read(made(tmp_path / "a", workdirs.training(3), {"batch_size": "x"}))
  assert axes.along(run, "step") is run
  assert axes.along(run, "examples") is axes.along(run, "hours") is None
  assert "by-" not in shown(run).replace('class="by-step"', "")
  assert {"examples", "hours"} == axes.MISSING.keys()


def shown(*found, axis="step"):
  """The page without its style."""
  text = page.page(list(found), axis)
  return re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


def block(text, axis):
  """The part of a page with the charts along an axis."""
  return text.partition(f'<div class="by-{axis}">')[2].partition("</section>")[
    0
  ]


@pytest.mark.parametrize("axis", axes.AXES)
def test_a_reader_chooses_among_the_axes_that_are_known(axis, tmp_path):
  rows = timed([0.25, 0.5, 2.0])
  (run,) = read(made(tmp_path / "a", rows, {"batch_size": 64}))
  text = shown(run, axis=axis)
  form = (
    r'<input( checked="")? type="radio" name="axis" id="by-(\w+)">'
    r'<label for="by-(\w+)">'
  )
  buttons = re.findall(form, text)
  assert [b[1] for b in buttons] == [b[2] for b in buttons] == [*axes.AXES]
  assert [b[1] for b in buttons if b[0]] == [axis]
  wanted = {"step": "30", "examples": "1,920", "hours": "2"}
  ticks = {"step": "10 20 30", "examples": "640 1280 1920",
           "hours": "0.25 0.5 2"}  # fmt: skip
  for name in axes.AXES:
    own = block(text, name)
    assert f"<title>loss by {name}</title>" in own
    assert f"<b>6</b><span> at {wanted[name]}</span>" in own
    assert f'data-at="{ticks[name]}"' in own
  # A point lies where its hour says, by the axis of 0 to 2.
  line = r'<path d="([^"]*)" class="curve c0 d0" data-run'
  d = re.search(line, block(text, "hours"))[1]
  pixels = np.array([float(x) for x in re.findall(r"[ML]([\d.]+) ", d)])
  np.testing.assert_allclose(pixels, 42 + 308 * np.array([0.125, 0.25, 1]))


def test_a_run_without_times_is_named_and_keeps_its_color(tmp_path):
  found = read(
    made(tmp_path / "old", workdirs.training(30), {"batch_size": 8}),
    made(tmp_path / "new", timed([0.1, 0.2]), {"batch_size": 16}),
  )
  text = shown(*found)
  hours = block(text, "hours")
  assert "Not known of old." in hours and "Not known of" not in text.replace(
    hours, ""
  )
  assert 'class="curve c1 d1" data-run="1"' in hours
  assert 'data-run="0"' not in hours
  said = "Their batches differ in size: compare them by examples."
  assert said in block(text, "step").partition('<div class="by-examples">')[0]
  assert said not in hours
