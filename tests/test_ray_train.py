"""launch/ray_train.py on two workers of a Ray on this machine."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

import tiny
from big_contrastive.factory import experiment
from big_contrastive.training import loop

SCRIPT = pathlib.Path(__file__).parents[1] / "launch/ray_train.py"

pytestmark = [
  pytest.mark.peers,
  pytest.mark.slow,
  pytest.mark.filterwarnings("ignore"),  # Of Ray's own.
]


@pytest.fixture
def launch(ray, tmp_path, monkeypatch):
  """launch(*flags): what the command does, to a workdir two/."""
  monkeypatch.setenv("HOME", str(tmp_path))  # Where Ray keeps results.

  def run(*flags):
    words = [
      "--workers", "2", "--restarts", "2", *flags,
      "--config", f"{tiny.CONFIGS}/siglip.py:smoke",
      "--workdir", tmp_path / "two",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["ray_train", *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")

  return run


DIES = """
import os
import pathlib
import signal

from big_contrastive.training import sinks


class Sink(sinks.Sink):
  '''Kills its process, the first of all, once.'''

  def __init__(self, marker: str):
    self.marker = pathlib.Path(marker)

  def write(self, step, numbers):
    # By then step 4 is saved: the save of step 8 waited for it.
    if step == 9 and not self.marker.exists():
      self.marker.touch()
      os.kill(os.getpid(), signal.SIGKILL)
"""
FLAGS = (
  "--config.total=12 steps", "--config.save_every=4", "--config.log_every=1",
  "--config.evals={}",
)  # fmt: skip


def lines(file):
  return [json.loads(line) for line in file.read_text().splitlines()]


def losses(workdir):
  rows = lines(workdir / "metrics.jsonl")
  return [(row["step"], row["train/loss"]) for row in rows]


def test_two_workers_one_of_which_dies_train_as_one_process(
  launch, tmp_path, capsys
):
  (tmp_path / "dies.py").write_text(DIES)
  sink = {"name": f"{tmp_path}/dies.py", "marker": f"{tmp_path}/died"}
  launch(*FLAGS, f"--config.sinks={{'own': {sink}}}")
  assert (tmp_path / "died").exists()
  assert capsys.readouterr().out.count("starting again (1 of at most 2)") == 1
  began, resumed = lines(tmp_path / "two/events.jsonl")
  assert began["kind"] == "began" and resumed["kind"] == "resumed"
  assert resumed["step"] in (4, 8)
  config = tiny.load("siglip", "smoke", *FLAGS)
  loop.fit(experiment.build(config, jax.devices()[:2]), tmp_path / "one")
  one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
  assert [step for step, _ in two] == [*range(1, 13)]
  np.testing.assert_allclose(two, one, rtol=2e-4)


def test_a_wrong_input_is_one_line_and_not_tried_again(launch, capsys):
  with pytest.raises(SystemExit) as ended:
    launch("--config.batch_size=15")
  assert ended.value.code == 2
  told = capsys.readouterr()
  assert "error: config.batch_size = 15; expected " in told.err
  assert "starting again" not in told.out
