"""The rules of the house: rows of imports, sizes, no TensorFlow."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "big_contrastive"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports from rows above its own, and from its own folder.
ROWS = [
  {"errors", "signals"},
  {
    "resolve",
    "tree",
    "durations",
    "ring",
    "manifest",
    "agreement",
    "finite",
    "whole",
  },
  {"pairwise", "lock", "peers", "catalog", "health"},
  {"losses", "models", "data", "optim", "sharding", "metrics"},
  {"objectives", "interop"},
  {"step", "embedding", "evals"},
  {"checkpoint", "sourcing"},
  {"pretrained", "assemble", "evaluators"},
  {"reading"},
  {"experiment", "exchange"},
  {"run", "command", "bottleneck", "trained"},
  {"loop"},
  {"train", "evaluate", "pack", "convert", "embed", "plan", "__init__"},
]
ROW = {name: i for i, row in enumerate(ROWS) for name in row}


def imports(path):
  """All modules that a file imports, as dotted names."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}:{node.lineno}: write the whole name"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path):
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_has_a_row():
  found = {part(p) for p in FILES}
  assert found == set(ROW), f"add to a row of ROWS: {found ^ set(ROW)}"


def test_imports_go_one_way():
  wrong = []
  for path in FILES:
    own = part(path)
    for name in imports(path):
      if not name.startswith("big_contrastive."):
        continue
      other = name.split(".")[1]
      # errors is what everything may raise, its own row included.
      if other not in (own, "errors") and ROW[other] >= ROW[own]:
        wrong.append(f"{path.relative_to(ROOT)} imports {other}")
  assert not wrong


def test_nobody_imports_tensorflow_or_torch():
  for path in FILES:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"tensorflow", "torch", "tf_keras"}, path


def test_the_commands_run_without_tensorflow():
  code = (
    "import sys; from big_contrastive import train, evaluate;"
    "from big_contrastive.data.sources import tfds, shapes, table, folder;"
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_configs_are_data_only():
  for path in sorted((ROOT / "configs").glob("*.py")):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"jax", "big_contrastive"}, path
    assert len(path.read_text().splitlines()) <= 100, path


def test_only_three_modules_name_a_mesh_axis():
  for path in FILES:
    if part(path) in ("sharding", "objectives", "step"):
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor"):
        raise AssertionError(f"{path}:{node.lineno} names {node.value!r}")


def test_only_the_experiment_and_what_uses_it_read_a_config():
  """So no default hides at a point of use."""
  # interop reads the config files of other projects.
  below = [p for p in FILES if part(p) != "interop"]
  below = [p for p in below if ROW.get(part(p), 0) < ROW["experiment"]]
  for path in below:
    text = path.read_text()
    assert "config.get(" not in text and "ConfigDict" not in text, path


def test_files_can_be_read_in_one_sitting():
  assert not list(PACKAGE.rglob("utils.py"))
  for path in FILES:
    assert len(path.read_text().splitlines()) <= 300, path


def test_every_module_has_its_tests():
  tests = {p.stem.removeprefix("test_") for p in ROOT.glob("tests/test_*.py")}
  covered_by = {
    "errors": "wrong_inputs", "ring": "losses", "pairwise": "losses",
    "embedding": "evals",
    "pretrained": "end_to_end", "assemble": "wrong_inputs", "sourcing": "order",
    "experiment": "end_to_end", "loop": "end_to_end", "run": "end_to_end",
    "manifest": "checkpoint", "catalog": "checkpoint", "__init__": "trained",
    "agreement": "processes", "whole": "embed",
    "command": "wrong_inputs", "train": "wrong_inputs",
    "evaluate": "end_to_end", "objectives": "step", "interop": "big_vision",
    "data": "pipeline", "exchange": "convert",
    "evaluators": "evals", "reading": "plan",
  }  # fmt: skip
  for name in ROW:
    assert covered_by.get(name, name) in tests, name
