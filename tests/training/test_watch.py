"""A run that is watched: killed, resumed, asked for a trace on its way."""

import json
import os
import signal
import time

import jax
import pytest

import tiny
from big_contrastive.config import errors
from big_contrastive.factory import experiment
from big_contrastive.training import loop

SINK = """
import json
import pathlib

from big_contrastive.training import sinks

class Sink(sinks.Sink):
  '''Lines of JSON, by the one that begins first.'''

  def __init__(self, path: str):
    self.path = pathlib.Path(path)

  def begin(self, start):
    self._put(["begin", start.name, start.id, start.step])
    return start.id or f"from {start.step}"

  def write(self, step, numbers):
    self._put([step, {k: v for k, v in numbers.items() if k[:5] != "perf/"}])

  def _put(self, row):
    with self.path.open("a") as file:
      file.write(json.dumps(row) + "\\n")
"""


class Killed(Exception):
  pass


def kill():
  raise Killed


def ask():
  os.kill(os.getpid(), signal.SIGUSR1)


def fit(config, workdir, moments):
  """Trains; calls a moment's function before the batch of its step."""
  built = experiment.build(config, jax.devices()[:1])
  batches = built.training.batches

  def watched(start, stop, put):
    for step, batch in enumerate(batches(start, stop, put), start):
      moments.get(step, lambda: None)()
      yield batch

  built.training.batches = watched
  return loop.fit(built, workdir)


def lines(file):
  return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_is_watched_over_a_kill(tmp_path, capsys):
  file = tmp_path / "sink_that_keeps.py"
  file.write_text(SINK)
  kept, workdir = tmp_path / "kept.jsonl", tmp_path / "mine"
  config = tiny.load("siglip", "smoke")
  config |= {"log_every": 1, "evals": {}}
  config["sinks"] = {"own": {"name": str(file), "path": str(kept)}}
  config["profile"] = {"first": 2, "steps": 1}
  began = time.monotonic()
  with pytest.raises(Killed):
    fit(config, workdir, {5: kill})  # Saved at 4: step 5 is lost.
  result = fit(config, workdir, {5: ask})
  wall = time.monotonic() - began

  # The sink has each line once, though step 5 ran twice.
  rows = lines(kept)
  begun = [row for row in rows if row[0] == "begin"]
  assert [row[1:] for row in begun] == [
    ["mine", None, 0],
    ["mine", "from 0", 4],
  ]
  written = [row for row in rows if row[0] != "begin"]
  whole = lines(workdir / "metrics.jsonl")
  assert [step for step, _ in written] == [row["step"] for row in whole]
  assert [step for step, _ in written] == [*range(1, 9)]
  for (_, numbers), row in zip(written, whole, strict=True):
    assert numbers == {k: row[k] for k in numbers} and numbers["train/loss"] > 0

  # Traces of step 2, and from the signal to the end.
  traced = {p.name for p in (workdir / "profile").iterdir()}
  assert traced == {"2", "7"}
  assert len([*workdir.glob("profile/*/plugins/profile/*/*.xplane.pb")]) == 2

  # The times add up to those of this test, from the first step to the last.
  times = json.loads((workdir / "goodput.json").read_text())["seconds"]
  assert 0.5 * wall < sum(times.values()) <= wall
  assert all(seconds >= 0 for seconds in times.values())
  assert times["lost"] > 0 and times["compile"] > 0 and times["step"] > 0
  last = whole[-1]
  assert 0 < last["perf/goodput"] < 1 and last["perf/host_memory_gib"] > 0
  hours = [row["perf/hours"] for row in whole]
  assert hours == sorted(hours) and 0 < 3600 * hours[-1] < wall
  assert not (workdir / "tensorboard").exists()
  said = capsys.readouterr().err
  assert f"trace: xprof {workdir}/profile/7" in said
  assert "wall time" in said and "  lost " in said
  assert result["train/loss"] == last["train/loss"]


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"sinks": "wandb"}, "config.sinks = 'wandb'; expected dict"),
    ({"sinks": {"wandbb": {}}}, "config.sinks.wandbb = .*'wandb'"),
    ({"sinks": {"wandb": None}}, "config.sinks.wandb is missing"),
    ({"profile": 10}, "config.profile = 10; expected dict"),
    ({"profile": {"first": 8}}, "config.profile = 'steps 8 to 12'"),
    ({"profile": {"steps": -1}}, "config.profile.steps = -1"),
  ],
)
def test_a_wrong_way_to_watch_is_one_line(change, said):
  with pytest.raises(errors.UserError, match=said):
    experiment.build(tiny.load("siglip", "smoke") | change)
