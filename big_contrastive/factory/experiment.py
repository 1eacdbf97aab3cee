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
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models.build import build_model
from big_contrastive.models.model import Model
from big_contrastive.objectives import Setting
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import health, step
from big_contrastive.training.experiment import Experiment, Intervals


def build(
  config: Any,
  devices: Sequence[jax.Device] | None = None,
  reading: Reading | None = None,
) -> Experiment:
  """Returns the experiment that a config describes.

  Args:
    config: a ConfigDict or dict; its fields are in config/fields.py. Where
      init is a path, model says only what is to differ from the model there,
      and tokenizer may be {"kind": "init"}.
    devices: of the mesh; all that there are if None.
    reading: what reads the files that the config names.

  Raises:
    UserError: for the first thing that is wrong with it.
  """
  config = schema.plain(config)
  fields: dict[str, Any] = dict(config)
  given = {"devices": devices, "reading": reading or Reading(), "start": None}
  path = config.get("init")
  if isinstance(path, str):
    given["start"] = start = warm_start.read(path)
    changes = schema.section(config.get("model", {}), "config.model")
    config["model"] = warm_start.model_with(start, path, changes)
    fields["model"] = config["model"]
    section = config.get("tokenizer", {"kind": "init"})
    if section is not None and start.has_text:
      section = schema.section(section, "config.tokenizer")
      if section.get("kind") == "init":
        section = warm_start.tokenizer_with(start, path, section)
        given["blob"] = start.blob
    fields["tokenizer"] = section
  built = schema.call(_build, fields, "config", {"blob": None} | given)
  return dataclasses.replace(built, config=config)


def _build(
  *,
  total: Duration,
  batch_size: int,
  micro_batch: int | dict | None = None,
  source: dict | str,
  train_image: list,
  eval_image: list,
  tokenizer: dict | None = None,
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
  init: dict | str | None = None,
  ema: float | None = None,
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
  start: ModelBundle | None,
  blob: bytes | None,
) -> Experiment:
  """The fields of a config, see config/fields.py.

  But for the last four, which `build` gives: the model to begin with, and the
  content of the tokenizer's vocabulary, where config.init says them.
  """
  chosen = {"devices": devices}
  over = schema.call(sharding.make_mesh, mesh or {}, "config.mesh", chosen)
  sharding.check_batch(batch_size, over, "config.batch_size")
  data = reading.source(source, "config.source")
  unit = {"batch_size": batch_size, "epoch": len(data)}
  unit["total"] = durations.steps(total, "config.total", **unit)
  if not unit["total"]:
    raise errors.UserError("config.total", total, "a step or more", "Raise it.")
  text = None
  if tokenizer is not None and model.get("text") is not None:
    text = reading.tokenizer(tokenizer, data, blob)
  built = build_model(model, text, sharding.pin(over))
  setting = Setting(built, over, batch_size, micro_batch)
  method = parts.objective(objective, setting, ema)
  shapes = jax.eval_shape(method.init, jax.random.key(0))
  names = list(rules.flatten(shapes))
  frozen = rules.match(freeze, names, "config.freeze")
  trained = frozenset(k for k in names if not frozen[k])
  if not trained:
    remedy = "Leave a parameter to train."
    raise errors.UserError("config.freeze", freeze, "not everything", remedy)
  method = method.freeze(frozenset(names) - trained)
  factors = {"decay": decay, "lr_mult": lr_mult}
  rate, tx = parts.optimizer(optimizer, schedule, factors, names, unit)
  recipe = step.Step(method, tx, rate, trained, seed, skip_nonfinite)
  placed = step.place(recipe, over, shard)
  at_once = batch_size // max(method.micro_batches)  # Of an evaluation, too.
  train_ops = _ops(train_image, "train_image", built.abstract)
  eval_ops = _ops(eval_image, "eval_image", built.abstract)
  for place, own in source_operations(data, "config.source"):
    _check_size(own, place, built.abstract)
  training = schema.call(
    training_loader.Training,
    schema.section(loading or {}, "config.loading"),
    "config.loading",
    {
      "examples": examples.Examples(data, train_ops, text),
      "batch_size": batch_size,
      "rows": sharding.local_rows(batch_size, over),
      "seed": seed,
      "gather": sharding.sum_over_processes,
    },
  )
  return Experiment(
    config={},
    placed=placed,
    objective=method,
    load=reading.weights(start or init or {}, placed.abstract.params, model),
    training=training,
    embedder=embedder.Embedder(
      built.graph, over, text, eval_ops, at_once, training.threads
    ),
    evaluators=_evaluators(evals or {}, reading),
    tokenizer=text,
    intervals=_intervals(
      unit,
      keep,
      save_minutes,
      log_every=log_every,
      eval_every=eval_every,
      save_every=save_every,
      keep_every=keep_every,
    ),
    limits=health.Limits(method, parts.warmup(schedule, unit), skip_nonfinite),
    batch_size=batch_size,
    flops=method.flops(),
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


def _ops(ops: list, name: str, abstract: Model) -> Callable:
  """Parsed preprocessing, whose size is what the image tower takes."""
  where = f"config.{name}"
  parsed = operations.parse(ops, where, train=name == "train_image")
  _check_size(parsed, where, abstract)
  return parsed


def _check_size(ops: operations.Pipeline, where: str, abstract: Model) -> None:
  tower = abstract.img
  if tuple(ops.size) != tower.takes:
    allowed = f"images of {tower.res} x {tower.res}, as config.model.image asks"
    remedy = "Change the last resize or crop."
    if tower.max_patches is not None:
      how = {"patch": tower.patch, "most": tower.max_patches}
      allowed = f'("naflex", {how}) at the end'
      remedy = "config.model.image has max_patches."
    raise errors.UserError(where, ops.size, allowed, remedy)
