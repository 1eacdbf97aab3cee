"""Golden parameters: every recipe at full size, by name, shape and number.

They are built on shapes alone: no data, vocabulary or weights are needed, and
nothing is allocated. `pytest --refresh-golden` writes the tables anew.
"""

import pathlib
import tarfile

import jax
import numpy as np
import pytest

import tiny
from big_contrastive.config import rules
from big_contrastive.factory import experiment, reading

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "parameters"
FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures"
ARGUMENTS = {
  "siglip": "",
  "clip": "",
  "lit": "",
  "flip": "",
  # What it begins with is a user's own: here the smallest model that is kept.
  "finetune": "init={init}",
  "own_data": "images=pictures,captions=captions.csv",
  "demo": "",
  "cifar10": "",
  "dfn": "",
  "simclr": "",
  "moco": "",
  "moco_v3": "",
  "byol": "",
  "simsiam": "",
  "swav": "",
  "catlip": "",
  "superclass": "",
  "cappa": "",
  "coca": "",
  "openvision2": "",
  "blip": "",
  "capfilt": "smoke",
}


def parameters(config):
  """Returns one line a parameter, "name shape dtype", and the total."""
  config = reading.without_epochs(config)
  shapes = reading.Shapes(config)
  made = experiment.build(config, jax.devices()[:1], shapes)
  flat = rules.flatten(made.placed.abstract.params)
  total = sum(int(np.prod(x.shape)) for x in flat.values())
  lines = [f"{k} {list(x.shape)} {x.dtype}" for k, x in sorted(flat.items())]
  return "\n".join([*lines, f"total {total:,}", ""])


def test_every_recipe_has_a_table():
  configs = {p.stem for p in tiny.CONFIGS.glob("*.py")}
  assert configs - tiny.SHARED == ARGUMENTS.keys()
  assert {p.stem for p in GOLDEN.glob("*.txt")} == ARGUMENTS.keys()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_parameters_at_full_size_are_the_golden_ones(name, tmp_path, golden):
  with tarfile.open(FIXTURE / "before_the_move.tar.gz") as tar:
    tar.extractall(tmp_path, filter="data")
  argument = ARGUMENTS[name].format(init=tmp_path)
  config = tiny.load(name, argument)
  if config.get("tokenizer", {}).get("kind") == "bpe":
    # No captions are read: of the size that is asked for. Trained on few, it
    # may be smaller: 491 for the demo.
    config["tokenizer"]["path"] = str(tmp_path / "no_file")
  golden.text(GOLDEN / f"{name}.txt", parameters(config))


@pytest.mark.parametrize(
  "variant, total",
  [
    ("RN50", "102,007,137"),
    pytest.param("RN50x4", "178,300,601", marks=pytest.mark.slow),
  ],
)
def test_clips_resnets_have_the_published_number_of_parameters(variant, total):
  """As openai/CLIP's models count them."""
  lines = parameters(tiny.load("clip", f"variant={variant}")).splitlines()
  assert lines[-1] == f"total {total}"
