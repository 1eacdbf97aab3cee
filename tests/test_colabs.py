"""Notebooks run from top to bottom, on a tiny checkpoint."""

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_zero_shot_shows_a_picture_of_similarities(tmp_path, monkeypatch):
  config = files.load_config(f"{ROOT}/configs/siglip.py:smoke", [])
  config["evals"] = {}
  config["model"]["dtype"] = "float32"  # As what is exported computes.
  loop.fit(experiment.build(config), tmp_path)
  for name, value in {
    "MODEL": str(tmp_path), "TRAIN_SIZE": "512", "SIZE": "32",
    "PYTHONPATH": str(ROOT), "PJRT_NPROC": "16",
  }.items():  # fmt: skip
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(ROOT / "colabs/zero_shot.ipynb", as_version=4)
  client = nbclient.NotebookClient(notebook, timeout=1200)
  client.execute(cwd=str(tmp_path))
  outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
  data = [
    o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})
  ]
  (picture,) = (PIL.Image.open(io.BytesIO(base64.b64decode(d))) for d in data)
  assert np.asarray(picture.convert("L")).std() > 10
  (exported,) = (
    o.data["text/plain"] for o in notebook.cells[-1].get("outputs", [])
    if "data" in o
  )  # fmt: skip
  assert float(re.search(r"\((.+)\)", exported)[1]) < 1e-4
