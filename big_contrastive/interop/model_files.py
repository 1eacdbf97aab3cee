"""Models at paths, whatever the format: checkpoints of ours, other projects'.

The others are modules of interop/; ours is at home here, because it is read
and written by what trains.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import errors, finite, rules, schema
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  restore_tokenizer,
)
from big_contrastive.interop import bundle
from big_contrastive.interop.bundle import Portable
from big_contrastive.models import two_tower
from big_contrastive.models.build import build_model
from big_contrastive.models.image.vit import ImageTower
from big_contrastive.training.state import State

OURS = "checkpoint"
FORMATS = (OURS, *bundle.FORMATS)


def recognise(path: str | pathlib.Path) -> str | None:
  """Returns the format that the files at a path are in, None for no known."""
  path = pathlib.Path(path)
  if (path / "checkpoints").is_dir() or (path / "params").is_dir():
    return OURS
  steps = [d for d in path.glob("[0-9]*") if (d / "params").is_dir()]
  return OURS if steps else bundle.recognise(path)


def read(
  path: str | pathlib.Path, format: str | None = None, where: str = "--from"
) -> Portable:
  """Returns the model at a path.

  Args:
    path: a workdir or checkpoint of ours, or what interop/ reads.
    format: one of FORMATS; None finds out from the files.
    where: what the path is called in errors.

  Raises:
    UserError: for what is not there, is in no known format, or is broken.
    RunError: for parameters that are not finite.
  """
  if format is not None:
    errors.choice("--from_format", format, FORMATS)
  there = _there(path, where)
  name = format or recognise(there)
  if name == OURS:
    found = _read_ours(find.find(str(there), where))
  else:
    found = bundle.read(there, name, where)
  finite.arrays(found.params, f"parameters of {there}", finite.ANOTHER)
  return found


def _there(path: str | pathlib.Path, where: str) -> pathlib.Path:
  """The path, if it is one and something is there."""
  remedy = "Give a file or directory that exists."
  if (
    isinstance(path, str | os.PathLike) and str(path) and "\0" not in str(path)
  ):
    there = pathlib.Path(os.path.expanduser(path))
    with contextlib.suppress(OSError):  # A name too long to exist.
      if there.exists():
        return there
    path = str(path)[:300]
  raise errors.UserError(where, path, "a model's path", remedy)


def write(model: Portable, path: str | pathlib.Path, format: str) -> None:
  """Writes a model.

  Args:
    model: what to write.
    path: nothing is there yet.
    format: one of FORMATS.

  Raises:
    UserError: for a model that the format can't hold.
  """
  path = pathlib.Path(path)
  if errors.choice("--format", format, FORMATS) == OURS:
    _write_ours(model, path)
    return
  if format != "big_vision" and "txt" not in model.params:
    remedy = "An .npz and a checkpoint of ours hold an image tower alone."
    allowed = "a model with an image and a text tower"
    raise errors.UserError("--format", format, allowed, remedy)
  _check_positions(model)
  if format != "big_vision":  # A file; the others are directories.
    path.mkdir()
  bundle.module(format).write(model, path)


def _check_positions(model: Portable) -> None:
  """Raises UserError where a format would take longer texts than ours."""
  section = model.model.get("text", {})
  if "txt" not in model.params or section.get("norm") == "post":
    return
  rows, length = len(model.params["txt"]["pos"]), Words(model).length
  if rows != length:
    allowed = f"the length of its texts, {length}, in this format"
    thing = "config.model.text.positions"
    raise errors.UserError(thing, rows, allowed, bundle.ANOTHER)


class Words:
  """What a text tower asks of a tokenizer, taken from its weights.

  It stands for that of a model without one, or of an image tower alone, and
  encodes nothing.

  Args:
    model: of any format.
    path: where it lies, for the error.
  """

  def __init__(self, model: Portable, path: str = "the model"):
    self._path, self._alone = path, "txt" not in model.params
    section = {} if self._alone else model.model["text"]
    self.eos_id: int | None = section.get("eos_id")
    self.pad_id: int | None = section.get("pad_id")
    self.vocab_size = self.length = 0
    if not self._alone:
      flat = rules.flatten(model.params["txt"])
      self.vocab_size = flat["embed/embedding"].shape[0]
      self.length = flat["pos"].shape[0]
    if section.get("positions"):  # Then texts may be shorter.
      given = model.tokenizer.get("length", self.length)
      self.length = min(given, self.length)

  def rows(self, texts: list[str]) -> np.ndarray:
    """Raises UserError: there is no tokenizer, or nothing to ask one for."""
    if self._alone:
      thing, allowed = "text tower", "a model with an image and a text tower"
      remedy = f"{self._path} is an image tower alone: it embeds images only."
    else:
      thing = "tokenizer"
      allowed = "what config.tokenizer takes, for a model without one"
      remedy = (
        f"{self._path} has none: give that which it was trained with, "
        "load(path, tokenizer={...}) or --tokenizer."
      )
    raise errors.UserError(thing, None, allowed, remedy)


def towers(
  model: Portable,
  words: Tokenizer | Words,
  pin: Callable[[jax.Array], jax.Array] = lambda x: x,
  **shared: Any,
) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """Returns the structure of a model, and its parameters' shapes.

  Args:
    model: of any format; of an image tower alone there is a OneTower.
    words: see models.build.build_model.
    pin: see sharding.pin.
    shared: fields of config.model in place of the model's own.
  """
  sections = model.model | shared
  if "txt" in model.params:
    return two_tower.split(build_model(sections, words, pin)[1])
  image = model.model["image"] | {"pin": pin}
  names = {"dtype", "remat"}
  image |= {k: v for k, v in sections.items() if k in names and v is not None}

  def make() -> two_tower.OneTower:
    given = image | {"rngs": nnx.Rngs(0)}
    tower = schema.call(ImageTower, given, "config.model.image")
    return two_tower.OneTower(tower)

  return two_tower.split(nnx.eval_shape(make))


def tokenizer(model: Portable) -> Tokenizer:
  """Returns a model's tokenizer, of the length that its text tower takes."""
  spec = model.tokenizer | {"length": Words(model).length}
  return restore_tokenizer(spec, model.blob)


def _read_ours(directory: pathlib.Path) -> Portable:
  found = checkpointer.read_model(directory)
  if "txt" not in found.params:
    return found
  own = {"vocab_size": Words(found).vocab_size}
  if found.tokenizer:
    # What it said when it was trained; elsewhere the model says it.
    own["eos_id"] = restore_tokenizer(found.tokenizer, found.blob).eos_id
  model = found.model | {"text": own | found.model["text"]}
  return dataclasses.replace(found, model=model)


def _write_ours(model: Portable, path: pathlib.Path) -> None:
  words = tokenizer(model) if model.tokenizer else None
  wanted = rules.shapes(towers(model, words or Words(model))[1])
  rules.compare_shapes("the model", rules.shapes(model.params), wanted)
  meta = {
    "config": {"model": schema.plain(model.model), "eval_image": model.image},
    "tokenizer": words.spec if words else {},
    "position": {"examples": 0, "bad": 0},
  }
  params = rules.unflatten(
    {k: np.asarray(v) for k, v in rules.flatten(model.params).items()}
  )
  state = State(jnp.zeros((), jnp.int32), params, opt={}, extra={})
  store = checkpointer.Checkpoints(path)
  store.save(0, state, meta, model.blob)
  store.close()
