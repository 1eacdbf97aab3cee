"""The package as it is installed: all of its files, and away from a checkout.

What is built here is what a wheel holds; no network is needed for it.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*words, cwd, **environment):
  return subprocess.run(
    [sys.executable, *map(str, words)], env=os.environ | environment, cwd=cwd,
    capture_output=True, text=True, timeout=600, check=False,
  )  # fmt: skip


# Python 3.12 has no setuptools of its own.
pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("setuptools") is None, reason="no setuptools"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  base = tmp_path_factory.mktemp("built")
  made = run(
    "setup.py", "-q", "build", "--build-base", base, "egg_info", "--egg-base",
    base, cwd=ROOT,
  )  # fmt: skip
  assert made.returncode == 0, made.stderr
  return base / "lib"


def files(folder):
  found = (p for p in folder.rglob("*") if p.is_file())
  return {str(p.relative_to(folder)) for p in found if p.suffix != ".pyc"}


def test_a_wheel_holds_all_files_and_the_configs(built):
  assert {p.name for p in built.iterdir()} == {"big_contrastive"}
  own = files(ROOT / "big_contrastive")
  shipped = {f"shipped/configs/{name}" for name in files(ROOT / "configs")}
  assert files(built / "big_contrastive") == own | shipped


CODE = """
import sys
import big_contrastive
from big_contrastive import train
from big_contrastive.factory import cli

big_contrastive.load(sys.argv.pop(1))
print(big_contrastive.__file__)
cli.main(train.run)
"""


def test_an_installed_package_loads_and_reads_its_configs(
  built, small, tmp_path
):
  flags = ["--config", "siglip:smoke", "--workdir", "x"]
  found = run(
    "-c", CODE, small, *flags, "--config.batch_size=-1", cwd=tmp_path,
    PYTHONPATH=str(built),
  )  # fmt: skip
  assert found.returncode == 2, found.stderr
  assert found.stdout.startswith(str(built))
  config = built / "big_contrastive/shipped/configs/siglip.py"
  assert f"config: {config}\n" in found.stderr
  assert "config.batch_size = -1" in found.stderr
  assert not list(tmp_path.iterdir())
