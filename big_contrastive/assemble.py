"""Makes the parts of an experiment from the sections of its config."""

import itertools
import math
import types
from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax
import optax
from jax.sharding import Mesh

from big_contrastive import (
  catalog,
  checkpoint,
  durations,
  errors,
  health,
  optim,
  resolve,
  tree,
)
from big_contrastive.data import pipeline, text
from big_contrastive.models import transformer, two_tower
from big_contrastive.models.text import TextTower
from big_contrastive.models.two_tower import TwoTower
from big_contrastive.models.vit import ImageTower

MakeModel = Callable[[jax.Array], TwoTower]


def tokenizer(
  config: dict[str, Any], data: pipeline.Source, blob: bytes | None = None
) -> text.Tokenizer:
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
    found = catalog.find(kwargs.pop("path", ""), f"{where}.path")
    stored = stored_tokenizer(found)
    kwargs, blob = stored.spec | kwargs, stored.blob
  given: dict[str, Any] = {"captions": None, "blob": blob}
  if blob is not None:
    given["path"] = None
  elif kwargs.get("kind") == "bpe" and not kwargs.get("path"):
    texts = pipeline.captions(data, skip_bad=True)
    given["captions"] = itertools.chain.from_iterable(texts)
  return resolve.call(text.build, kwargs, where, given)


def stored_tokenizer(directory: Any) -> text.Tokenizer:
  """Returns the tokenizer of a checkpoint."""
  spec = checkpoint.read_meta(directory)["tokenizer"]
  if not spec:
    remedy = f"{directory} holds no tokenizer: say which it was trained with."
    thing, allowed = "tokenizer", "a checkpoint with a tokenizer"
    raise errors.UserError(thing, None, allowed, remedy)
  return text.restore(spec, checkpoint.read_blob(directory))


def model(
  config: dict[str, Any],
  words: text.Tokenizer,
  pin: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[MakeModel, TwoTower]:
  """Returns key -> model, and the model with shapes for arrays.

  Args:
    config: the section config.model, see `_towers`.
    words: sets the text tower's length, and its vocabulary, positions and
      EOS where config.model.text does not state them.
    pin: see sharding.pin.
  """
  parts = resolve.call(_towers, config, "config.model")
  _check_ids(parts["text"], words)
  from_words = {
    "vocab_size": _rows(parts["text"], "vocab_size", words.vocab_size),
    "positions": _rows(parts["text"], "positions", words.length),
    "eos_id": parts["text"].get("eos_id", words.eos_id),
  }

  def make(key: jax.Array) -> TwoTower:
    shared = parts["shared"] | {"pin": pin, "rngs": nnx.Rngs(key)}
    txt, length = parts["text"] | from_words, {"length": words.length}
    return TwoTower(
      resolve.call(ImageTower, parts["image"], "config.model.image", shared),
      resolve.call(TextTower, txt, "config.model.text", shared | length),
      t=math.log(parts["scale"]),
      b=parts["bias"],
    )

  abstract = nnx.eval_shape(lambda: make(jax.random.key(0)))
  widths = abstract.img.out_dim, abstract.txt.out_dim
  if widths[0] != widths[1]:
    allowed = f"the image tower's width, {widths[0]}"
    remedy = f"Set config.model.text.out_dim = {widths[0]}."
    raise errors.UserError(
      "config.model.text.out_dim", widths[1], allowed, remedy
    )
  return make, abstract


def _rows(section: dict[str, Any], name: str, least: int) -> int:
  """Rows of a table of tokens: foreign ones are longer than is asked for."""
  given = section.get(name)
  if given is not None and given < least:
    allowed = f"at least the tokenizer's {least}"
    remedy = "Leave it out, or take the tokenizer that the weights had."
    raise errors.UserError(f"config.model.text.{name}", given, allowed, remedy)
  return given or least


def _check_ids(section: dict[str, Any], words: text.Tokenizer) -> None:
  given = section.get("pad_id")
  if given is not None and given != words.pad_id:
    allowed = f"the tokenizer's, {words.pad_id}, or None"
    remedy = "Another token would be masked in place of the padding."
    raise errors.UserError("config.model.text.pad_id", given, allowed, remedy)
  given = section.get("eos_id")
  if section.get("pool") == "eos" and given not in (None, words.eos_id):
    allowed = f"the tokenizer's, {words.eos_id}"
    remedy = "No text would have the token that is looked at."
    raise errors.UserError("config.model.text.eos_id", given, allowed, remedy)


def _towers(
  *,
  image: dict,
  text: dict,
  scale: float,
  bias: float | None = None,
  dtype: Literal["float32", "bfloat16"] = "float32",
  remat: str | None = transformer.REMAT,
) -> dict[str, Any]:
  """The fields of config.model: towers, exp(t) and b at first, both's dtype.

  And what their blocks keep for the backward pass, see Transformer; None for
  all.
  """
  _check_sizes(image, "config.model.image")
  _check_sizes(text, "config.model.text")
  if not 0 < scale < math.inf:
    remedy = "SigLIP begins with 10, CLIP with 1 / 0.07."
    raise errors.UserError("config.model.scale", scale, "> 0", remedy)
  shared = {"dtype": dtype, "remat": remat or "none"}
  return dict(image=image, text=text, scale=scale, bias=bias, shared=shared)


def _check_sizes(tower: dict[str, Any], where: str) -> None:
  for key in ("res", "width", "depth", "mlp", "heads", "out_dim"):
    value = tower.get(key)
    if isinstance(value, int) and value < 1:
      remedy = "Leave it out for that of the variant."
      raise errors.UserError(f"{where}.{key}", value, ">= 1", remedy)
  dropout = tower.get("dropout", 0)
  if isinstance(dropout, int | float) and not 0 <= dropout < 1:
    remedy = "0 is off."
    raise errors.UserError(f"{where}.dropout", dropout, "0 to 1", remedy)


def optimizer(
  config: dict[str, Any],
  schedule: dict[str, Any],
  rules: dict[str, tree.Rules],
  names: list[str],
  unit: dict[str, int],
) -> tuple[optim.Schedule, optax.GradientTransformation]:
  """Returns step -> learning rate, and the optimizer over a flat dict.

  Args:
    config: config.optimizer: name, lr, weight_decay, clip, and arguments of
      the function of that name in optim.
    schedule: config.schedule; durations in any unit.
    rules: config.decay and config.lr_mult.
    names: flat names of all parameters.
    unit: batch_size, epoch and total for durations.
  """
  kwargs, where = dict(config), "config.optimizer"
  name = errors.choice(
    f"{where}.name", kwargs.pop("name", ""), optim.OPTIMIZERS
  )
  lr = kwargs.pop("lr", None)
  if type(lr) not in (int, float) or not 0 <= lr < math.inf:
    raise errors.UserError(f"{where}.lr", lr, "a number >= 0", "Set it: 1e-3.")
  common = {"weight_decay": 0.0, "clip": None}
  common |= {k: kwargs.pop(k) for k in common if k in kwargs}
  values = {k: tree.match(r, names, f"config.{k}") for k, r in rules.items()}
  direction = resolve.call(optim.OPTIMIZERS[name], kwargs, where)
  rate = _rate(lr, schedule, unit)
  build = resolve.bind(optim.build, common, where, values)
  return rate, build(direction, rate)


def _rate(
  lr: float, schedule: dict[str, Any], unit: dict[str, int]
) -> optim.Schedule:
  where = "config.schedule"
  kwargs = {"warmup": 0} | dict(schedule)
  for name in {"warmup", "cooldown", "timescale"} & kwargs.keys():
    kwargs[name] = durations.steps(kwargs[name], f"{where}.{name}", **unit)
  fixed = {"peak": lr, "total": unit["total"]}
  return resolve.call(optim.schedule, kwargs, where, fixed)


def objective(
  config: dict[str, Any],
  abstract: TwoTower,
  mesh: Mesh,
  frozen: dict[str, bool],
  parts: tuple[int, int] = (1, 1),
) -> Any:
  """Returns the objective, told which towers are frozen as a whole.

  Args:
    config: config.objective: name, loss, and arguments of its `build`.
    abstract: the model with shapes for arrays.
    mesh: from sharding.make_mesh.
    frozen: by flat parameter name.
    parts: micro-batches of the image and the text tower.
  """
  kwargs, where = dict(config), "config.objective"
  name, loss_name = kwargs.pop("name", ""), kwargs.pop("loss", "")
  module = resolve.module("objectives", name, f"{where}.name")
  loss = resolve.module("losses", loss_name, f"{where}.loss").loss
  whole = frozenset(t for t in ("img", "txt") if _all_under(t, frozen))
  if "img" in whole and abstract.img.keep < 1:
    raise errors.UserError(
      "config.model.image.keep",
      abstract.img.keep,
      "1 where the image tower is frozen, and so only evaluated",
      "Unfreeze the tower or set keep = 1.",
    )
  blind = resolve.hints(loss).get("bias") is types.NoneType
  if blind and hasattr(abstract, "b"):
    allowed = f"None with the loss {loss_name!r}, which is blind to a bias"
    remedy = "Set config.model.bias = None."
    raise errors.UserError("config.model.bias", "a number", allowed, remedy)
  graph, _ = two_tower.split(abstract)
  given = {"graph": graph, "loss": loss, "mesh": mesh, "frozen": whole}
  return resolve.call(module.build, kwargs, where, given | {"parts": parts})


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
  loss = resolve.module("losses", config["loss"], "config.objective.loss")
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
