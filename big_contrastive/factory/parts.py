"""Builds the parts of an experiment from the sections of its config."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import optax

from big_contrastive import objectives
from big_contrastive.config import durations, errors, registry, rules, schema
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  build_tokenizer,
)
from big_contrastive.interop import model_files
from big_contrastive.objectives._ema import averaged
from big_contrastive.objectives._lora import adapted
from big_contrastive.training import from_optax, optimizers, schedules
from big_contrastive.training.sinks import Sink


def reads_text(model: dict[str, Any]) -> bool:
  """Returns whether a model has a part that reads captions.

  That is a text tower, a decoder, or a classifier of labels.
  """
  heads = model.get("heads")
  sections = heads.values() if isinstance(heads, Mapping) else ()
  files = [h.get("name") for h in sections if isinstance(h, Mapping)]
  reads = any(model.get(part) is not None for part in ("text", "decoder"))
  return reads or "classifier" in files


def with_bias(model: dict[str, Any], batch_size: int) -> dict[str, Any]:
  """Returns config.model with a number in the place of bias = "auto".

  With that number, -log(B - 1), and cosines of 0, a logit says a probability of
  1 / B, as many of B texts belong to an image.

  Args:
    model: the section config.model.
    batch_size: B, of the global batch.
  """
  where = "config.model.bias"
  if not isinstance(model.get("bias"), str):
    return model
  if model["bias"] != "auto":
    allowed = 'a number, "auto" or None'
    raise errors.UserError(where, model["bias"], allowed, "SigLIP has -10.")
  if batch_size < 2:
    allowed = "a number where config.batch_size is 1"
    raise errors.UserError(where, "auto", allowed, "There are no negatives.")
  return model | {"bias": -math.log(batch_size - 1)}


def tokenizer(
  config: dict[str, Any], data: Source, blob: bytes | None = None
) -> Tokenizer:
  """Returns the tokenizer; a BPE without a file is trained on the captions.

  {"kind": "checkpoint", "path": DIR} takes that of a checkpoint, changed by the
  other fields.

  Args:
    config: the section config.tokenizer.
    data: a BPE is trained on its captions.
    blob: the vocabulary file's content, if it is known.
  """
  kwargs, where = dict(config), "config.tokenizer"
  if kwargs.get("kind") == "checkpoint":
    return model_files.stored_tokenizer(kwargs, where)
  extra: dict[str, Any] = {"captions": None, "blob": blob}
  if blob is not None:
    extra["path"] = None
  elif kwargs.get("kind") == "bpe" and not kwargs.get("path"):
    texts = evaluation.captions(data, skip_bad=True)
    extra["captions"] = itertools.chain.from_iterable(texts)
  return schema.call(build_tokenizer, kwargs, where, extra)


def optimizer(
  config: dict[str, Any],
  schedule: dict[str, Any],
  factors: dict[str, rules.Rules],
  names: list[str],
  unit: dict[str, int],
  own_schedules: rules.Rules | None = None,
  *,
  start: rules.Rules | None = None,
  trained: Iterable[str] | None = None,
  depths: Mapping[str, int] | None = None,
  layer_factors: Mapping[str, Any] | None = None,
) -> tuple[schedules.Schedule, optax.GradientTransformation]:
  """Returns step -> learning rate, and the optimizer over a flat dict.

  Args:
    config: config.optimizer: name, lr, what `_COMMON` has, and arguments of
      the function of that name in training/optimizers, or of "optax.NAME".
    schedule: config.schedule; durations in any unit.
    factors: config.decay and config.lr_mult; config.adapt unless it is None.
    names: flat names of all parameters.
    unit: batch_size, epoch and total for durations.
    own_schedules: config.schedules; None: all have config.schedule.
    start: config.start; None: all parameters are trained from the start.
    depths: layers of stacked parameters.
    trained, layer_factors: see optimizers.build.
  """
  kwargs, where = dict(config), "config.optimizer"
  name = str(kwargs.pop("name", ""))
  if not name.startswith(from_optax.PREFIX):
    errors.choice(f"{where}.name", name, optimizers.OPTIMIZERS)
  if "adapt" in factors and name != "lars":
    allowed, remedy = f"None with the optimizer {name}", "Drop it."
    raise errors.UserError("config.adapt", factors["adapt"], allowed, remedy)
  lr = kwargs.pop("lr", None)
  if type(lr) not in (int, float) or not 0 <= lr < math.inf:
    allowed = "a number from 0 up"
    raise errors.UserError(f"{where}.lr", lr, allowed, "Set it: 1e-3.")
  common = {k: kwargs.pop(k, value) for k, value in _COMMON.items()}
  final = common["final_weight_decay"]
  if name == "lars" and final is not None:
    allowed, remedy = "None with the optimizer lars", "Drop it."
    raise errors.UserError(
      f"{where}.final_weight_decay", final, allowed, remedy
    )
  values = {
    k: rules.match(r, names, f"config.{k}", depths if k == "lr_mult" else None)
    for k, r in factors.items()
  }
  if name in optimizers.OPTIMIZERS:
    direction = schema.call(optimizers.OPTIMIZERS[name], kwargs, where)
  else:
    direction = from_optax.direction(name, kwargs, where)
  rate = _rate(lr, schedule, "config.schedule", unit)
  values |= {"direction": direction, "rate": rate}
  values |= {"trained": trained, "layer_factors": layer_factors}
  values["total"] = unit["total"]
  if start is not None:
    values["start"] = _start(start, names if trained is None else trained, unit)
  if own_schedules is not None:
    values["rates"] = _own_rates(lr, own_schedules, names, unit)
  return rate, schema.call(optimizers.build, common, where, values)


# Of config.optimizer, beside name and lr, with any optimizer.
_COMMON = {
  "weight_decay": 0.0, "final_weight_decay": None, "clip": None,
  "clip_each": None,
}  # fmt: skip


def _start(
  start: rules.Rules, trained: Iterable[str], unit: dict[str, int]
) -> dict[str, int]:
  """Returns the first step of each trained parameter, by config.start."""
  where = "config.start"
  names = dict.fromkeys(rules.whole(name)[0] for name in sorted(trained))
  first = rules.match(start, names, where)
  steps = {
    k: durations.steps(value, where, **unit) for k, value in first.items()
  }
  for name, step in steps.items():
    if step >= unit["total"]:
      allowed = f"a step of the run, which has {unit['total']}"
      remedy = f"{name} would never be trained: config.freeze says so."
      raise errors.UserError(where, first[name], allowed, remedy)
  return steps


def _rate(
  lr: float, schedule: dict[str, Any], where: str, unit: dict[str, int]
) -> schedules.Schedule:
  kwargs = {"warmup": 0} | dict(schedule)
  for name in {"warmup", "cooldown", "timescale", "every"} & kwargs.keys():
    kwargs[name] = durations.steps(kwargs[name], f"{where}.{name}", **unit)
  if isinstance(kwargs.get("milestones"), list | tuple):
    kwargs["milestones"] = [
      durations.steps(value, f"{where}.milestones[{i}]", **unit)
      for i, value in enumerate(kwargs["milestones"])
    ]
  fixed = {"peak": lr, "total": unit["total"]}
  return schema.call(schedules.schedule, kwargs, where, fixed)


def _own_rates(
  lr: float, own: rules.Rules, names: list[str], unit: dict[str, int]
) -> dict[str, schedules.Schedule]:
  """Returns the rates of parameters that don't have config.schedule's."""
  where = "config.schedules"
  sections = rules.match(own, names, where)
  rates = {}
  for i, (_, section) in enumerate(own):
    if section is not None:
      place = f"{where}[{i}]"
      rate = _rate(lr, schema.section(section, place), place, unit)
      rates |= {name: rate for name, s in sections.items() if s is section}
  return rates


def objective(
  config: dict[str, Any],
  setting: objectives.Setting,
  ema: float | None,
  lora: rules.Rules | None = None,
) -> objectives.Objective:
  """Returns the method that config.objective asks for; nothing is frozen yet.

  Args:
    config: config.objective: name, and arguments of its `build`.
    setting: the arguments that every method gets.
    ema, lora: config.ema, config.lora.
  """
  fields, where = dict(config), "config.objective"
  name = fields.pop("name", None)
  module = registry.module("objectives", name, f"{where}.name")
  method = schema.call(module.build, fields, where, {"setting": setting})
  method = method if lora is None else adapted(method, lora)
  return method if ema is None else averaged(method, ema)


def warmup(schedule: dict[str, Any], unit: dict[str, int]) -> int:
  """Returns the steps of config.schedule.warmup."""
  value = schedule.get("warmup", 0)
  return durations.steps(value, "config.schedule.warmup", **unit)


def sink(config: Any, name: str, used: bool) -> Sink:
  """Returns a sink of metrics.

  Args:
    config: config.sinks.NAME: name, and arguments of the class.
    name: its name in the config: that of its file, unless it says another.
    used: whether this process writes to it; else only the fields are checked.
  """
  where = f"config.sinks.{name}"
  fields = schema.section(config, where)
  file, place = fields.pop("name", None), f"{where}.name"
  if file is None:
    file, place = name, where
  module = registry.module("training.sinks", file, place)
  if used:
    return schema.call(module.Sink, fields, where)
  schema.complete(module.Sink, fields, where)
  return Sink()
