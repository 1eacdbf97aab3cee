"""Reads and writes a model at a path, in any format."""

import contextlib
import os
import pathlib
from typing import Any

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import errors, finite, schema
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  build_tokenizer,
)
from big_contrastive.interop import formats
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import checkpoint
from big_contrastive.storage import paths, urls
from big_contrastive.storage.paths import Path

_HERE = (
  "a checkpoint, a Hugging Face, OpenCLIP or timm directory, a big_vision "
  ".npz, a torchvision ResNet's or a timm ViT's .safetensors or .pth, or "
  "OpenAI's .pt"
)


def recognize(path: str | Path) -> str | None:
  """Returns the format of a file or directory, None if it is unknown."""
  path = pathlib.Path(path) if isinstance(path, str) else path
  for name in formats.names():
    if formats.module(name).recognize(path):
      return name
  return None


def read(
  path: str | os.PathLike, format: str | None = None, where: str = "--from"
) -> ModelBundle:
  """Returns the model at a path.

  Args:
    path: a workdir or a checkpoint of ours, a Hugging Face or OpenCLIP
      directory, a big_vision .npz, a torchvision ResNet, or anything else that
      interop/formats reads; of this machine, of a bucket, or of the Hugging
      Face Hub, hf://OWNER/NAME.
    format: its name; None detects it from the files.
    where: the path's name in errors.

  Raises:
    UserError: for a path that doesn't exist, an unknown format, a broken file.
    RunError: for parameters that are not finite.
  """
  there = place(path, where)
  name = format or recognize(there)
  if name is None:
    remedy = "It has neither config.json nor open_clip_config.json."
    if not there.is_dir():
      remedy = "Give the directory with its config."
    raise errors.UserError(where, str(path), _HERE, remedy)
  bundle = formats.module(name, "--from_format").read(there, where)
  finite.arrays(bundle.params, f"parameters of {there}", finite.ANOTHER)
  return bundle


def place(path: str | os.PathLike, where: str) -> Path:
  """Returns where the model at a path is to be read from.

  That is the path itself, if it exists. Of a URL it is a copy of the files on
  this machine; but a checkpoint of ours in a bucket is read there, in parts.

  Raises:
    UserError: if there is nothing.
  """
  if (
    isinstance(path, str | os.PathLike) and str(path) and "\0" not in str(path)
  ):
    if urls.remote(path):
      if urls.protocol(str(path)) in ("gs", "s3"):
        with urls.reached(where, path):
          if checkpoint.recognize(there := paths.at(path, where)):
            return there
      return paths.local(str(path), where)
    there = pathlib.Path(os.path.expanduser(path))
    with contextlib.suppress(OSError):  # A name too long to exist.
      if there.exists():
        return there
    path = str(path)[:300]
  remedy = f"No such file or directory. It may be {_HERE}."
  raise errors.UserError(where, path, "a model's path", remedy)


def stored_tokenizer(section: dict[str, Any], where: str) -> Tokenizer:
  """Returns the tokenizer of a checkpoint of ours.

  Args:
    section: {"kind": "checkpoint", "path": DIR}, and fields of config.tokenizer
      to change.
    where: the field that holds the section, for errors.

  Raises:
    UserError: if the checkpoint has no tokenizer.
  """
  changes = {k: v for k, v in section.items() if k not in ("kind", "path")}
  directory = find.find(section.get("path", ""), f"{where}.path")
  spec = checkpointer.read_meta(directory)["tokenizer"]
  if not spec:
    remedy = f"{directory} holds no tokenizer: say which it was trained with."
    expected = "a checkpoint with a tokenizer"
    raise errors.UserError("tokenizer", None, expected, remedy)
  blob = checkpointer.read_blob(directory)
  fixed = {"captions": None, "path": None, "blob": blob}
  return schema.call(build_tokenizer, spec | changes, where, fixed)


def write(bundle: ModelBundle, path: str | pathlib.Path, format: str) -> None:
  """Writes a model.

  Args:
    bundle: the model.
    path: it must not exist yet.
    format: one of formats.names().

  Raises:
    UserError: for a model that the format can't store.
  """
  module = formats.module(format, "--format")
  if not bundle.has_text and "text" not in module.MAY_LACK:
    remedy = "An .npz and a checkpoint of ours hold an image tower alone."
    if bundle.has_decoder:
      remedy = "A checkpoint of ours holds an image tower and a decoder."
    expected = "a model with an image and a text tower"
    raise errors.UserError("--format", format, expected, remedy)
  module.write(bundle, pathlib.Path(path))
