"""Builds the parts of an experiment from the sections of its config."""

import itertools
import math
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
from big_contrastive.training import optimizers, schedules


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
) -> tuple[schedules.Schedule, optax.GradientTransformation]:
  """Returns step -> learning rate, and the optimizer over a flat dict.

  Args:
    config: config.optimizer: name, lr, weight_decay, clip, and arguments of
      the function of that name in training/optimizers.
    schedule: config.schedule; durations in any unit.
    factors: config.decay and config.lr_mult.
    names: flat names of all parameters.
    unit: batch_size, epoch and total for durations.
  """
  kwargs, where = dict(config), "config.optimizer"
  name = errors.choice(
    f"{where}.name", kwargs.pop("name", ""), optimizers.OPTIMIZERS
  )
  lr = kwargs.pop("lr", None)
  if type(lr) not in (int, float) or not 0 <= lr < math.inf:
    allowed = "a number from 0 up"
    raise errors.UserError(f"{where}.lr", lr, allowed, "Set it: 1e-3.")
  common = {"weight_decay": 0.0, "clip": None}
  common |= {k: kwargs.pop(k) for k in common if k in kwargs}
  values = {k: rules.match(r, names, f"config.{k}") for k, r in factors.items()}
  direction = schema.call(optimizers.OPTIMIZERS[name], kwargs, where)
  rate = _rate(lr, schedule, unit)
  build = schema.bind(optimizers.build, common, where, values)
  return rate, build(direction, rate)


def _rate(
  lr: float, schedule: dict[str, Any], unit: dict[str, int]
) -> schedules.Schedule:
  where = "config.schedule"
  kwargs = {"warmup": 0} | dict(schedule)
  for name in {"warmup", "cooldown", "timescale"} & kwargs.keys():
    kwargs[name] = durations.steps(kwargs[name], f"{where}.{name}", **unit)
  fixed = {"peak": lr, "total": unit["total"]}
  return schema.call(schedules.schedule, kwargs, where, fixed)


def objective(
  config: dict[str, Any], setting: objectives.Setting, ema: float | None
) -> objectives.Objective:
  """Returns the method that config.objective asks for; nothing is frozen yet.

  Args:
    config: config.objective: name, and arguments of its `build`.
    setting: the arguments that every method gets.
    ema: config.ema.
  """
  fields, where = dict(config), "config.objective"
  name = fields.pop("name", None)
  module = registry.module("objectives", name, f"{where}.name")
  method = schema.call(module.build, fields, where, {"setting": setting})
  return method if ema is None else averaged(method, ema)


def warmup(schedule: dict[str, Any], unit: dict[str, int]) -> int:
  """Returns the steps of config.schedule.warmup."""
  value = schedule.get("warmup", 0)
  return durations.steps(value, "config.schedule.warmup", **unit)
