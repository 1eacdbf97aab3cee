"""How each command of the documents is run: the first rule that fits it."""

import importlib
import importlib.metadata
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import readme

from big_contrastive.factory import cli
from big_contrastive.training import loop

ROOT = readme.ROOT
_WRITTEN = ("--workdir", "--to", "--out")


def python(words, monkeypatch, capsys):
  """A command of ours, in this process; returns what it prints."""
  name = words[2].removeprefix("big_contrastive.")
  module = importlib.import_module(words[2])
  args = small(name, words[3:])
  for flag, target in zip(args, args[1:], strict=False):
    if flag in _WRITTEN:
      clear(pathlib.Path(target))
  monkeypatch.setattr("sys.argv", [name, *args])
  capsys.readouterr()
  cli.main(module.run)
  for flag, target in zip(args, args[1:], strict=False):
    built = name == "train" and loop.fit is not FIT  # And nothing written.
    if flag in _WRITTEN and not built and "*" not in target:
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
  if name == "train" and "--fields" not in out:
    out += ["--config.total=5 steps", "--config.schedule.warmup=0"]
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


def printing():
  """A folder with a Python that prints what it is asked to do."""
  folder = pathlib.Path("stub")
  folder.mkdir(exist_ok=True)
  stub = folder / "python"
  stub.write_text(
    f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho RUN "$@"\n'
  )
  stub.chmod(0o755)
  return folder


def recipe(words, monkeypatch, capsys):
  """Its commands are run here, one after another."""
  folder = printing()
  found = run("bash", *words, python=str((folder / "python").absolute()))
  assert found.returncode == 0, found.stderr
  asked = [line.split() for line in found.stdout.splitlines()]
  assert len(asked) > 3 and all(line[:2] == ["RUN", "-m"] for line in asked)
  for line in asked:
    python(["python", *line[1:]], monkeypatch, capsys)


def launched(words, monkeypatch, capsys):
  """The launcher runs, with a Python that prints what it is asked to do."""
  folder = printing()
  stub = folder / "python"
  srun = folder / "srun"
  srun.write_text('#!/bin/sh\necho RUN "$@"\n')
  srun.chmod(0o755)
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


def downloaded(words, monkeypatch, capsys):
  """As the Makefile gets it."""
  assert words[:2] == ["pip", "download"]
  makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
  line = next(
    x for x in makefile.splitlines() if "pip" in x.lower() and words[-1] in x
  )
  assert set(words[1:]) <= set(line.split())


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
  r"python -m big_contrastive\."
  r"(train|evaluate|pack|convert|plan|embed|score|keep|dedup|balance|synsets|"
  r"caption|report)\b": python,
  r"make [a-z-]+": make,
  r"launch/local\.sh ": launched,
  r"launch/(dfn|capfilt)\.sh ": recipe,
  r"sbatch .*launch/slurm\.sbatch ": launched,
  r"pip install .*\[\w+\]": pip,
  r"pip download ": downloaded,
  r"sha256sum -c SHA256SUMS$": checksums,
}  # fmt: skip


def obey(snippet, monkeypatch, capsys):
  """Runs a command by its rule; without one it is an error."""
  for form, rule in RULES.items():
    if re.match(form, snippet.text):
      words = shlex.split(readme.here(snippet.text), comments=True)
      return rule(words, monkeypatch, capsys)
  raise AssertionError(f"no rule covers {snippet.place}: {snippet.text}")
