"""What --profile-input says: the slower of the two, and by how much."""

import pathlib
import time

import pytest

from big_contrastive import train
from big_contrastive.config import files
from big_contrastive.factory import experiment
from big_contrastive.training import profile_input

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SIGLIP = f"{CONFIGS}/siglip.py:smoke"


@pytest.mark.parametrize(
  "rates, said",
  [
    ({"input": 2.0, "device": 8.0}, "input is the bottleneck.*wait 75%"),
    ({"input": 9.0, "device": 3.0}, "device is the bottleneck.*3.0 times"),
  ],
)
def test_the_slower_one_is_named(rates, said):
  text = profile_input.verdict(rates, 10)
  assert __import__("re").search(said, text, 16)
  assert f"{rates['input'] * 10:,.1f} images/s" in text


@pytest.mark.slow
def test_a_slow_input_is_found_and_nothing_is_written(
  monkeypatch, capsys, tmp_path
):
  built = experiment.build(files.load_config(SIGLIP, []))
  made = built.training.examples.image

  def slow(data, rng):
    time.sleep(0.05)
    return made(data, rng)

  built.training.examples.image = slow
  monkeypatch.setattr(train.experiment, "build", lambda config: built)
  flags = ["--config", SIGLIP, "--workdir", f"{tmp_path}/w", "--profile-input"]
  monkeypatch.setattr("sys.argv", ["train", *flags])
  train.run()
  # Two threads that sleep 50 ms an image: at most 40 images a second; two of
  # the twenty batches may have been ready when the clock began.
  said = capsys.readouterr().err
  rate = float(said.split("input   alone")[1].split()[0].replace(",", ""))
  assert 0 < rate < 40 * 20 / 18
  assert not (tmp_path / "w").exists()
