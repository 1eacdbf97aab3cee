"""Makes the parts of an experiment from the sections of its config."""

import itertools
import math
import types
from typing import Any

import optax
from jax.sharding import Mesh

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import durations, errors, registry, rules, schema
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  build_tokenizer,
  restore_tokenizer,
)
from big_contrastive.models import two_tower
from big_contrastive.models.two_tower import TwoTower
from big_contrastive.training import health, optimizers, schedules


def tokenizer(
  config: dict[str, Any], data: Source, blob: bytes | None = None
) -> Tokenizer:
  """Returns the tokenizer; a BPE without a file is trained on the captions.

  {"kind": "checkpoint", "path": DIR} takes that of a checkpoint, with what
  else is given changed.

  Args:
    config: the section config.tokenizer.
    data: whose captions a BPE is trained on.
    blob: the vocabulary file's content, where it is known.
  """
  kwargs, where = dict(config), "config.tokenizer"
  if kwargs.get("kind") == "checkpoint":
    del kwargs["kind"]
    found = find.find(kwargs.pop("path", ""), f"{where}.path")
    stored = stored_tokenizer(found)
    kwargs, blob = stored.spec | kwargs, stored.blob
  given: dict[str, Any] = {"captions": None, "blob": blob}
  if blob is not None:
    given["path"] = None
  elif kwargs.get("kind") == "bpe" and not kwargs.get("path"):
    texts = evaluation.captions(data, skip_bad=True)
    given["captions"] = itertools.chain.from_iterable(texts)
  return schema.call(build_tokenizer, kwargs, where, given)


def stored_tokenizer(directory: Any) -> Tokenizer:
  """Returns the tokenizer of a checkpoint."""
  spec = checkpointer.read_meta(directory)["tokenizer"]
  if not spec:
    remedy = f"{directory} holds no tokenizer: say which it was trained with."
    thing, allowed = "tokenizer", "a checkpoint with a tokenizer"
    raise errors.UserError(thing, None, allowed, remedy)
  return restore_tokenizer(spec, checkpointer.read_blob(directory))


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
      the function of that name in optim.
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
    raise errors.UserError(f"{where}.lr", lr, "a number >= 0", "Set it: 1e-3.")
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
  config: dict[str, Any],
  abstract: TwoTower,
  mesh: Mesh,
  frozen: dict[str, bool],
  micro_batches: tuple[int, int] = (1, 1),
) -> Any:
  """Returns the objective, told which towers are frozen as a whole.

  Args:
    config: config.objective: name, loss, and arguments of its `build`.
    abstract: the model with shapes for arrays.
    mesh: from sharding.make_mesh.
    frozen: by flat parameter name.
    micro_batches: micro-batches of the image and the text tower.
  """
  kwargs, where = dict(config), "config.objective"
  name, loss_name = kwargs.pop("name", ""), kwargs.pop("loss", "")
  module = registry.module("objectives", name, f"{where}.name")
  loss = registry.module("losses", loss_name, f"{where}.loss").loss
  whole = frozenset(t for t in ("img", "txt") if _all_under(t, frozen))
  if "img" in whole and abstract.img.keep < 1:
    raise errors.UserError(
      "config.model.image.keep",
      abstract.img.keep,
      "1 where the image tower is frozen, and so only evaluated",
      "Unfreeze the tower or set keep = 1.",
    )
  blind = schema.hints(loss).get("bias") is types.NoneType
  if blind and hasattr(abstract, "b"):
    allowed = f"None with the loss {loss_name!r}, which is blind to a bias"
    remedy = "Set config.model.bias = None."
    raise errors.UserError("config.model.bias", "a number", allowed, remedy)
  graph, _ = two_tower.split(abstract)
  given = {"graph": graph, "loss": loss, "mesh": mesh, "frozen": whole}
  return schema.call(
    module.build, kwargs, where, given | {"micro_batches": micro_batches}
  )


def limits(
  config: dict[str, Any],
  goal: Any,
  schedule: dict[str, Any],
  unit: dict[str, int],
  skip_nonfinite: bool,
) -> health.Limits:
  """Returns what a run's figures are held against.

  Args:
    config: config.objective.
    goal: the objective made of it.
    schedule: config.schedule.
    unit: batch_size, epoch and total for durations.
    skip_nonfinite: of the config.
  """
  loss = registry.module("losses", config["loss"], "config.objective.loss")
  chance = getattr(loss, "chance", None)
  warmup = schedule.get("warmup", 0)
  return health.Limits(
    chance=chance and chance(unit["batch_size"]),
    warmup=durations.steps(warmup, "config.schedule.warmup", **unit),
    t_max=getattr(goal, "t_max", None),
    mask_ids=getattr(goal, "mask_ids", True),
    skip_nonfinite=skip_nonfinite,
  )


def _all_under(tower: str, frozen: dict[str, bool]) -> bool:
  return all(f for name, f in frozen.items() if name.startswith(f"{tower}/"))
