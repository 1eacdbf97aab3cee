"""Every snippet and every command of the documents runs.

On the data that tests/readme.py makes, in one process, made small: configs get
`smoke` (own_data's towers are tiny, too), `--config.batch_size` becomes 16 and
`--config.micro_batch` 8, a run is of two steps, plans are for this machine.
What a command writes is removed before. Training commands of docstrings are
built, but not run. A snippet for which there is no rule here is an error.
"""

import ast
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import readme
import tensorflow_datasets as tfds

import tiny
from big_contrastive import (
  command,
  experiment,
  loop,
  losses,
  resolve,
  sourcing,
  trained,
)

ROOT = readme.ROOT
SHOWN = readme.documents()
WRITTEN = ("--workdir", "--to", "--out")


def ids(snippet):
  return f"{snippet.place} {snippet.text.splitlines()[0][:50]}"


def of(*kinds, snippets=SHOWN):
  found = [s for s in snippets if s.kind in kinds]
  return pytest.mark.parametrize("snippet", found, ids=ids)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  """A folder that looks like the checkout, and takes what is written."""
  root = tmp_path_factory.mktemp("checkout")
  for name in ("configs", "launch", "benchmarks", "tests", "Makefile"):
    (root / name).symlink_to(ROOT / name)
  return root


@pytest.fixture
def inside(checkout, monkeypatch):
  """inside(text): the checkout, with the data that the text names."""
  monkeypatch.chdir(checkout)
  one = jax.devices()[:1]  # Which is compiled for in a third of the time.
  monkeypatch.setattr(jax, "devices", lambda: one)
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(checkout))

  def enter(text):
    readme.provide(checkout, text)
    return checkout

  return enter


# --- Commands. The first rule whose expression a command matches runs it.


def python(words, monkeypatch, capsys):
  """A command of ours, in this process; returns what it prints."""
  name = words[2].removeprefix("big_contrastive.")
  module = importlib.import_module(f"big_contrastive.{name}")
  args = small(name, words[3:])
  for flag, target in zip(args, args[1:], strict=False):
    if flag in WRITTEN:
      clear(pathlib.Path(target))
  monkeypatch.setattr("sys.argv", [name, *args])
  capsys.readouterr()
  command.main(module.run)
  for flag, target in zip(args, args[1:], strict=False):
    built = name == "train" and loop.fit is not FIT  # And nothing written.
    if flag in WRITTEN and not built and "*" not in target:
      path = pathlib.Path(target)
      assert path.exists() or list(path.parent.glob(f"{path.stem}-*"))
  return capsys.readouterr().out


FIT = loop.fit


def clear(path):
  for old in (path, *path.parent.glob(f"{path.stem}-*")):
    if old.is_dir():
      shutil.rmtree(old)
    else:
      old.unlink(missing_ok=True)


def small(name, words):
  """A command's arguments, made a matter of seconds, placeholders filled."""
  out = []
  for flag, word in zip(["", *words], words, strict=False):
    if word.startswith("--config.batch_size="):
      word = "--config.batch_size=16"
    elif word.startswith("--config.micro_batch="):
      word = "--config.micro_batch=8"
    elif flag == "--config":
      word = small_config(word)
    elif flag == "--data":
      word = "wds:val.tar,caption=json:text" if word == "SOURCE" else word
      word += ",train_size=512,size=32" * word.startswith("shapes:")
    elif word == "DIR":
      word = {"--checkpoint": "runs/demo", "--out": "vectors"}[flag]
    out.append(word)
  if "--topology" in out:
    at = out.index("--topology")
    del out[at : at + 2]
  if name == "train":
    out += ["--config.total=2 steps", "--config.schedule.warmup=0"]
    if "own_data" in " ".join(out):  # Of any captions the same program.
      out += ["--config.model.text.vocab_size=4096"]
  return out


def small_config(word):
  if word == "...":
    return "configs/siglip.py:smoke"
  word = word.replace("data=...", "data=my_pairs").replace("res=224", "res=32")
  file, colon, argument = word.partition(":")
  more = "smoke" if "smoke" not in argument.split(",") else ""
  if "own_data" in file:
    more += ",width=32,depth=1"
  return file + ":" + ",".join(filter(None, [argument, more]))


def make(words, monkeypatch, capsys):
  """The target is there, and its commands can be made."""
  found = run("make", "-n", *words[1:], cwd=ROOT)
  assert found.returncode == 0, found.stderr


def launched(words, monkeypatch, capsys):
  """The launcher runs, with a Python that prints what it is asked to do."""
  folder = pathlib.Path("stub")
  folder.mkdir(exist_ok=True)
  stub = folder / "python"
  stub.write_text(
    f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho RUN "$@"\n'
  )
  srun = folder / "srun"
  srun.write_text('#!/bin/sh\necho RUN "$@"\n')
  for file in (stub, srun):
    file.chmod(0o755)
  own = [word for word in words[1:] if not word.startswith("launch/")]
  script = next(word for word in words if word.startswith("launch/"))
  if words[0] == "sbatch":
    own = own[own.index("--config") :]
  found = run("bash", script, *own, python=str(stub.absolute()), more=folder)
  assert found.returncode == 0, found.stderr
  asked = " ".join(["big_contrastive.train", "--distributed", *_flags(own)])
  assert asked in found.stdout and "RUN" in found.stdout


def _flags(words):
  return words[words.index("--config") :]


def pip(words, monkeypatch, capsys):
  """What is installed has the extra that is asked for."""
  package, extra = re.match(r"(.*)\[(.*)\]", words[-1]).groups()
  if package == ".":
    assert f'"{extra}":' in (ROOT / "setup.py").read_text()
  else:
    known = importlib.metadata.metadata(package).get_all("Provides-Extra")
    assert extra in known


def checksums(words, monkeypatch, capsys):
  readme.provide(pathlib.Path.cwd(), "runs/demo")
  (folder,) = pathlib.Path("runs/demo/checkpoints").glob("[0-9]*")
  found = run(*words, cwd=folder)
  assert found.returncode == 0 and "OK" in found.stdout


def run(*words, cwd=None, python="python", more="."):
  path = f"{pathlib.Path(more).absolute()}:{os.environ['PATH']}"
  return subprocess.run(
    words, cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    env=os.environ | {"PYTHON": python, "PATH": path},
  )  # fmt: skip


RULES = {
  r"python -m big_contrastive\.(train|evaluate|pack|convert|embed|plan)\b":
    python,
  r"make [a-z-]+": make,
  r"launch/local\.sh ": launched,
  r"sbatch .*launch/slurm\.sbatch ": launched,
  r"pip install .*\[\w+\]": pip,
  r"sha256sum -c SHA256SUMS$": checksums,
}  # fmt: skip


def obey(snippet, monkeypatch, capsys):
  """Runs a command by its rule; without one it is an error."""
  for form, rule in RULES.items():
    if re.match(form, snippet.text):
      return rule(shlex.split(snippet.text, comments=True), monkeypatch, capsys)
  raise AssertionError(f"no rule covers {snippet.place}: {snippet.text}")


@pytest.mark.slow
@of("command")
def test_a_command_of_the_documents_runs(snippet, inside, monkeypatch, capsys):
  inside(snippet.text)
  out = obey(snippet, monkeypatch, capsys)
  if "big_contrastive.evaluate" in snippet.text:
    figures = json.loads(out.splitlines()[-1])
    assert figures and all(np.isfinite(v) for v in figures.values())
  if "big_contrastive.plan" in snippet.text:
    assert "a device in a step" in out


@pytest.mark.slow
@of("command", snippets=readme.docstrings())
def test_a_command_of_a_docstring_runs(snippet, inside, monkeypatch, capsys):
  inside(snippet.text)
  monkeypatch.setattr(loop, "fit", lambda built, workdir: None)
  obey(snippet, monkeypatch, capsys)


def test_a_command_that_no_rule_covers_is_found(tmp_path, monkeypatch, capsys):
  page = tmp_path / "page.md"
  page.write_text("Do\n\n```\npython -m big_contrastive.trian --x\n```\n")
  (found,) = readme.markdown(page)
  assert found == (
    "page.md:3",
    "command",
    "python -m big_contrastive.trian --x",
  )
  with pytest.raises(AssertionError, match="no rule covers page.md:3"):
    obey(found, monkeypatch, capsys)


def test_all_forms_of_commands_are_found(tmp_path):
  page = tmp_path / "page.md"
  page.write_text(
    "`make a` and\n`launch/x.sh\n  b`, `python -m c \\\n d`, `word`\n\n"
    "```sh\nmake d \\\n  e   # why\n\nmake f\n```\n\n    make g\n\n"
    "```python\nmake = 1\n```\n\n```js\nx\n```\n"
  )
  found = [(s.kind, s.text) for s in readme.markdown(page)]
  commands = ["make d e", "make f", "make g", "make a", "launch/x.sh b"]
  assert found[2:4] == [("python", "make = 1\n"), ("js", "x\n")]
  assert [t for k, t in found if k == "command"][:5] == commands
  # What nobody knows has no test below that takes it.
  assert {s.kind for s in SHOWN} <= {
    "command", "python", "files", "mention", "flag", "source"
  }  # fmt: skip


# --- Everything else that is shown.


@pytest.mark.slow
@of("python")
def test_a_snippet_of_python_runs(snippet, inside, monkeypatch, capsys):
  root = inside(snippet.text)
  if "def loss(" in snippet.text:
    return trains(snippet, root, monkeypatch)
  space = {"pictures": [readme.picture(0), readme.picture(1)]}
  exec(compile(snippet.text, snippet.place, "exec"), space)
  assert isinstance(space["model"], trained.Model)


def trains(snippet, root, monkeypatch):
  """A pair loss as it is written there, with a body, in a file of its own."""
  head = snippet.text.rstrip()
  assert head.endswith("): ...")
  (root / "mine.py").write_text(head.removesuffix(" ...") + BODY)
  monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(root)])
  page = (ROOT / "README.md").read_text()
  (line,) = re.findall(r"`(config\.objective = .*\"mine\"\})`", page)
  assert "mine" in resolve.names("losses")
  config = tiny.load("siglip", "smoke", "--config.evals={}")
  objective = line.partition(" = ")[2]
  config["objective"] = ast.literal_eval(objective)
  made = experiment.build(config)
  state = made.placed.init()
  (batch,) = made.training.batches(0, 1)
  _, metrics = made.placed.update(state, batch)
  assert np.isfinite(float(metrics["loss"]))


BODY = """
  import jax

  value = scale * ((zimg - ztxt) ** 2).mean()
  return value if axis is None else jax.lax.pmean(value, axis)
"""


@of("files")
def test_the_files_that_are_listed_are_there(snippet):
  folder = ROOT
  for line in snippet.text.splitlines():
    names = re.match(r"(\s*)((?:[\w./]+ ?)+?)(?:\s\s|\s\w+:|$)", line)
    if line.startswith("big_contrastive/"):
      folder = ROOT / "big_contrastive"
      continue
    for name in names[2].split():
      assert (folder / name).exists(), name


@of("source")
def test_a_source_that_is_shown_opens(snippet, inside, monkeypatch):
  inside(snippet.text)
  source = sourcing.source(snippet.text, snippet.place)
  assert len(source) and source[0]["image"] is not None


@of("mention")
def test_a_flag_that_is_mentioned_is_one(snippet, monkeypatch, capsys):
  name, *rest = snippet.text.split()
  for flag in (word for word in rest if word.startswith("--")):
    assert knows(name, flag, monkeypatch, capsys), flag


@of("flag")
def test_a_flag_that_is_shown_is_taken(snippet, monkeypatch, capsys):
  flag, _, value = snippet.text.partition(" ")
  if not flag.startswith("--config."):
    assert any(knows(n, flag, monkeypatch, capsys) for n in readme.COMMANDS)
    return
  flag = flag.replace("FIELD=VALUE", "seed=1")
  flag = re.sub(r"(micro_batch[.\w]*)=\d+", r"\1=8", flag)
  flag = re.sub(r"(batch_size)=\d+", r"\1=16", flag)
  experiment.build(tiny.load("siglip", "smoke", flag))


def knows(name, flag, monkeypatch, capsys):
  module = importlib.import_module(f"big_contrastive.{name}")
  monkeypatch.setattr("sys.argv", [name, "--help"])
  with pytest.raises(SystemExit):
    module.run()
  return re.search(rf"{flag}\b", capsys.readouterr().out) is not None
