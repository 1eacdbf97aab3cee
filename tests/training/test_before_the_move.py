"""A checkpoint that the code wrote before its modules moved into folders.

fixtures/before_the_move.tar.gz is the workdir of a run of 8 steps, its config
and all its metrics, with the checkpoint of step 4.
"""

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

import big_contrastive
from big_contrastive.factory import experiment
from big_contrastive.training import loop

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def before(tmp_path):
  """The workdir, and the lines of its metrics.jsonl."""
  with tarfile.open(FIXTURE / "before_the_move.tar.gz") as tar:
    tar.extractall(tmp_path, filter="data")
  return tmp_path, lines(tmp_path)


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  return [{k: v for k, v in r.items() if k[:5] != "perf/"} for r in rows]


def test_it_resumes_and_ends_as_the_old_code_did(before):
  workdir, expected = before
  config = json.loads((workdir / "config.json").read_text())
  loop.fit(experiment.build(config, jax.devices()[:1]), workdir)
  after = lines(workdir)
  assert [row["step"] for row in after] == [*range(1, 9), 8]
  assert after[:4] == expected[:4]
  for ours, theirs in zip(after[4:], expected[4:], strict=True):
    assert theirs.keys() <= ours.keys()  # Evaluators may yield more by now.
    for name, value in theirs.items():
      # A recall may differ by one of 10 pictures: under other compiler flags
      # than those of the fixture, rounding decides a tie otherwise.
      most = {"atol": 0.1001} if name[:5] == "eval/" else {"rtol": 1e-5}
      np.testing.assert_allclose(ours[name], value, **most, err_msg=name)


def test_it_is_loaded(before):
  workdir, _ = before
  model = big_contrastive.load(str(workdir))
  pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  images = model.encode_image(list(pictures))
  texts = model.encode_text(["a red circle", "a blue square"])
  for z in (images, texts):
    assert z.shape == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert not np.allclose(z[0], z[1])
  assert model.params["b"].dtype == np.float32
