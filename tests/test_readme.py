"""Every snippet and every command of the documents runs.

On the data that readme.py makes, by command_rules.py, in one process. All is
made small: configs get `smoke` (own_data's towers are tiny, too),
`--config.batch_size` becomes 16 and `--config.micro_batch` 8, a run is of five
steps, plans are for this machine. What a command writes is removed before.
Training commands of docstrings are built, but not run. A snippet for which
there is no rule is an error: what a new one needs is added to those two files.
"""

import ast
import importlib
import inspect
import json
import re
import sys
import types

import command_rules
import numpy as np
import pytest
import readme
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

import tiny
from big_contrastive import losses
from big_contrastive.config import files, registry
from big_contrastive.data.build import build_source
from big_contrastive.data.files import embedded as embedded_files
from big_contrastive.factory import experiment
from big_contrastive.inference.model import Model
from big_contrastive.training import loop
from configs import augmentations

ROOT = readme.ROOT
SHOWN = readme.documents()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


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
def inside(checkout, one_device, monkeypatch):
  """inside(text): the checkout, with the data that the text names."""
  monkeypatch.chdir(checkout)
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(checkout))

  def enter(text):
    # Stand-ins that command_rules puts in the place of these words.
    text = text.replace("SOURCE", "val.tar")
    readme.provide(checkout, text)
    return checkout

  return enter


@pytest.mark.slow
@of("command")
def test_a_command_of_the_documents_runs(snippet, inside, monkeypatch, capsys):
  inside(snippet.text)
  out = command_rules.obey(snippet, monkeypatch, capsys)
  if "--suite" in snippet.text:
    assert out.splitlines()[-1].startswith("| coco/test | txt2img_r10 |")
  elif "big_contrastive.evaluate" in snippet.text:
    figures = json.loads(out.splitlines()[-1])
    assert figures and all(np.isfinite(v) for v in figures.values())
  if "big_contrastive.plan" in snippet.text:
    assert "a device in a step" in out


@pytest.mark.slow
@of("command", snippets=readme.docstrings())
def test_a_command_of_a_docstring_runs(snippet, inside, monkeypatch, capsys):
  inside(snippet.text)
  monkeypatch.setattr(loop, "fit", lambda *given: None)
  command_rules.obey(snippet, monkeypatch, capsys)


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
    command_rules.obey(found, monkeypatch, capsys)


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
    "command", "python", "files", "mention", "flag", "source", "config"
  }  # fmt: skip


# --- Everything else that is shown.


@pytest.mark.slow
@of("python")
def test_a_snippet_of_python_runs(snippet, inside, monkeypatch, capsys):
  root = inside(snippet.text)
  if "def loss(" in snippet.text:
    return trains(snippet, root, monkeypatch)
  if snippet.text.startswith("config."):
    others = {"local": "swav", "mixture": "slip"}
    base = next((k for word, k in others.items() if word in snippet.text), "")
    config = ConfigDict(tiny.load(base or "simclr", "smoke"))
    space = {"config": config, "augmentations": augmentations}
    exec(snippet.text.replace("224", "32").replace("96", "16"), space)
    experiment.build(space["config"].to_dict())
    return
  if "pyspark" in snippet.text:
    context = types.SimpleNamespace(
      parallelize=lambda items, n: types.SimpleNamespace(
        foreachPartition=lambda run: [run(items[k::n]) for k in range(n)]
      )
    )
    stand_in = types.SimpleNamespace(
      SparkContext=types.SimpleNamespace(getOrCreate=lambda: context)
    )
    monkeypatch.setitem(sys.modules, "pyspark", stand_in)
    text = snippet.text.replace("heldout", "heldout,train_size=512,size=32")
    exec(compile(text, snippet.place, "exec"), {})
    assert [p.name for p in embedded_files.parts(root / "by_spark")] == [
      "part-00000.parquet"
    ]
    return
  if "pyarrow" in snippet.text:
    parts_of(snippet, inside, monkeypatch, capsys)
    exec(compile(snippet.text, snippet.place, "exec"), {})
    assert capsys.readouterr().out.split() == ["25"]
    return
  space = {"pictures": [readme.picture(0), readme.picture(1)]}
  exec(compile(snippet.text, snippet.place, "exec"), space)
  assert isinstance(space["model"], Model)


def parts_of(snippet, inside, monkeypatch, capsys):
  """Does the command of the same page that writes what the snippet reads."""
  page = snippet.place.partition(":")[0]
  (command,) = (
    s for s in SHOWN if s.place.startswith(page) and "--out embedded" in s.text
  )
  inside(command.text)
  command_rules.obey(command, monkeypatch, capsys)


def trains(snippet, root, monkeypatch):
  """A pair loss as it is written there, with a body, in a file of its own."""
  head = snippet.text.rstrip()
  assert head.endswith("): ...")
  (root / "mine.py").write_text(head.removesuffix(" ...") + BODY)
  monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(root)])
  page = (ROOT / "docs/objectives.md").read_text()
  (line,) = re.findall(r"`(config\.objective = .*\"mine\"\})`", page)
  (path,) = re.findall(r"`config\.objective\.loss = (\".*\.py\")`", page)
  assert "mine" in registry.names("losses")
  objective = ast.literal_eval(line.partition(" = ")[2])
  one_step(objective)
  # The same by the path of a file, as another module.
  file = root / ast.literal_eval(path)
  file.parent.mkdir()
  file.write_text((root / "mine.py").read_text())
  monkeypatch.chdir(root)
  monkeypatch.setattr("sys.path", [*sys.path])
  one_step(objective | {"loss": ast.literal_eval(path)})


def one_step(objective):
  config = tiny.load("siglip", "smoke", "--config.evals={}")
  config["objective"] = objective
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
  source = build_source(snippet.text, snippet.place)
  assert len(source) and source[0]["image"] is not None


@of("config")
def test_a_config_that_is_shown_builds(snippet, inside):
  inside(snippet.text)
  experiment.build(
    files.load_config(command_rules.small_config(snippet.text), [])
  )


@of("mention")
def test_a_flag_that_is_mentioned_is_one(snippet, monkeypatch, capsys):
  name, *rest = snippet.text.split()
  for flag in (word for word in rest if word.startswith("--")):
    assert knows(name, flag, monkeypatch, capsys), flag


@of("flag")
def test_a_flag_that_is_shown_is_taken(snippet, checkout, monkeypatch, capsys):
  monkeypatch.chdir(checkout)
  readme.provide(checkout, snippet.text)
  flag, _, value = snippet.text.partition(" ")
  if not flag.startswith("--config."):
    found = [registry.module("evals", n, "") for n in registry.names("evals")]
    own = {k for t in found for k in inspect.signature(t.prepare).parameters}
    assert flag.removeprefix("--") in own or any(
      knows(n, flag, monkeypatch, capsys) for n in readme.COMMANDS
    )
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


# --- Links.


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_anchors_point_to_something(page):
  assert broken(page) == []


def test_the_site_has_all_pages():
  listed = (ROOT / "docs/site/index.md").read_text().split()
  pages = [f"../{page.stem}" for page in (ROOT / "docs").glob("*.md")]
  assert {*pages} <= {*listed}


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path):
  page = tmp_path / "page.md"
  page.write_text(
    "# A title: `x`, too\n\n```\n# no title\n```\n[a](#a-title-x-too) "
    "[b](page.md#a-title-x-too) [c](https://c.d#e) [f](gone.md)\n"
    "![g\nh](gone.png) [i](#no-title) [j](page.md#k)\n"
  )
  wrong = ["gone.md", "gone.png", "#no-title", "page.md#k"]
  assert broken(page) == wrong


def broken(page):
  """The relative links of a page that lead to no file or no heading."""
  links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
  return [link for link in links if not leads(page, link)]


def leads(page, link):
  if re.match(r"[a-z]+:", link):
    return True
  path, _, anchor = link.partition("#")
  target = page.parent / path if path else page
  return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page):
  """A page's headings, as GitHub names them in links."""
  text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
  titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
  kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
  return {title.replace(" ", "-") for title in kept}
