"""The plan of a step: memory and time before anything is run."""

import importlib.util
import re

import jax
import numpy as np
import pytest

import mutate
import tiny
from big_contrastive import plan
from big_contrastive.config import errors, rules
from big_contrastive.data.sources import tfds
from big_contrastive.factory import experiment, reading
from big_contrastive.parallel import dcn, topology

TOO_LARGE = [
  "Ran out of memory in memory space hbm. Used 32.19G of 15.75G hbm. Exceed",
  "temporaries (32.19G) exceeds available HBM (15.75G)",
]
# Recipes of full vocabularies, small else, and rows of their embeddings.
SMALL = "variant=mu/16,res=32"
VOCABULARIES = {
  "siglip": (SMALL, 32_000, "c4_en.model"),
  "clip": (SMALL, 49_408, "bpe_simple_vocab_16e6.txt.gz"),
  "lit": (SMALL, 30_522, "vocab.txt"),
  "flip": (SMALL, 30_522, "vocab.txt"),
}


def small(*flags, **mesh):
  config = tiny.load("siglip", "smoke", *flags)
  config["mesh"] = mesh
  return config


def recipe(name, argument, *flags):
  """A recipe on a machine that has nothing, compiled by nobody."""
  config = tiny.load(name, argument, *flags)
  if name == "clip":
    config["model"]["text"] |= {"width": 32, "heads": 1, "mlp": 32, "depth": 1}
  shapes = reading.Shapes(config)
  one = jax.devices()[:1]
  made = experiment.build(reading.without_epochs(config), one, shapes)
  return made, shapes.notes


def test_the_state_is_the_parameters_and_two_moments():
  one = jax.devices()[:1]
  made = experiment.build(small(), one)
  shapes = rules.flatten(made.placed.abstract.params)
  count = sum(int(np.prod(x.shape)) for x in shapes.values())
  lines = plan.plan(small(), one)
  assert any(line.split() == ["parameters", f"{count:,}"] for line in lines)
  # AdamW: the parameters, twice their moments, and a few counters.
  held = plan._state_bytes(made.placed)
  assert 12 * count <= held <= 12 * count + 64
  assert f"state       {held / 1024:.2f} KiB a device" in lines
  assert sum(line.startswith("evaluation ") for line in lines) == 2
  # Nothing was assumed: bytes have no file.
  assert not any(line.startswith("assumed") for line in lines)


def test_without_an_evaluation_none_is_planned():
  lines = plan.plan(small() | {"evals": {}}, jax.devices()[:1])
  assert not any(line.startswith("evaluation ") for line in lines)


def test_weights_that_are_split_take_less_of_a_device():
  whole = experiment.build(small(fsdp=1)).placed
  split = experiment.build(small(fsdp=8)).placed
  assert whole.mesh.size == split.mesh.size == 8
  assert plan._state_bytes(split) < plan._state_bytes(whole) / 6


def test_the_compiled_step_is_the_one_that_trains():
  """Its arguments are the state and the batch, byte by byte."""
  made = experiment.build(small(), jax.devices()[:1])
  batch = next(made.training.batches(0, 1))
  size = sum(x.nbytes for x in batch.values())
  memory = plan.compile_step(made).memory_analysis()
  held = plan._state_bytes(made.placed) + size
  assert memory.argument_size_in_bytes == held


@pytest.mark.parametrize("devices", [1, 8])
def test_an_evaluation_is_planned_beside_all_that_training_keeps(devices):
  """On each device: its share of the state, and of a micro-batch."""
  config = small("--config.micro_batch=8", fsdp=devices)
  made = experiment.build(config, jax.devices()[:devices])
  state = plan._state_bytes(made.placed) - 4  # But for the number of the step.
  of = {"images": 32 * 32 * 3 + 2 * 4, "texts": 32 * 4}
  for name, compiled in plan.compile_evaluation(made).items():
    held = compiled.memory_analysis().argument_size_in_bytes
    assert held == state + 8 // devices * of[name]


def test_naflex_evaluations_are_planned():
  flags = [
    "--config.model.image.max_patches=16",
    "--config.train_image=[('naflex', {'patch': 8, 'most': 16})]",
    "--config.eval_image=[('naflex', {'patch': 8, 'most': 16})]",
  ]
  made = experiment.build(small(*flags), jax.devices()[:1])
  state, example = made.placed.abstract, plan._example(made)
  assert len(made.embedder.lower(state.params, state.opt, example)) == 2


def test_the_peak_has_arguments_results_and_what_is_between():
  x = jax.ShapeDtypeStruct((1024, 1024), np.float32)  # 4 MiB.
  compiled = jax.jit(lambda x: x @ x @ x).lower(x).compile()
  assert plan._peak(compiled, "cpu") == "12.00 MiB"


@pytest.mark.parametrize(
  ("size", "said"),
  [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (55_266, "53.97 KiB"),
    (2**20 - 1, "1.00 MiB"), (3 * 2**19, "1.50 MiB"), (2**30, "1.00 GiB"),
    (5 * 2**38, "1.25 TiB"), (2**53, "8192.00 TiB"),
  ],
)  # fmt: skip
def test_sizes_are_said_in_a_unit_that_a_person_can_read(size, said):
  assert plan.readable(size) == said


@pytest.mark.parametrize("said", TOO_LARGE)
@pytest.mark.parametrize(
  ("what", "field"),
  [("a step", "batch_size"), ("evaluation of images", "micro_batch")],
)
def test_what_does_not_fit_is_said_in_one_line(said, what, field):
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(said)

  with pytest.raises(errors.UserError) as e:
    plan._compiled(Lowered(), what, 4096)
  for part in (f"config.{field} = 4096", what, "32.19G", "15.75G", "remat"):
    assert part in str(e.value)
  assert plan._too_large(RuntimeError("INTERNAL: else"), what, 1) is None


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_recipe_is_planned_where_nothing_of_it_is(
  name, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(tfds, "source", _opened(tfds.source))
  argument, size, file = VOCABULARIES[name]
  made, notes = recipe(name, argument)
  shape = made.placed.abstract.params["txt"]["embed"]["embedding"].shape
  assert shape[0] == size
  assert f"a vocabulary of {size:,}: {file} is not here" in notes
  missing = "weights of config.model's shapes: config.init.img = '' is not here"
  assert (missing in notes) == (name == "lit")


def _opened(source):
  """A source of the same arguments that must not be called."""

  def never(*args, **kwargs):
    raise AssertionError("the data set was opened")

  never.__signature__ = importlib.import_module("inspect").signature(source)
  never.__annotations__ = source.__annotations__
  return never


def test_a_vocabulary_that_is_here_is_used(tmp_path):
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
  (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
  made, notes = recipe("flip", f"{SMALL},vocab={tmp_path}/vocab.txt")
  shape = made.placed.abstract.params["txt"]["embed"]["embedding"].shape
  assert shape[0] == len(words) and not notes


@pytest.mark.parametrize(
  ("field", "size"), [("tokenizer", 250_100), ("model.text", 256_000)]
)
def test_a_vocabulary_whose_size_is_stated_is_planned(field, size):
  flags = [f"--config.{field}.vocab_size={size}"]
  made, notes = recipe("siglip", f"{SMALL},vocab=mc4.model", *flags)
  shape = made.placed.abstract.params["txt"]["embed"]["embedding"].shape
  assert shape[0] == size
  assert notes == [f"a vocabulary of {size:,}: mc4.model is not here"]


@pytest.mark.parametrize(
  "tokenizer",
  [
    {"kind": "sentencepiece", "path": "mc4.model", "length": 16},
    {"kind": "json", "path": "tokenizer.json", "length": 16},
    {"kind": "bpe", "path": "bpe.json", "length": 16},
    {"kind": "bert", "path": "vocab.txt", "length": 16, "lower": False},
  ],
)
def test_a_vocabulary_that_nobody_knows_is_one_line(tokenizer):
  flags = [f"--config.tokenizer={tokenizer}"]
  with pytest.raises(errors.UserError, match="config.tokenizer.path") as e:
    recipe("siglip", SMALL, *flags)
  assert tokenizer["path"] in str(e.value) and "vocab_size" in str(e.value)


def test_a_bpe_is_planned_with_all_that_it_may_have(tmp_path):
  made, notes = recipe("own_data", f"images={tmp_path},captions=no.tsv")
  shape = made.placed.abstract.params["txt"]["embed"]["embedding"].shape
  assert shape[0] == 4096
  (note,) = notes
  assert "4,096" in note and "no.tsv" in note and "\n" not in note


def test_epochs_need_no_data_set():
  flags = [
    "--config.total=3 epochs", "--config.schedule.warmup=1 epoch",
    "--config.eval_every=1 epoch", "--config.save_every=2%",
  ]  # fmt: skip
  made, _ = recipe("siglip", SMALL, *flags)
  assert made.intervals.total > made.intervals.save_every > 1


@pytest.mark.parametrize(
  ("path", "value", "said"),
  [
    ("init", "", "config.init = ''"),
    ("source.dataste", "x", "config.source.dataste"),
    ("source.name", "tfdss", "config.source.name"),
    ("source.filter", {"min_sid": 3}, "config.source.filter.min_sid"),
    ("evals", {"a": {"task": "retrieval", "k": 1}}, "config.evals.a"),
    ("tokenizer.kind", "sentencepeice", "config.tokenizer.kind"),
    ("tokenizer.lenght", 3, "config.tokenizer.lenght"),
    ("total", "3 epocs", "config.total"),
  ],
)
def test_what_is_wrong_is_found_without_files(path, value, said):
  config = tiny.load("siglip", SMALL)
  config = mutate.changed(config, tuple(path.split(".")), value)
  with pytest.raises(errors.UserError, match=re.escape(said)):
    plan.plan(config, jax.devices()[:1])


def test_a_slice_that_nobody_knows_is_an_error():
  with pytest.raises(errors.UserError, match="--topology = 'v5x:4x4'"):
    topology.devices("v5x:4x4")


libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="no libtpu"
)


@libtpu
def test_a_pod_is_planned_without_one():
  devices = topology.devices("v5e:4x4")
  lines = plan.plan(small() | {"batch_size": 64}, devices)
  assert "16 x TPU v5 lite" in lines[0]
  assert all("it fits" in line for line in lines[4:7])
  assert not any(line.startswith("DCN") for line in lines)


@pytest.mark.slow
@libtpu
def test_each_chunk_of_the_ring_leaves_a_slice_once():
  """By libtpu's own words: a border a slice, n chunks and their sums.

  Gradients leave it once, after the last of four micro-batches.
  """
  devices = topology.devices("v5e:2x2", 2)
  config = small("--config.micro_batch=16") | {"batch_size": 64, "evals": {}}
  made = experiment.build(config, devices)
  moved = dcn.transfers(plan.compile_step(made).as_text())
  ring = [t for t in moved if t.name.startswith("ppermute")]
  assert {len(t.pairs) for t in ring} == {2}
  n, b, d = 8, 8, 32
  # Embeddings, ids and sums at each hop; the sums once more, home.
  sent = n * (4 * b * d + 4 * b + 4 * b * d) + 4 * b * d
  assert sum(t.bytes * t.times for t in ring) == sent
  count = sum(x.size for x in jax.tree.leaves(made.placed.abstract.params))
  reduced = [t for t in moved if t.kind == "ALL_REDUCE"]
  assert sum(t.bytes for t in reduced) >= 4 * count
  assert {t.times for t in reduced} == {1}
