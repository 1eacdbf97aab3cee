"""Evaluates a model: one of our checkpoints, or another project's files.

  python -m big_contrastive.evaluate --checkpoint runs/demo \\
    --task zero_shot --data shapes:split=heldout --templates '["a {c}"]'

--data is SOURCE:VALUE,KEY=VALUE,...: a file of data/sources and its arguments,
such as wds:shards/{00..12}.tar, parquet:FOLDER, tfds:NAME, folder:PHOTOS.
Other flags are arguments of the task: see the files in big_contrastive/evals.
Some tasks have training data, which --train names as --data does:

  python -m big_contrastive.evaluate --checkpoint runs/demo --task knn \\
    --data folder:root=test_photos --train folder:root=train_photos

The metrics are printed as one JSON line. If a metric or an embedding is not
finite, nothing is printed and the exit code is 3.

Named evaluations are --suite, files of evals/suites, with --model, any number
of models, and --out, a folder for the table; see docs/evaluation.md. --data is
then the folder, or URL, that all of the suites' data sets are in.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax

from big_contrastive.config import errors, files
from big_contrastive.evals import Embed
from big_contrastive.factory import cli, evaluators, results, suites
from big_contrastive.inference.model import Model, load
from big_contrastive.inference.remembered import remembered
from big_contrastive.parallel import multihost

# Our tasks without metrics; refused before any work.
_PICTURES = ("gallery", "neighbors", "attention")

_FLAGS = "--"  # The section whose fields the flags are.


def run() -> None:
  """Parses the flags, evaluates the model and prints its metrics."""
  parser = cli.model_parser(__doc__, required=False)
  parser.add_argument("--task", help="a file of evals/")
  suite = parser.add_argument_group("named evaluations")
  suite.add_argument("--suite", help="files of evals/suites, with , between")
  suite.add_argument("--model", nargs="+", help=cli.FORMATS)
  suite.add_argument("--out", help="a folder for figures and tables")
  suite.add_argument(
    "--prompts", help="a folder with CLIP_benchmark's JSON files, for TFDS"
  )
  flags, rest = parser.parse_known_args()
  if flags.suite is None:
    _of_task(flags, rest)
  else:
    _of_suites(flags, rest)


def _of_task(flags: argparse.Namespace, rest: list[str]) -> None:
  cli.require(flags, checkpoint="a value", task="a value, or --suite")
  _refuse(flags, ("model", "out", "prompts"), "--task")
  arguments = _pairs(rest)
  for name in arguments.keys() & {"task", "source"}:
    listed = "an argument of the task"
    remedy = "Give --task and --data once."
    raise errors.UserError(f"--{name}", arguments[name], listed, remedy)
  if flags.task in _PICTURES:
    raise _no_metrics(flags.task)
  cli.start(flags.distributed)
  config = {"task": flags.task, "source": flags.data} | arguments
  with _flags():
    evaluator = evaluators.evaluator(config, _FLAGS)
  model = _load(flags, flags.checkpoint, "--checkpoint")
  with _flags():
    metrics = _figures(evaluator(model.embedder.bound(model.params)))
  if not metrics:
    raise _no_metrics(flags.task)
  if jax.process_index() == 0:
    named = {f"{flags.task}/{name}": x for name, x in metrics.items()}
    print(json.dumps(named, allow_nan=False))


def _load(flags: argparse.Namespace, path: str, where: str, **kwargs) -> Model:
  given = {"tokenizer": flags.tokenizer, "batch_size": flags.batch_size}
  return load(path, where=where, **given, **kwargs)


def _figures(found: Any) -> dict[str, float]:
  """An evaluator's figures; pictures are none."""
  return {name: value for name, value in found if isinstance(value, float)}


def _refuse(
  flags: argparse.Namespace, names: tuple[str, ...], mode: str
) -> None:
  for name in names:
    if (value := getattr(flags, name)) is not None:
      raise errors.UserError(
        f"--{name}", value, f"left out with {mode}", "See --help."
      )


def _of_suites(flags: argparse.Namespace, rest: list[str]) -> None:
  cli.require(flags, model="a model or more")
  _refuse(flags, ("checkpoint", "task"), "--suite")
  if rest:
    remedy = "A suite's sets have arguments of their own."
    raise errors.UserError("arguments", " ".join(rest), "none", remedy)
  if len({*flags.model}) < len(flags.model):
    remedy = "Leave one out."
    raise errors.UserError("--model", flags.model, "each once", remedy)
  cli.start(flags.distributed)
  first = jax.process_index() == 0
  kept = results.Results(flags.out, writes=first)
  found = suites.find(flags.suite, flags.data, flags.prompts)
  models = _Models(flags)
  # Each is loaded, and so checked, before hours are spent on the first.
  digests = {path: models.get(path).digests() for path in flags.model}
  table: list[results.Row] = []
  for path in flags.model:
    for _, some in itertools.groupby(found, lambda one: one.suite):
      table += _of_suite(models, path, digests[path], list(some), kept)
  if first:
    kept.write(table)
    print(results.as_markdown(table), end="")


class _Models:
  """The models of --model, one in memory at a time."""

  def __init__(self, flags: argparse.Namespace):
    self._flags, self._path, self._model = flags, "", None

  def get(self, path: str) -> Model:
    if self._model is None or path != self._path:
      self._model = None  # Its memory, before the next one's.
      self._model = _load(self._flags, path, "--model", texts=True)
      self._path = path
    return self._model


def _of_suite(
  models: _Models,
  path: str,
  digests: dict[str, str],
  found: list[suites.Found],
  kept: results.Results,
) -> list[results.Row]:
  """Evaluates a model on a suite's sets that it has no figures of yet."""
  rows: list[results.Row] = []
  embed: Embed | None = None
  for one in found:
    key, where = results.key(digests, one), f"{one.suite}/{one.name}"
    (done,) = multihost.of_first([int(kept.get(key) is not None)])
    if not done:
      if embed is None:
        model = models.get(path)
        bound = model.embedder.bound(model.params)
        embed = remembered(bound, images=one.same_images)
      figures = _figures(one.run(embed))
      kept.put(key, figures, {"model": path, "set": where, "data": one.data})
    if (figures := kept.get(key)) is not None:  # All processes but the first.
      rows += results.rows(path, one, figures)
    if jax.process_index() == 0:
      print(f"{path}: {where} {'was' if done else 'is'} done", file=sys.stderr)
  return rows + (results.means(rows) if found[0].mean else [])


@contextlib.contextmanager
def _flags() -> Iterator[None]:
  """Names the fields of the task in errors as flags; source is --data."""
  try:
    yield
  except errors.UserError as e:
    named = e.replaced(f"{_FLAGS}.source", "--data")
    raise named.replaced(f"{_FLAGS}.", "--") from e


def _no_metrics(task: str) -> errors.UserError:
  remedy = "Training draws its pictures: list it in config.evals."
  return errors.UserError("--task", task, "a task with metrics", remedy)


def _pairs(rest: list[str]) -> dict[str, Any]:
  """Arguments of the task from --key value or --key=value."""
  pieces = [p for r in rest for p in r.split("=", 1 if r[:2] == "--" else 0)]
  keys, values = pieces[::2], pieces[1::2]
  for key in keys:
    if keys.count(key) > 1:
      both = [v for k, v in zip(keys, values, strict=False) if k == key]
      raise errors.UserError(key, both, "one value", "Leave one out.")
  if len(keys) != len(values) or not all(k.startswith("--") for k in keys):
    remedy = "See --help."
    raise errors.UserError("arguments", " ".join(rest), "--KEY=VALUE", remedy)
  return {k[2:]: files.literal(v) for k, v in zip(keys, values, strict=True)}


if __name__ == "__main__":
  cli.main(run)
