"""Turns a config, once, into the objects of an experiment; checks all of it.

Everything a user can get wrong is found here, before the first compilation
and before anything is written.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from big_contrastive.config import durations, errors, rules, schema
from big_contrastive.config.durations import Duration
from big_contrastive.data.build import source_operations
from big_contrastive.data.loader import examples
from big_contrastive.data.loader import training as training_loader
from big_contrastive.data.transforms import operations
from big_contrastive.factory import evaluators, parts, warm_start
from big_contrastive.factory.reading import Reading
from big_contrastive.inference import embedder
from big_contrastive.models import two_tower
from big_contrastive.models.build import build_model
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import step
from big_contrastive.training.experiment import Experiment, Intervals


def build(
  config: Any,
  devices: Sequence[jax.Device] | None = None,
  reading: Reading | None = None,
) -> Experiment:
  """Returns the experiment that a config describes.

  Args:
    config: a ConfigDict or dict; its fields are `_build`'s arguments. Where
      init is a path, model says only what is to differ from the model there,
      and tokenizer may be {"kind": "init"}.
    devices: of the mesh; all that there are if None.
    reading: what reads the files that the config names.

  Raises:
    UserError: for the first thing that is wrong with it.
  """
  config = schema.plain(config)
  read: dict[str, Any] = {}
  given = {"devices": devices, "reading": reading or Reading(), "blob": None}
  if isinstance(config.get("init"), str):
    source = warm_start.whole(config["init"])
    changes = schema.section(config.get("model", {}), "config.model")
    config["model"] = source.model_with(changes)
    read["init"] = source
    words = config.get("tokenizer", {"kind": "init"})
    words = schema.section(words, "config.tokenizer")
    if words.get("kind") == "init":
      read["tokenizer"] = source.tokenizer_with(words)
      given["blob"] = source.blob
  built = schema.call(_build, config | read, "config", given)
  return dataclasses.replace(built, config=config)


def _build(
  *,
  total: Duration,
  batch_size: int,
  micro_batch: int | dict | None = None,
  source: dict | str,
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
  shard: list | tuple = placement.EVERYTHING,
  mesh: dict | None = None,
  init: dict | warm_start.Whole | None = None,
  log_every: Duration = 50,
  eval_every: Duration = 0,
  save_every: Duration = 1000,
  save_minutes: float = 30.0,
  keep: int = 2,
  keep_every: Duration = 0,
  skip_nonfinite: bool = False,
  evals: dict | None = None,
  devices: Sequence[jax.Device] | None,
  reading: Reading,
  blob: bytes | None,
) -> Experiment:
  """The fields of a config; what each holds is said where it is used.

  But for the last three, which `build` gives: a vocabulary's content is blob.
  """
  chosen = {"devices": devices}
  over = schema.call(sharding.make_mesh, mesh or {}, "config.mesh", chosen)
  sharding.check_batch(batch_size, over, "config.batch_size")
  data = reading.source(source, "config.source")
  unit = {"batch_size": batch_size, "epoch": len(data)}
  unit["total"] = durations.steps(total, "config.total", **unit)
  if not unit["total"]:
    raise errors.UserError("config.total", total, "a step or more", "Raise it.")
  words = reading.tokenizer(tokenizer, data, blob)
  make, abstract = build_model(model, words, sharding.pin(over))
  graph, shapes = two_tower.split(abstract)
  names = list(rules.flatten(shapes))
  frozen = rules.match(freeze, names, "config.freeze")
  trained = frozenset(k for k in names if not frozen[k])
  if not trained:
    remedy = "Leave a parameter to train."
    raise errors.UserError("config.freeze", freeze, "not everything", remedy)
  factors = {"decay": decay, "lr_mult": lr_mult}
  rate, tx = parts.optimizer(optimizer, schedule, factors, names, unit)
  micro_batches = sharding.micro_batches(micro_batch, batch_size, over)
  goal = parts.objective(objective, abstract, over, frozen, micro_batches)
  recipe = step.Step(
    lambda k: split(make(k)), goal, tx, rate, trained, seed, skip_nonfinite
  )
  placed = step.place(recipe, over, shard)
  at_once = batch_size // max(micro_batches)  # Of an evaluation, too.
  train_ops = _ops(train_image, "train_image", abstract)
  eval_ops = _ops(eval_image, "eval_image", abstract)
  for place, own in source_operations(data, "config.source"):
    _check_size(own, place, abstract)
  training = schema.call(
    training_loader.Training,
    schema.section(loading or {}, "config.loading"),
    "config.loading",
    {
      "examples": examples.Examples(data, train_ops, words),
      "batch_size": batch_size,
      "rows": sharding.local_rows(batch_size, over),
      "seed": seed,
      "gather": sharding.sum_over_processes,
    },
  )
  return Experiment(
    config={},
    placed=placed,
    load=reading.weights(init or {}, placed.abstract.params, model),
    training=training,
    embedder=embedder.Embedder(
      graph, over, words, eval_ops, at_once, training.threads
    ),
    evaluators=_evaluators(evals or {}, reading),
    tokenizer=words,
    intervals=_intervals(
      unit,
      keep,
      save_minutes,
      log_every=log_every,
      eval_every=eval_every,
      save_every=save_every,
      keep_every=keep_every,
    ),
    limits=parts.limits(objective, goal, schedule, unit, skip_nonfinite),
    batch_size=batch_size,
    flops=abstract.flops(goal.frozen),
    table=rules.table(shapes, {"frozen": frozen}),
  )


def _evaluators(
  evals: dict, reading: Reading
) -> dict[str, evaluators.Evaluator]:
  found = {}
  for name, kwargs in evals.items():
    where = f"config.evals.{name}"
    task = schema.section(kwargs, where).get("task")
    found[f"{task}/{name}"] = reading.evaluator(kwargs, where)
  return found


def split(model: two_tower.TwoTower) -> dict[str, Any]:
  """Returns a model's parameters."""
  return two_tower.split(model)[1]


def _intervals(
  unit: dict[str, int], keep: int, minutes: float, **every: Duration
) -> Intervals:
  in_steps = {
    name: durations.steps(value, f"config.{name}", **unit)
    for name, value in every.items()
  }
  if keep < 1:
    raise errors.UserError("config.keep", keep, ">= 1", "Keep the newest.")
  if not minutes >= 0:
    remedy = "0 is for never."
    raise errors.UserError("config.save_minutes", minutes, ">= 0", remedy)
  if not in_steps["log_every"]:
    remedy = "1 logs each step."
    raise errors.UserError("config.log_every", 0, "a step or more", remedy)
  return Intervals(
    total=unit["total"], keep=keep, save_minutes=minutes, **in_steps
  )


def _ops(ops: list, name: str, abstract: two_tower.TwoTower) -> Callable:
  """Parsed preprocessing, whose size is what the image tower takes."""
  where = f"config.{name}"
  parsed = operations.parse(ops, where, train=name == "train_image")
  _check_size(parsed, where, abstract)
  return parsed


def _check_size(
  ops: operations.Pipeline, where: str, abstract: two_tower.TwoTower
) -> None:
  tower = abstract.img
  if tuple(ops.size) != tower.takes:
    allowed = f"images of {tower.res} x {tower.res}, as config.model.image asks"
    remedy = "Change the last resize or crop."
    if tower.max_patches is not None:
      how = {"patch": tower.patch, "most": tower.max_patches}
      allowed = f'("naflex", {how}) at the end'
      remedy = "config.model.image has max_patches."
    raise errors.UserError(where, ops.size, allowed, remedy)
