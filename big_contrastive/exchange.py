"""Models at paths, whatever the format: checkpoints of ours, other projects'.

The others are modules of interop/; ours is at home here, because it is read
and written by what trains.
"""

import contextlib
import dataclasses
import os
import pathlib

import jax.numpy as jnp
import numpy as np

from big_contrastive import (
  assemble,
  catalog,
  checkpoint,
  errors,
  finite,
  resolve,
  step,
  tree,
)
from big_contrastive.data import text
from big_contrastive.interop import portable
from big_contrastive.interop.portable import Portable
from big_contrastive.models import two_tower

OURS = "checkpoint"
FORMATS = (OURS, *portable.FORMATS)


def recognise(path: str | pathlib.Path) -> str | None:
  """Returns the format that the files at a path are in, None for no known."""
  path = pathlib.Path(path)
  if (path / "checkpoints").is_dir() or (path / "params").is_dir():
    return OURS
  steps = [d for d in path.glob("[0-9]*") if (d / "params").is_dir()]
  return OURS if steps else portable.recognise(path)


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
    found = _read_ours(catalog.find(str(there), where))
  else:
    found = portable.read(there, name, where)
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
    remedy = "An .npz holds an image tower alone."
    allowed = "a model with an image and a text tower"
    raise errors.UserError("--format", format, allowed, remedy)
  if format != "big_vision":  # A file; the others are directories.
    path.mkdir()
  portable.module(format).write(model, path)


class Words:
  """What a text tower asks of a tokenizer, taken from its weights."""

  def __init__(self, model: Portable):
    flat, section = tree.flatten(model.params["txt"]), model.model["text"]
    self.vocab_size: int = flat["embed/embedding"].shape[0]
    self.length: int = flat["pos"].shape[0]
    if section.get("positions"):  # Then texts may be shorter.
      given = model.tokenizer.get("length", self.length)
      self.length = min(given, self.length)
    self.eos_id: int | None = section.get("eos_id")
    self.pad_id: int | None = section.get("pad_id")


def tokenizer(model: Portable) -> text.Tokenizer:
  """Returns a model's tokenizer, of the length that its text tower takes."""
  spec = model.tokenizer | {"length": Words(model).length}
  return text.restore(spec, model.blob)


def _read_ours(directory: pathlib.Path) -> Portable:
  found = checkpoint.read_model(directory)
  # What the tokenizer said when it was trained; elsewhere the model says it.
  eos_id = text.restore(found.tokenizer, found.blob).eos_id
  own = {"vocab_size": Words(found).vocab_size, "eos_id": eos_id}
  model = found.model | {"text": own | found.model["text"]}
  return dataclasses.replace(found, model=model)


def _write_ours(model: Portable, path: pathlib.Path) -> None:
  if "txt" not in model.params:
    allowed = "a model with an image and a text tower"
    remedy = "Begin a training with it: config.init."
    raise errors.UserError("parameters", "img alone", allowed, remedy)
  if not model.tokenizer:
    allowed = "what config.tokenizer takes, for a source that has none"
    remedy = "The checkpoint is to be whole: --tokenizer '{\"kind\": ...}'."
    raise errors.UserError("--tokenizer", None, allowed, remedy)
  words = tokenizer(model)
  _, abstract = assemble.model(model.model, words)
  wanted = tree.shapes(two_tower.split(abstract)[1])
  checkpoint.compare_shapes("the model", tree.shapes(model.params), wanted)
  meta = {
    "config": {"model": resolve.plain(model.model), "eval_image": model.image},
    "tokenizer": words.spec,
    "position": {"examples": 0, "bad": 0},
  }
  params = tree.unflatten(
    {k: np.asarray(v) for k, v in tree.flatten(model.params).items()}
  )
  state = step.State(jnp.zeros((), jnp.int32), params, opt={}, extra={})
  store = checkpoint.Checkpoints(path)
  store.save(0, state, meta, words.blob)
  store.close()
