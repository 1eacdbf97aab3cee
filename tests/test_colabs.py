"""Notebooks run from top to bottom, on tiny models."""

import ast
import base64
import io
import pathlib
import re

import nbclient
import nbformat
import numpy as np
import PIL.Image
import pytest

from big_contrastive.config import files
from big_contrastive.factory import experiment
from big_contrastive.training import loop

ROOT = pathlib.Path(__file__).parents[1]


pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings("ignore::DeprecationWarning"),
  pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def run(name, tmp_path, monkeypatch, **environment):
  """Returns the notebook with its outputs, and the only picture."""
  environment |= {"PYTHONPATH": str(ROOT), "PJRT_NPROC": "16"}
  for key, value in environment.items():
    monkeypatch.setenv(key, value)
  notebook = nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)
  client = nbclient.NotebookClient(notebook, timeout=1200)
  client.execute(cwd=str(tmp_path))
  outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
  data = [
    o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})
  ]
  (picture,) = (PIL.Image.open(io.BytesIO(base64.b64decode(d))) for d in data)
  assert np.asarray(picture.convert("L")).std() > 10
  return notebook


def shown(cell):
  """What the value of a cell's last line looks like."""
  (text,) = (o.data["text/plain"] for o in cell["outputs"] if "data" in o)
  return text


def difference(cell):
  """Of a cell that shows a NumPy scalar."""
  return float(re.search(r"\((.+)\)", shown(cell))[1])


def test_zero_shot_shows_a_picture_of_similarities(
  one_device, tmp_path, monkeypatch
):
  config = files.load_config(f"{ROOT}/configs/siglip.py:smoke", [])
  config["evals"] = {}
  config["model"]["dtype"] = "float32"  # As what is exported computes.
  loop.fit(experiment.build(config), tmp_path)
  small = {"MODEL": str(tmp_path), "TRAIN_SIZE": "512", "SIZE": "32"}
  notebook = run("zero_shot", tmp_path, monkeypatch, **small)
  assert difference(notebook.cells[-1]) < 1e-4


def test_fine_tune_scores_a_folder_twice_and_exports(tmp_path, monkeypatch):
  """It trains and converts a model itself where none is given."""
  small = {"WORK": str(tmp_path / "w"), "TRAIN_SIZE": "512", "STEPS": "3"}
  notebook = run("fine_tune", tmp_path, monkeypatch, **small)
  before, after = (
    ast.literal_eval(shown(cell))
    for cell in notebook.cells
    if cell["source"].endswith(("\nbefore", "\nafter"))
  )
  assert before.keys() == after.keys() and before["chance"] == after["chance"]
  assert (tmp_path / "w/published/model.safetensors").exists()
  assert difference(notebook.cells[-1]) < 1e-4


def test_self_supervised_shows_neighbors_by_each_method(tmp_path, monkeypatch):
  small = {
    "WORK": str(tmp_path / "w"), "METHODS": "instdisc dino mae",
    "RECIPE": "smoke", "STEPS": "3",
    "DRAWN": "shapes:split=by_colour,train_size=4096,size=32",
  }  # fmt: skip
  notebook = run("self_supervised", tmp_path, monkeypatch, **small)
  (cell,) = (c for c in notebook.cells if "found.items()}" in c["source"])
  shares = ast.literal_eval(shown(cell))
  assert shares.keys() == {"instdisc", "dino", "mae", "untrained"}
