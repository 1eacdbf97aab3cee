"""Builds the objects of an experiment from a config, and checks all of it.

Every mistake in a config is reported here, before the first compilation and
before anything is written.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from big_contrastive.config import durations, errors, rules, schema
from big_contrastive.config.fields import Config
from big_contrastive.data.build import source_operations
from big_contrastive.data.loader import examples
from big_contrastive.data.loader import training as training_loader
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.data.transforms import operations, views
from big_contrastive.factory import evaluators, inputs, parts, warm_start
from big_contrastive.factory.reading import Reading
from big_contrastive.inference import embedder
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models import lora
from big_contrastive.models.build import build_model
from big_contrastive.models.captioning import captioner
from big_contrastive.models.model import Model
from big_contrastive.objectives import Objective, Setting
from big_contrastive.parallel import multihost, sharding
from big_contrastive.training import health, layer_decay, step, trace
from big_contrastive.training.experiment import Experiment, Intervals
from big_contrastive.training.sinks import Sink


def build(
  config: Any,
  devices: Sequence[jax.Device] | None = None,
  reading: Reading | None = None,
) -> Experiment:
  """Returns the experiment that a config describes.

  Args:
    config: a ConfigDict or dict; its fields are in config/fields. If init is a
      path, model contains only what differs from the model there, and
      tokenizer may be {"kind": "init"}.
    devices: of the mesh; None for all devices.
    reading: reads the files that the config names.

  Raises:
    UserError: for the first mistake in the config.
  """
  config = schema.plain(config)
  fields: dict[str, Any] = dict(config)
  reading, start, blob = reading or Reading(), None, None
  path = config.get("init")
  if isinstance(path, str):
    start = warm_start.read(path)
    changes = schema.section(config.get("model", {}), "config.model")
    config["model"] = warm_start.model_with(start, path, changes)
    fields["model"] = config["model"]
    section = config.get("tokenizer", {"kind": "init"})
    if section is not None and start.needs_tokenizer:
      section = schema.section(section, "config.tokenizer")
      if section.get("kind") == "init":
        section = warm_start.tokenizer_with(start, path, section)
        blob = start.blob
    fields["tokenizer"] = section
  settings = schema.call(Config, fields, "config")
  settings.model = parts.with_bias(dict(settings.model), settings.batch_size)
  config["model"] = settings.model
  built = _build(settings, reading, devices, start, blob)
  return dataclasses.replace(built, config=config)


def _build(
  config: Config,
  reading: Reading,
  devices: Sequence[jax.Device] | None,
  start: ModelBundle | None,
  blob: bytes | None,
) -> Experiment:
  """Builds the experiment from checked settings.

  Args:
    config: see config/fields.
    reading, devices: see `build`.
    start: the model at config.init, if that is a path.
    blob: the content of its tokenizer's vocabulary, if that is used.
  """
  extra = {"devices": devices}
  mesh = schema.call(
    sharding.make_mesh, config.mesh or {}, "config.mesh", extra
  )
  size = config.batch_size
  sharding.check_batch(size, mesh, "config.batch_size")
  data = reading.source(config.source, "config.source")
  unit = {"batch_size": size, "epoch": len(data)}
  unit["total"] = durations.steps(config.total, "config.total", **unit)
  if not unit["total"]:
    remedy = "Raise it."
    raise errors.UserError(
      "config.total", config.total, "one step or more", remedy
    )
  sinks = _sinks(config.sinks, reading)
  window = _window(config.profile, unit["total"])
  tokenizer = None
  if config.tokenizer is not None and parts.reads_text(config.model):
    tokenizer = reading.tokenizer(config.tokenizer, data, blob)
  model = build_model(config.model, tokenizer, sharding.pin(mesh))
  if not multihost.all_have(str(model.fused)):
    remedy = 'Set it to "einsum": cuDNN works for some processes only.'
    allowed = "the same kernel for all processes"
    raise errors.UserError("config.model.attention", "auto", allowed, remedy)
  seen = views.parse(config.views, "config.views")
  setting = Setting(
    model, mesh, size, config.micro_batch, unit["total"],
    {name: seen[name].count for name in sorted(seen)}, tokenizer,
    {name: view.size for name, view in seen.items()}, len(data),
  )  # fmt: skip
  recipe, table = _recipe(config, setting, unit)
  placed, method = step.place(recipe, mesh, config.shard), recipe.objective
  training = _training(
    config, data, seen, method, model.abstract, tokenizer, mesh
  )
  eval_ops = _ops(config.eval_image, "eval_image", model.abstract)
  at_once = size // max(method.micro_batches)  # Also in evaluation.
  return Experiment(
    config={},
    placed=placed,
    objective=method,
    load=reading.weights(
      start or config.init or {},
      lora.bare(placed.abstract.variables),
      config.model,
      config.init,
      config.long_texts,
    ),
    training=training,
    embedder=embedder.Embedder(
      model.graph,
      mesh,
      tokenizer if model.abstract.embeds_text else None,
      eval_ops,
      at_once,
      training.threads,
      tokenizer if "classifier" in model.parts else None,
      tokenizer if captioner.decoder(model.abstract) is not None else None,
      model.abstract.matches,
    ),
    evaluators=_evaluators(config.evals or {}, reading),
    tokenizer=tokenizer,
    intervals=_intervals(config, unit),
    limits=health.Limits(
      method, parts.warmup(config.schedule, unit), config.skip_nonfinite
    ),
    sinks=sinks,
    window=window,
    batch_size=size,
    table=table,
  )


def _recipe(
  config: Config, setting: Setting, unit: dict[str, int]
) -> tuple[step.Step, str]:
  """The step, not yet placed, and a table of its parameters."""
  method = parts.objective(config.objective, setting, config.ema, config.lora)
  shapes = jax.eval_shape(method.init, jax.eval_shape(jax.random.key, 0))
  names, depths = list(rules.flatten(shapes)), rules.depths(shapes)
  frozen = rules.match(config.freeze, names, "config.freeze", depths)
  frozen |= dict.fromkeys(method.adapters, True)
  pieces = dict(rules.pieces(frozen))
  trained = frozenset(k for k, still in pieces.items() if not still)
  if not trained:
    expected = "rules that leave something to train"
    remedy = "Leave a parameter to train."
    raise errors.UserError("config.freeze", config.freeze, expected, remedy)
  factors = {"decay": config.decay, "lr_mult": config.lr_mult}
  factors |= {} if config.adapt is None else {"adapt": config.adapt}
  layers = layer_decay.factors(
    rules.match(config.layer_decay, names, "config.layer_decay"),
    depths, setting.model.abstract,
  )  # fmt: skip
  rate, tx = parts.optimizer(
    config.optimizer, config.schedule, factors, names, unit, config.schedules,
    start=config.start, trained=trained, depths=depths, layer_factors=layers,
  )  # fmt: skip
  method = method.freeze(frozenset(pieces) - trained)
  seed, skip = config.seed, config.skip_nonfinite
  recipe = step.Step(method, tx, rate, trained, seed, skip)
  return recipe, rules.table(shapes, {"frozen": _told(frozen)})


def _told(frozen: dict[str, Any]) -> dict[str, Any]:
  """Returns the frozen column: True, False, or of how many layers."""
  return {
    name: f"{sum(map(bool, value))} of {len(value)} layers"
    if isinstance(value, rules.PerLayer)
    else value
    for name, value in frozen.items()
  }


def _training(
  config: Config,
  data: Source,
  seen: dict[str, views.View],
  method: Objective,
  model: Model,
  tokenizer: Tokenizer | None,
  mesh: Mesh,
) -> training_loader.Training:
  own = dict(source_operations(data, "config.source"))
  inputs.check(config, seen, own, method.fields, tokenizer is not None)
  ops = None
  if config.train_image is not None:
    ops = _ops(config.train_image, "train_image", model)
  for name, view in seen.items():
    if name not in method.resized:
      where = f"config.views.{name}.ops"
      inputs.check_size(view.pipeline, where, model)
  for place, pipeline in own.items():
    inputs.check_size(pipeline, place, model)
  where = "config.loading"
  fields = schema.section(config.loading or {}, where)
  reads = {
    first: {*method.fields} - (seen.keys() - {*method.at(first).reads})
    for first in (0, *method.switches)
  }
  extra = {
    "examples": examples.Examples(
      data, ops, tokenizer, seen, reads.pop(0), reads
    ),
    "batch_size": config.batch_size,
    "rows": sharding.local_rows(config.batch_size, mesh),
    "seed": config.seed,
    "gather": sharding.sum_over_processes,
  }
  return schema.call(training_loader.Training, fields, where, extra)


def _evaluators(
  evals: dict, reading: Reading
) -> dict[str, evaluators.Evaluator]:
  by_name = {}
  for name, kwargs in evals.items():
    where = f"config.evals.{name}"
    task = schema.section(kwargs, where).get("task")
    by_name[f"{task}/{name}"] = reading.evaluator(kwargs, where)
  return by_name


def _sinks(config: dict | None, reading: Reading) -> dict[str, Sink]:
  chosen: dict = {"tensorboard": {}} if config is None else config
  return {name: reading.sink(fields, name) for name, fields in chosen.items()}


def _window(config: dict | None, total: int) -> trace.Window | None:
  if config is None:
    return None
  window = schema.call(trace.Window, config, "config.profile")
  window.check(total, "config.profile")
  return window


def _intervals(config: Config, unit: dict[str, int]) -> Intervals:
  every = {
    name: durations.steps(getattr(config, name), f"config.{name}", **unit)
    for name in ("log_every", "eval_every", "save_every", "keep_every")
  }
  keep, minutes = config.keep, config.save_minutes
  if keep < 1:
    allowed = "a whole number from 1 up"
    raise errors.UserError("config.keep", keep, allowed, "Keep the newest.")
  if not minutes >= 0:
    allowed, remedy = "a number from 0 up", "0 means never."
    raise errors.UserError("config.save_minutes", minutes, allowed, remedy)
  if not every["log_every"]:
    remedy = "1 logs each step."
    raise errors.UserError("config.log_every", 0, "one step or more", remedy)
  return Intervals(
    total=unit["total"], keep=keep, save_minutes=minutes, **every
  )


def _ops(ops: list, name: str, abstract: Model) -> Callable:
  """Parsed preprocessing, whose output size is checked against the tower."""
  where = f"config.{name}"
  parsed = operations.parse(ops, where, train=name == "train_image")
  inputs.check_size(parsed, where, abstract)
  return parsed
