"""Mutated data files: an example, a counted kind or one clear error."""

import collections
import json
import os
import pathlib
import subprocess
import sys

import pytest

from big_contrastive.data import bad_records

ROOT = pathlib.Path(__file__).parents[2]


def fuzz(folder, first, count):
  home = folder / "home"
  home.mkdir()
  environment = os.environ | {
    "HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(home),
    "XDG_CACHE_HOME": str(home),
  }  # fmt: skip
  run = subprocess.run(
    [
      sys.executable, ROOT / "tests/data/fuzzing.py", folder, str(first),
      str(count),
    ],
    env=environment, cwd=home, capture_output=True, text=True, check=False,
  )  # fmt: skip
  cases = [json.loads(line) for line in run.stdout.splitlines()]
  next_case = first + len(cases)
  assert not run.returncode, f"case {next_case}: {run.stderr[-3000:]}"
  *cases, memory = cases
  assert len(cases) == count and memory["grown_mb"] < 100
  return cases


def assert_told(cases, folder):
  """Every record is good or of a kind; every error is one clear line."""
  kinds = collections.Counter()
  for case in cases:
    if "error" in case:
      assert "; expected " in case["error"], case
      assert "\n" not in case["error"]
      kinds["error"] += 1
    else:
      assert set(case["found"]) <= {"good", *bad_records.KINDS}, case
      kinds.update(case["found"])
  # Nothing is written beside the targets but indices of tars.
  left = {p.name for p in folder.iterdir()} - {"whole", "target", "home"}
  assert not left
  for path in (folder / "home").rglob("*"):
    assert path.is_dir() or path.name.endswith((".index.npz", ".json")), path
  return kinds


def test_some_mutated_files_of_all_sources(tmp_path):
  kinds = assert_told(fuzz(tmp_path, 0, 30), tmp_path)
  assert kinds["good"] and kinds["error"] and len(kinds) > 3


@pytest.mark.slow
def test_many_mutated_files_of_all_sources(tmp_path):
  cases = fuzz(tmp_path, 1000, 400)
  kinds = assert_told(cases, tmp_path)
  assert len({case["source"] for case in cases}) == 10
  assert {"good", "error", "image", "truncated", "bomb"} <= set(kinds)
