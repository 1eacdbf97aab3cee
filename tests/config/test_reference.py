"""The config reference: every field is there, and as the code takes it."""

import dataclasses
import inspect
import pathlib
import re
import typing

import pytest

import tiny
from big_contrastive import train
from big_contrastive.config import errors, fields, files, registry, schema
from big_contrastive.data import build as data_build
from big_contrastive.data import filters
from big_contrastive.data.loader import training as loader
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers import tokenizer, vocabulary
from big_contrastive.data.transforms import views
from big_contrastive.factory import cli, parts, warm_start
from big_contrastive.models import build, decoder
from big_contrastive.models.heads import (
  classifier,
  context,
  mlp,
  patch_decoder,
  prototypes,
)
from big_contrastive.models.heads import dino as dino_head
from big_contrastive.models.image import (
  clip_resnet,
  convnet,
  patches,
  resnet,
  two_colors,
  vectors,
  vit,
)
from big_contrastive.models.text import blip, transformer
from big_contrastive.objectives import (
  _parts,
  byol,
  captions,
  catlip,
  cmc,
  coca,
  cpc,
  dino,
  instdisc,
  mae,
  mixture,
  moco,
  moco_v3,
  pairs,
  simclr,
  simsiam,
  superclass,
  swav,
)
from big_contrastive.objectives import blip as blip_objective
from big_contrastive.parallel import sharding
from big_contrastive.training import optimizers, schedules, trace

ROOT = pathlib.Path(__file__).parents[2]

# By section: the function that it configures, and what the code passes to it.
SIGNATURES = {
  "source.filter": (filters.apply, {"source"}),
  "source with a mixture": (data_build._mixture, {"where", "opener"}),
  "source.mixture[i]": (data_build._part, {"where", "opener"}),
  "views.NAME": (views._view, {"name", "where"}),
  "tokenizer": (tokenizer.build_tokenizer, {"captions", "blob"}),
  "loading": (
    loader.Training,
    {"examples", "batch_size", "rows", "seed", "gather", "reuse"},
  ),
  "model": (build._sections, set()),
  "model.image": (vit.ImageTower, {"dtype", "remat", "pin", "rngs"}),
  "model.image with tower = resnet": (
    resnet.ResNet, {"dtype", "remat", "pin", "rngs"}
  ),
  "model.image with tower = clip_resnet": (
    clip_resnet.ClipResNet, {"dtype", "remat", "pin", "rngs"}
  ),
  "model.image with tower = vectors": (
    vectors.Vectors, {"dtype", "remat", "pin", "rngs"}
  ),
  "model.image with tower = convnet": (
    convnet.ConvNet, {"dtype", "remat", "pin", "rngs"}
  ),
  "model.image with tower = patches": (
    patches.Patches, {"dtype", "remat", "pin", "rngs"}
  ),
  "model.image with tower = two_colors": (
    two_colors.TwoColors, {"dtype", "remat", "pin", "rngs"}
  ),
  "model.text": (
    transformer.TextTower, {"length", "dtype", "remat", "pin", "rngs"}
  ),
  "model.text with tower = blip": (
    blip.Blip, {"memory", "length", "dtype", "remat", "pin", "rngs"}
  ),
  "model.decoder": (
    decoder.Decoder,
    {"memory", "length", "dtype", "remat", "pin", "rngs"},
  ),
  "objective with name = captions": (captions.build, {"setting"}),
  "objective with name = coca": (coca.build, {"setting"}),
  "objective with name = blip": (blip_objective.build, {"setting"}),
  "objective with name = pairs": (pairs.build, {"setting"}),
  "objective with name = simclr": (simclr.build, {"setting"}),
  "objective with name = moco": (moco.build, {"setting"}),
  "objective with name = moco_v3": (moco_v3.build, {"setting"}),
  "objective with name = byol": (byol.build, {"setting"}),
  "objective with name = simsiam": (simsiam.build, {"setting"}),
  "objective with name = dino": (dino.build, {"setting"}),
  "objective with name = swav": (swav.build, {"setting"}),
  "objective with name = mae": (mae.build, {"setting"}),
  "objective with name = cpc": (cpc.build, {"setting"}),
  "objective with name = instdisc": (instdisc.build, {"setting"}),
  "objective with name = cmc": (cmc.build, {"setting"}),
  "objective with name = mixture": (mixture.build, {"setting"}),
  "objective.parts.NAME": (_parts.when_on, {"setting"}),
  "objective with name = catlip": (catlip.build, {"setting"}),
  "objective with name = superclass": (superclass.build, {"setting"}),
  "model.heads.NAME with name = mlp": (mlp.Mlp, {"width", "dtype", "rngs"}),
  "model.heads.NAME with name = classifier": (
    classifier.Classifier, {"width", "dtype", "rngs"}
  ),
  "model.heads.NAME with name = dino": (
    dino_head.Dino, {"width", "dtype", "rngs"}
  ),
  "model.heads.NAME with name = prototypes": (
    prototypes.Prototypes, {"width", "dtype", "rngs"}
  ),
  "model.heads.NAME with name = patch_decoder": (
    patch_decoder.PatchDecoder, {"tower", "dtype", "remat", "pin", "rngs"}
  ),
  "model.heads.NAME with name = context": (
    context.Context, {"width", "dtype", "rngs"}
  ),
  "optimizer with name = adamw": (optimizers.adamw, set()),
  "optimizer with name = adafactor": (optimizers.adafactor, set()),
  "optimizer with name = sgd": (optimizers.sgd, set()),
  "optimizer with name = lars": (optimizers.lars, set()),
  "schedule": (schedules.schedule, {"peak", "total"}),
  "micro_batch": (sharding._both, set()),
  "mesh": (sharding.make_mesh, {"devices"}),
  "profile": (trace.Window, set()),
} | {
  f"evals.NAME with task = {name}": (module.prepare, {"source"})
  for name in registry.names("evals")
  if (module := registry.module("evals", name, ""))
} | {
  f"sinks.NAME with name = {name}": (module.Sink, set())
  for name in registry.names("training.sinks")
  if (module := registry.module("training.sinks", name, ""))
}  # fmt: skip

# No single function has these: the factory, or a file of the folder, does.
ELSEWHERE = {
  "",
  "source",
  "init",
  "objective",
  "optimizer",
  "evals.NAME",
  "sinks.NAME",
  "model.heads.NAME",
}

# What the factory gives a function that a config need not: the value there.
FILLED_IN = {
  ("model.text", "vocab_size"): None,  # The tokenizer's.
  ("model.text with tower = blip", "vocab_size"): None,
  ("model.decoder", "vocab_size"): None,
  ("schedule", "warmup"): 0,
}
# And durations, which the factory turns into steps.
DURATIONS = {
  ("schedule", n) for n in ("warmup", "cooldown", "timescale", "every")
}


def test_every_section_is_held_against_the_code():
  assert SIGNATURES.keys() | ELSEWHERE == fields.SECTIONS.keys()


@pytest.mark.parametrize("section", SIGNATURES)
def test_a_section_has_the_fields_that_its_function_takes(section):
  function, passed = SIGNATURES[section]
  taken = schema._parameters(function)
  told = {f.name: f for f in dataclasses.fields(fields.SECTIONS[section])}
  assert told.keys() == taken.keys() - passed
  for name, field in told.items():
    default = taken[name].default
    if default is inspect.Parameter.empty:
      default = FILLED_IN.get((section, name), dataclasses.MISSING)
    assert field.default == default, name


@pytest.mark.parametrize("section", SIGNATURES)
def test_a_field_has_the_type_that_its_function_takes(section):
  function, _ = SIGNATURES[section]
  hints = schema.hints(function)
  for field in dataclasses.fields(fields.SECTIONS[section]):
    told, taken = kinds(field.type), kinds(hints[field.name])
    if (section, field.name) in DURATIONS:
      assert taken == {int} and told == {int, str}, field.name
    elif (section, field.name) in FILLED_IN:
      assert told == taken | {type(None)}, field.name
    elif Source in taken:  # A section of its own, or a string.
      assert told - {dict, str} == taken - {Source} and dict in told
    elif (section, field.name) == ("tokenizer", "kind"):
      assert told == set(vocabulary.KINDS) and taken == {str}
    else:
      assert told == taken, field.name


def kinds(hint):
  """A type's parts: of a Literal its values, of a union its members."""
  if typing.get_origin(hint) is typing.Literal:
    return set(typing.get_args(hint))
  if typing.get_args(hint):
    return set().union(*map(kinds, typing.get_args(hint)))
  return {hint}


def test_the_common_fields_of_the_optimizer_and_of_init_are_those_of_the_code():
  own = {f.name: f for f in dataclasses.fields(fields.SECTIONS["optimizer"])}
  taken = schema.hints(optimizers.build)
  defaults = {k: f.default for k, f in own.items()} | parts._COMMON
  assert defaults == {k: f.default for k, f in own.items()}
  assert own.keys() - {"name", "lr"} == parts._COMMON.keys()
  assert all(kinds(own[k].type) == kinds(taken[k]) for k in own.keys() & taken)
  listed = re.findall(r"\w+", own["name"].metadata["doc"])
  assert optimizers.OPTIMIZERS.keys() <= {*listed}
  init = {f.name for f in dataclasses.fields(fields.SECTIONS["init"])}
  assert init == set(warm_start.part_names({"img": {}, "txt": {}, "t": 0}))


CONFIGS = sorted({p.stem for p in ROOT.glob("configs/*.py")} - tiny.SHARED)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_fields_of_the_reference_alone(name):
  argument = "images=photos,captions=t.tsv," * (name == "own_data") + "smoke"
  path = f"{ROOT}/configs/{name}.py:{argument}"
  config = schema.plain(files.load_config(path, []))
  made = schema.call(fields.Config, config, "config")
  assert {k: getattr(made, k) for k in config} == config
  assert made.keep == 2 and made.ema is None


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"batchsize": 8}, "config.batchsize = 8; expected one of source, .*"
     "Did you mean 'batch_size'"),
    ({"keep": "all"}, "config.keep = 'all'; expected int"),
    ({"ema": "on"}, r"config.ema = 'on'; expected float \| None"),
  ],
)  # fmt: skip
def test_the_top_level_checks_what_it_is_given(change, said):
  config = files.load_config(f"{ROOT}/configs/siglip.py:smoke", [])
  with pytest.raises(errors.UserError, match=said):
    schema.call(fields.Config, schema.plain(config) | change, "config")


def test_a_field_that_is_missing_is_named():
  with pytest.raises(errors.UserError, match="config.source is missing"):
    schema.call(fields.Config, {}, "config")


def test_every_field_says_what_it_means():
  for section, table in fields.SECTIONS.items():
    assert table.__doc__.partition("\n")[0].endswith((".", ":"))
    for field in dataclasses.fields(table):
      about = field.metadata
      for part in ("doc", "why"):
        text = about[part]
        assert not text or text[-1] == ".", (section, field.name, text)
      assert about["doc"], (section, field.name)
      assert about["paper"][-1:] != ".", (section, field.name)


# --- What is printed.


def run(monkeypatch, capsys, *flags):
  monkeypatch.setattr("sys.argv", ["train", *flags])
  code = 0
  try:
    cli.main(train.run)
  except SystemExit as end:
    code = end.code
  out, err = capsys.readouterr()
  return code, out, err


def test_all_fields_are_printed_in_80_columns(monkeypatch, capsys):
  code, out, err = run(monkeypatch, capsys, "--fields")
  assert code == 0 and not err
  assert max(map(len, out.splitlines())) <= 80
  for section, table in fields.SECTIONS.items():
    title = "config" + "." * bool(section) + section
    assert re.search(rf"^{re.escape(title)}\n=+$", out, re.MULTILINE)
    for field in dataclasses.fields(table):
      assert re.search(rf"^  {field.name}: \S", out, re.MULTILINE)


@pytest.mark.parametrize(
  ("section", "titles"),
  [
    (
      "model.image",
      ["config.model.image", "config.model.image with tower = resnet",
       "config.model.image with tower = clip_resnet",
       "config.model.image with tower = convnet",
       "config.model.image with tower = patches",
       "config.model.image with tower = vectors",
       "config.model.image with tower = two_colors"],
    ),
    ("config.mesh", ["config.mesh"]),
    (
      "model",
      ["config.model", "config.model.image",
       "config.model.image with tower = resnet",
       "config.model.image with tower = clip_resnet",
       "config.model.image with tower = convnet",
       "config.model.image with tower = patches",
       "config.model.image with tower = vectors",
       "config.model.image with tower = two_colors", "config.model.text",
       "config.model.text with tower = blip", "config.model.decoder",
       "config.model.heads.NAME", "config.model.heads.NAME with name = mlp",
       "config.model.heads.NAME with name = classifier",
       "config.model.heads.NAME with name = dino",
       "config.model.heads.NAME with name = prototypes",
       "config.model.heads.NAME with name = patch_decoder",
       "config.model.heads.NAME with name = context"],
    ),  # fmt: skip
    (
      "evals",
      ["config.evals.NAME"]
      + [f"config.evals.NAME with task = {task}" for task in (
        "retrieval", "zero_shot", "zero_shot_multi_label", "gallery", "knn",
        "linear_probe",
        "few_shot", "collapse", "neighbors", "attention", "reconstruction",
        "labels", "zero_shot_labels", "captioning",
        "zero_shot_captions",
      )],
    ),  # fmt: skip
    ("source.mixture", ["config.source.mixture[i]"]),
    (
      "optimizer",
      ["config.optimizer", "config.optimizer with name = adamw",
       "config.optimizer with name = adafactor",
       "config.optimizer with name = sgd", "config.optimizer with name = lars"],
    ),
  ],
)  # fmt: skip
def test_a_section_is_printed_with_those_inside(
  section, titles, monkeypatch, capsys
):
  code, out, _ = run(monkeypatch, capsys, "--fields", section)
  assert code == 0
  assert re.findall(r"^(config.*)\n=+$", out, re.MULTILINE) == titles


def test_one_field_is_printed(monkeypatch, capsys):
  code, out, _ = run(monkeypatch, capsys, "--fields=optimizer.clip")
  assert code == 0
  assert out.startswith("  clip: float | None = None\n    Largest global norm")
  code, out, _ = run(monkeypatch, capsys, "--fields", "batch_size")
  assert out.startswith("  batch_size: int  (required)  [examples]\n")


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["model.imge"], "--fields = 'model.imge'; .*'model.image'?"),
    (["modle"], "--fields = 'modle'; .*Did you mean 'model'?"),
    (["batchsize"], "Did you mean 'batch_size'?"),
    ([""], "--fields = ''; expected a value"),
    (["mesh", "model"], "argument = 'model'; expected at most one section"),
  ],
)
def test_an_unknown_section_is_an_error(flags, said, monkeypatch, capsys):
  code, out, err = run(monkeypatch, capsys, "--fields", *flags)
  assert code == 2 and not out and len(err.splitlines()) == 1
  assert re.match(f"error: {said}", err) or re.search(said, err)


def test_the_page_is_that_of_the_fields(monkeypatch, capsys):
  code, out, _ = run(monkeypatch, capsys, "--fields", "--markdown")
  assert code == 0
  assert out == (ROOT / "docs" / "config.md").read_text(), "run make docs"
  rows = [line for line in out.splitlines() if line.startswith("| `")]
  tables = fields.SECTIONS.values()
  assert len(rows) == sum(len(dataclasses.fields(t)) for t in tables)
  # A type's own bars are no borders of cells.
  assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_the_fields_import_nothing_of_the_other_folders():
  paths = [*ROOT.glob("big_contrastive/config/fields/*.py")]
  paths.append(ROOT / "big_contrastive" / "config" / "reference.py")
  for path in paths:
    names = re.findall(r"^from (big_contrastive\S*)", path.read_text(), re.M)
    assert all(n.startswith("big_contrastive.config") for n in names), path
