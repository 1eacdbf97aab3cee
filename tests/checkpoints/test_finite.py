"""What is not finite is named, ends with exit code 3, and never is right."""

import dataclasses
import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import PIL.Image
import pytest
import test_convert
from test_evals import Source

from big_contrastive import embed, evaluate
from big_contrastive.config import errors, finite, registry, rules
from big_contrastive.evals import gallery, retrieval
from big_contrastive.factory import cli, evaluators, warm_start
from big_contrastive.interop import model_files
from big_contrastive.training import hooks

BAD = [math.nan, math.inf, -math.inf]


def bad_numbers(match):
  """The error of exit code 3: one line that says so."""

  def one_line(e):
    return e.code == errors.BAD_NUMBERS == 3 and "\n" not in str(e)

  return pytest.RaisesExc(errors.RunError, match=match, check=one_line)


def poisoned(name, value):
  """A model in which one value of a parameter is not finite."""
  model = test_convert.model()
  flat = {k: np.array(v) for k, v in rules.flatten(model.params).items()}
  flat[name].flat[-1] = value
  return dataclasses.replace(model, params=rules.unflatten(flat))


def a_kernel():
  flat = rules.flatten(test_convert.model().params)
  return next(k for k in flat if k.startswith("img/") and "kernel" in k)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
  "dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
)
@pytest.mark.parametrize("put", [np.asarray, jnp.asarray])
def test_a_value_of_any_dtype_is_named_where_it_is(value, dtype, put):
  x = np.ones((3, 4), dtype)
  x[1, 2] = value
  sound = {"a": np.ones(5, dtype), "n": np.arange(3)}
  finite.arrays(sound, "weights", "")
  with bad_numbers("weights: not finite: img/w.* Mend it."):
    finite.arrays(sound | {"img": {"w": put(x)}}, "weights", "Mend it.")


def test_what_float32_can_not_hold_is_not_finite():
  finite.arrays({"a": np.array([3e38, -1e-300])}, "x", "")
  with bad_numbers("not finite: a"):
    finite.arrays({"a": np.array([1.0, 1e39])}, "x", "")


def test_values_are_counted_and_only_some_names_are_listed():
  tree = {f"{i}": np.array([math.nan, 1, math.inf]) for i in range(6)}
  said = r"not finite: 0 \(2 of 3 values\), 1 .*, 3 \(.*\) and 2 more\."
  with bad_numbers(said):
    finite.arrays(tree, "x", "")


@pytest.mark.parametrize("t", [89.0, 1000.0])
def test_a_temperature_whose_exponential_overflows_is_not_finite(t):
  finite.arrays({"t": np.float32(88)}, "x", "")
  with bad_numbers(r"exp\(t\), t = "):
    finite.arrays({"t": np.float32(t)}, "x", "")


FILES = {"ours": "checkpoint", "hf": "hugging_face", "a.npz": "big_vision"}


@pytest.fixture(scope="module")
def with_nan(tmp_path_factory):
  """Files of each format with one NaN, and the parameter that has it."""
  folder = tmp_path_factory.mktemp("nan")
  name = a_kernel()
  for path, format in FILES.items():
    model_files.write(poisoned(name, math.nan), folder / path, format)
  return folder, name


@pytest.mark.parametrize("file", FILES)
def test_weights_with_a_nan_are_refused_by_all_that_reads_a_model(
  file, with_nan
):
  folder, name = with_nan
  path = str(folder / file)
  with bad_numbers(f"parameters of {path}: not finite: {name} .1 of "):
    model_files.read(path)
  with bad_numbers(f"parameters of {path}: not finite: {name}"):
    warm_start.read(path)
  model = test_convert.model()
  with bad_numbers(f"{path}.?: not finite: {name}"):
    warm_start.loader({"img": path}, model.params, model.model)


def ended(monkeypatch, capsys, main, *flags):
  """Exit code, standard output and standard error of a command."""
  monkeypatch.setattr("sys.argv", ["x", *map(str, flags)])
  code = 0
  try:
    cli.main(main)
  except SystemExit as e:
    code = e.code
  return code, *capsys.readouterr()


DATA = "shapes:split=heldout,train_size=512,size=32"


def test_evaluate_and_embed_end_with_3_and_write_nothing(
  with_nan, monkeypatch, capsys, tmp_path
):
  path = with_nan[0] / "ours"
  flags = "--checkpoint", path, "--data", DATA
  for main, more in (
    (evaluate.run, ("--task", "retrieval")),
    (embed.run, ("--out", tmp_path / "out")),
  ):
    code, out, err = ended(monkeypatch, capsys, main, *flags, *more)
    assert code == 3 and not out and "not finite: " in err
    assert len(err.strip().splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_figures_are_printed_as_strict_json(small, monkeypatch, capsys):
  flags = "--checkpoint", small, "--data", DATA, "--task", "zero_shot"
  code, out, _ = ended(monkeypatch, capsys, evaluate.run, *flags)
  figures = json.loads(out, parse_constant=pytest.fail)
  names = "top1", "top5", "mean_per_class_recall", "chance", "chance_top5"
  assert code == 0 and figures.keys() == {f"zero_shot/{n}" for n in names}


def changed(loaded, name, change):
  flat = rules.flatten(loaded.params)
  return dataclasses.replace(
    loaded, params=rules.unflatten(flat | {name: change(flat[name])})
  )


def test_texts_and_pictures_without_a_unit_vector_are_named(loaded):
  """Only the texts that have the token; a tower of zeros says nothing."""
  cat, dog = (loaded.embedder.tokenizer(t) for t in ("a red cat", "a dog"))
  token = next(int(i) for i in cat if i not in dog)
  key = "txt/embed/embedding"
  bad = changed(loaded, key, lambda x: x.at[token].set(jnp.nan))
  assert bad.encode_text(["a dog"]).shape == (1, 24)
  with bad_numbers("1 of 2 texts are not finite.*'a red cat'"):
    bad.encode_text(["a dog", "a red cat"])
  zero = dataclasses.replace(
    loaded, params=jax.tree.map(jnp.zeros_like, loaded.params)
  )
  pictures = [np.zeros((8, 8, 3), np.uint8)] * 2
  with bad_numbers(r"2 of 2 images are of length 0, .*images.0., images.1."):
    zero.encode_image(pictures)
  with bad_numbers("1 of 1 texts are of length 0"):
    zero.logits(pictures[:0], "a dog")


def test_records_are_named_by_their_place_in_all_of_them():
  z = np.eye(4, dtype=np.float32)
  finite.unit(z, "images", str)
  z[2] = math.nan
  with bad_numbers("1 of 4 images are not finite, .*: 66\\."):
    finite.unit(z, "images", str, first=64)


def later(monkeypatch, results):
  """An evaluator that is put into evals/ later."""
  module = types.ModuleType("later")
  module.prepare = lambda source: lambda embed: results
  known = registry.names
  monkeypatch.setitem(sys.modules, "big_contrastive.evals.later", module)
  monkeypatch.setattr(registry, "names", lambda kind: [*known(kind), "later"])
  config = {"task": "later", "source": DATA}
  return evaluators.evaluator(config, "config.evals.x")


@pytest.mark.parametrize("value", [*BAD, np.float32(np.nan), jnp.array(np.inf)])
def test_a_later_evaluators_figures_are_looked_at(value, monkeypatch):
  evaluator = later(monkeypatch, [("fine", np.float32(0.5)), ("worse", value)])
  with bad_numbers("later/worse is -?(nan|inf)"):
    dict(evaluator(None))


def test_figures_are_floats_and_each_name_comes_once(monkeypatch):
  sheet = PIL.Image.new("RGB", (1, 1))
  given = [("a", 1), ("b", np.array(0.5)), ("c", jnp.array(2)), ("d", sheet)]
  found = dict(later(monkeypatch, given)(None))
  assert found == {"a": 1.0, "b": 0.5, "c": 2.0, "d": sheet}
  assert all(type(found[k]) is float for k in "abc")
  for wrong in ([("a", 1), ("a", 2)], [("a", [1, 2])], [("a", None)]):
    with pytest.raises(errors.UserError, match="later/a"):
      dict(later(monkeypatch, wrong)(None))


def test_an_evaluation_over_nothing_is_an_error(monkeypatch):
  monkeypatch.setattr(evaluators, "build_source", lambda *args: Source([], []))
  with pytest.raises(errors.UserError, match="x.source = '0 records'"):
    evaluators.evaluator({"task": "retrieval", "source": "x"}, "config.evals.x")
  source = Source([[], []], [0, 1])
  with pytest.raises(errors.UserError, match="captions .* = 'none'"):
    retrieval.distinct(source, np.arange(2))
  for wrong in ({"rows": 0}, {"columns": -1}):
    with pytest.raises(errors.UserError, match="from 1 up"):
      gallery.prepare(source, **wrong)


def watching(embedder, evaluators):
  """A run that evaluates, and what it tells."""
  told = []
  watched = object.__new__(hooks.Run)
  watched.settle = lambda: None
  watched.watch = types.SimpleNamespace(
    record=lambda done, values: told.append(values)
  )
  watched.say = lambda line: None
  watched.requests = types.SimpleNamespace(stop=lambda: False)
  watched.experiment = types.SimpleNamespace(
    embedder=embedder, evaluators=evaluators,
    weights=lambda state: state and state.params,
  )  # fmt: skip
  return watched, told


def test_a_bad_figure_in_training_says_the_step_and_is_not_written(
  monkeypatch, loaded
):
  """Nor is any other of that evaluator; those before it stand."""
  evaluators = {
    "first": later(monkeypatch, [("a", 0.25)]),
    "second": later(monkeypatch, [("b", 0.5), ("c", math.nan)]),
  }
  watched, told = watching(loaded.embedder, evaluators)
  with bad_numbers("step 7, evaluation second: .*c is nan.*Checkpoints of st"):
    watched.evaluate(7, types.SimpleNamespace(params=loaded.params))
  assert told == [{"eval/first/a": 0.25}]


def test_embeddings_that_overflow_in_training_end_it(loaded):
  """Though all parameters are finite."""
  params = jax.tree.map(lambda x: x * 1e30, loaded.params)
  finite.arrays(jax.tree.map(np.asarray, params["img"]), "x", "")
  record = {"image": np.full((8, 8, 3), 9, np.uint8), "id": 0, "text": "a"}
  evaluators = {"x": lambda embed: [("n", len(embed.images([record]).zimg))]}
  watched, told = watching(loaded.embedder, evaluators)
  with bad_numbers("step 7, evaluation x: .* 1 of 1 images .*: record 0"):
    watched.evaluate(7, types.SimpleNamespace(params=params))
  assert not told
  sound = types.SimpleNamespace(params=loaded.params)
  watched.watch.speed = types.SimpleNamespace(restart=lambda: None)
  assert watched.evaluate(7, sound) and told == [{"eval/x/n": 1}]
