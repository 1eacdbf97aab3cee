"""The first cell of a notebook installs what its reader gave, and no other.

The notebooks run in test_colabs.py; here pip is a list of what it is asked.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1].glob("colabs/*.ipynb")
CELLS = {
  path.stem: "".join(json.loads(path.read_text())["cells"][1]["source"])
  for path in NOTEBOOKS
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """installed(*modules): what pip gets where only these are importable."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("BIG_CONTRASTIVE", raising=False)

  def run(*modules):
    asked = []

    def pip(words, check):
      assert check and words[:4] == [sys.executable, "-m", "pip", "install"]
      asked.extend(word for word in words[4:] if word != "--quiet")

    specs = dict.fromkeys(modules, "there")
    monkeypatch.setattr(importlib.util, "find_spec", specs.get)
    monkeypatch.setattr(subprocess, "run", pip)
    exec(CELLS["fine_tune"], {})
    return asked

  return run


def test_all_notebooks_begin_with_the_same_cell():
  assert CELLS.keys() == {"fine_tune", "self_supervised", "zero_shot"}
  assert len(set(CELLS.values())) == 1


def test_a_package_that_is_there_is_taken(installed, monkeypatch):
  monkeypatch.setenv("BIG_CONTRASTIVE", "/a/checkout")
  assert installed("big_contrastive") == []


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_wheel_it_says_what_to_do_and_asks_no_index(
  given, installed, monkeypatch
):
  if given is not None:
    monkeypatch.setenv("BIG_CONTRASTIVE", given)
  pathlib.Path("another-1.0-py3-none-any.whl").touch()
  with pytest.raises(SystemExit, match="big_contrastive is missing") as error:
    installed()
  for part in ("make wheel", "beside this notebook", "BIG_CONTRASTIVE"):
    assert part in str(error.value)


def test_the_newest_wheel_beside_the_notebook_is_installed(installed, tmp_path):
  for age, version in enumerate(["0.10.0", "0.9.0", "0.2.0"]):
    wheel = tmp_path / f"big_contrastive-{version}-py3-none-any.whl"
    wheel.touch()
    os.utime(wheel, (1e9 - age, 1e9 - age))
  newest = str(tmp_path / "big_contrastive-0.10.0-py3-none-any.whl")
  assert installed() == [newest, "matplotlib"]


def test_what_the_variable_names_goes_before_a_wheel(
  installed, tmp_path, monkeypatch
):
  (tmp_path / "big_contrastive-0.1.0-py3-none-any.whl").touch()
  url = "git+https://example.com/big_contrastive"
  monkeypatch.setenv("BIG_CONTRASTIVE", url)
  assert installed() == [url, "matplotlib"]
  # Of a folder pip would otherwise take the name, and ask an index for it.
  (tmp_path / "checkout").mkdir()
  monkeypatch.setenv("BIG_CONTRASTIVE", "checkout")
  assert installed() == [str(tmp_path / "checkout"), "matplotlib"]


@pytest.mark.parametrize(
  ("plugin", "extra"),
  [("jax_cuda12_plugin", "jax[cuda12]"), ("libtpu", "jax[tpu]")],
)
def test_the_plugin_of_an_accelerator_follows_jax(
  plugin, extra, installed, monkeypatch
):
  monkeypatch.setenv("BIG_CONTRASTIVE", "/a/checkout")
  assert installed(plugin) == ["/a/checkout", "matplotlib", extra]
