"""The rules of the house: rows of imports, sizes, no TensorFlow."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "big_contrastive"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports only from rows above its own, and from its own folder.
ROWS = [
  {"config"},
  {"parallel", "losses"},
  {"storage"},
  {"models", "data"},
  {"objectives", "evals", "checkpoints"},
  {"interop"},
  {"inference"},
  {"offline"},
  {"training"},
  {"factory", "reports"},
  {
    "train",
    "evaluate",
    "embed",
    "caption",
    "score",
    "keep",
    "dedup",
    "balance",
    "convert",
    "pack",
    "plan",
    "report",
    "synsets",
    "__init__",
  },
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


def test_the_top_has_commands_and_folders_alone():
  """And each has a row: a new folder is to be thought about."""
  assert {part(p) for p in FILES} == set(ROW)
  top = {p.stem for p in PACKAGE.glob("*.py")}
  assert top == ROWS[-1]


def test_imports_go_one_way():
  wrong = []
  for path in FILES:
    own = part(path)
    for name in imports(path):
      if not name.startswith("big_contrastive."):
        continue
      other = name.split(".")[1]
      if other != own and ROW[other] >= ROW[own]:
        wrong.append(f"{path.relative_to(ROOT)} imports {other}")
  assert not wrong


def test_what_begins_with_an_underscore_is_its_folders_own():
  """Or of the folders in it: nobody reaches into an engine from outside."""
  # config.ema and config.lora wrap any method.
  allowed = {("factory/parts.py", name) for name in ("_ema", "_lora")}
  for path in FILES:
    place = path.relative_to(PACKAGE)
    for name in imports(path):
      pieces = name.split(".")
      private = next((p for p in pieces if p[0] == "_" and p[1] != "_"), None)
      if pieces[0] != "big_contrastive" or private is None:
        continue
      inside = pieces[1 : pieces.index(private)]
      if PACKAGE.joinpath(*inside, f"{private}.py").exists():
        same = list(place.parent.parts)[: len(inside)] == inside
        assert same or (str(place), private) in allowed, (path, name)


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


def test_only_three_folders_name_a_mesh_axis():
  for path in FILES:
    if part(path) in ("parallel", "objectives", "config"):
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor"):
        raise AssertionError(f"{path}:{node.lineno} names {node.value!r}")


def test_only_the_factory_reads_a_config():
  """So no default hides at a point of use."""
  for path in FILES:
    # interop reads the config files of other projects.
    if part(path) in ("interop", "config") or ROW[part(path)] >= ROW["factory"]:
      continue
    text = path.read_text()
    assert "config.get(" not in text and "ConfigDict" not in text, path


def test_files_can_be_read_in_one_sitting():
  assert not list(PACKAGE.rglob("utils.py"))
  for path in FILES:
    assert len(path.read_text().splitlines()) <= 300, path


def test_every_folder_has_its_tests():
  for folder in set(ROW) - ROWS[-1]:
    assert list((ROOT / "tests" / folder).glob("test_*.py")), folder
