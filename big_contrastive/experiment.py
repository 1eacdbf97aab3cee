"""Turns a config, once, into the objects of an experiment; checks all of it.

Everything a user can get wrong is found here, before the first compilation
and before anything is written.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from big_contrastive import (
  assemble,
  durations,
  embedding,
  errors,
  pretrained,
  resolve,
  sharding,
  step,
  tree,
)
from big_contrastive.data import image, pipeline, text
from big_contrastive.durations import Duration
from big_contrastive.models import two_tower


@dataclasses.dataclass(frozen=True)
class Intervals:
  """When the loop does what, in steps; 0 for only at the end."""

  total: int
  log_every: int
  eval_every: int
  save_every: int
  keep: int
  keep_every: int


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What `loop.fit` runs.

  Args:
    config: as it was given, but plain and JSON-serialisable.
    placed: the compiled step and where its state lies.
    load: state -> state with the pretrained weights of config.init.
    training: batches.
    embedder: towers for the evaluators.
    evaluators: run functions by name.
    tokenizer: of the text tower.
    intervals: when to log, evaluate, save and stop.
    batch_size: pairs a step.
    flops: model FLOPs of training on one pair.
    table: one line a parameter.
  """

  config: dict[str, Any]
  placed: step.Placed
  load: Callable[[step.State], step.State]
  training: pipeline.Training
  embedder: embedding.Embedder
  evaluators: dict[str, assemble.Evaluator]
  tokenizer: text.Tokenizer
  intervals: Intervals
  batch_size: int
  flops: float
  table: str

  def meta(self, done: int) -> dict[str, Any]:
    """Returns what a checkpoint holds besides arrays, as JSON.

    Args:
      done: steps.
    """
    examples = done * self.batch_size
    return {
      "config": self.config,
      "tokenizer": self.tokenizer.spec,
      "position": {"examples": examples, "bad": self.training.bad},
    }


def build(config: Any) -> Experiment:
  """Returns the experiment that a config describes.

  Args:
    config: a ConfigDict or dict; its fields are `_build`'s arguments.

  Raises:
    UserError: for the first thing that is wrong with it.
  """
  config = plain(config)
  built = resolve.call(_build, config, "config")
  return dataclasses.replace(built, config=config)


def plain(config: Any) -> Any:
  """Returns a config as dicts, lists and scalars, as JSON would."""
  if hasattr(config, "items"):
    return {str(k): plain(v) for k, v in config.items()}
  if isinstance(config, list | tuple):
    return [plain(v) for v in config]
  return config


def _build(
  *,
  total: Duration,
  batch_size: int,
  source: dict,
  train_image: list,
  eval_image: list,
  tokenizer: dict,
  model: dict,
  objective: dict,
  optimizer: dict,
  schedule: dict,
  seed: int = 0,
  loading: dict | None = None,
  freeze: list | tuple = ((".*", False),),
  lr_mult: list | tuple = ((".*", 1.0),),
  decay: list | tuple = ((".*/(kernel|embedding)", 1.0), (".*", 0.0)),
  shard: list | tuple = sharding.EVERYTHING,
  mesh: dict | None = None,
  init: dict | None = None,
  log_every: Duration = 50,
  eval_every: Duration = 0,
  save_every: Duration = 1000,
  keep: int = 1,
  keep_every: Duration = 0,
  evals: dict | None = None,
) -> Experiment:
  """The fields of a config; what each holds is said where it is used."""
  devices = resolve.call(sharding.make_mesh, mesh or {}, "config.mesh")
  sharding.check_batch(batch_size, devices, "config.batch_size")
  data = assemble.source(source, "config.source")
  unit = {"batch_size": batch_size, "epoch": len(data)}
  unit["total"] = durations.steps(total, "config.total", **unit)
  if not unit["total"]:
    raise errors.UserError("config.total", total, "a step or more", "Raise it.")
  words = assemble.tokenizer(tokenizer, data)
  make, abstract = assemble.model(model, words, sharding.pin(devices))
  graph, shapes = two_tower.split(abstract)
  names = list(tree.flatten(shapes))
  frozen = tree.match(freeze, names, "config.freeze")
  trained = frozenset(k for k in names if not frozen[k])
  if not trained:
    remedy = "Leave a parameter to train."
    raise errors.UserError("config.freeze", freeze, "not everything", remedy)
  rules = {"decay": decay, "lr_mult": lr_mult}
  rate, tx = assemble.optimizer(optimizer, schedule, rules, names, unit)
  goal = assemble.objective(objective, abstract, devices, frozen)
  recipe = step.Step(lambda k: split(make(k)), goal, tx, rate, trained, seed)
  placed = step.place(recipe, devices, shard)
  train_ops = _ops(train_image, "train_image", abstract)
  eval_ops = _ops(eval_image, "eval_image", abstract)
  training = resolve.call(
    pipeline.Training,
    {
      "examples": pipeline.Examples(data, train_ops, words),
      "batch_size": batch_size,
      "rows": sharding.local_rows(batch_size, devices),
      "seed": seed,
      **(loading or {}),
    },
    "config.loading",
  )
  return Experiment(
    config={},
    placed=placed,
    load=pretrained.loader(init or {}, placed.abstract.params),
    training=training,
    embedder=embedding.Embedder(
      graph, devices, words, eval_ops, batch_size, training.threads
    ),
    evaluators={
      f"{kwargs.get('task')}/{name}": assemble.evaluator(
        kwargs, f"config.evals.{name}"
      )
      for name, kwargs in (evals or {}).items()
    },
    tokenizer=words,
    intervals=_intervals(
      unit,
      keep,
      log_every=log_every,
      eval_every=eval_every,
      save_every=save_every,
      keep_every=keep_every,
    ),
    batch_size=batch_size,
    flops=abstract.flops(goal.frozen),
    table=tree.table(shapes, {"frozen": frozen}),
  )


def split(model: two_tower.TwoTower) -> dict[str, Any]:
  """Returns a model's parameters."""
  return two_tower.split(model)[1]


def _intervals(unit: dict[str, int], keep: int, **every: Duration) -> Intervals:
  in_steps = {
    name: durations.steps(value, f"config.{name}", **unit)
    for name, value in every.items()
  }
  if keep < 1:
    raise errors.UserError("config.keep", keep, ">= 1", "Keep the newest.")
  return Intervals(total=unit["total"], keep=keep, **in_steps)


def _ops(ops: list, name: str, abstract: two_tower.TwoTower) -> Callable:
  """Parsed preprocessing, whose size is what the image tower takes."""
  where = f"config.{name}"
  parsed = image.parse(ops, where, train=name == "train_image")
  res = abstract.img.res
  if tuple(parsed.size) != (res, res):
    allowed = f"images of {res} x {res}, as config.model.image.res asks"
    remedy = "Change the last resize or crop."
    raise errors.UserError(where, parsed.size, allowed, remedy)
  return parsed
