"""A model in no one's format, and which format a path has.

Each module of `FORMATS` has recognise(path), read(path) -> Portable and
write(portable, path).
"""

import dataclasses
import inspect
import logging
import pathlib
import types
from typing import Any

import flax.nnx as nnx
import numpy as np

from big_contrastive.config import errors, registry, rules, schema
from big_contrastive.data.transforms import operations
from big_contrastive.models import layers, two_tower
from big_contrastive.models.image.vit import ImageTower
from big_contrastive.models.text.transformer import TextTower
from big_contrastive.models.two_tower import TwoTower

# Fields of config.model.text as all but LiT's have them.
PLAIN_TEXT: dict[str, Any] = {"norm": "pre", "segments": 0, "pad_id": None}
FORMATS = ("hugging_face", "open_clip", "big_vision")
ANOTHER = "Choose another format for the destination."


@dataclasses.dataclass(frozen=True)
class Portable:
  """What every reader returns and every writer takes.

  Args:
    model: the section config.model, as models.build.build_model takes it.
    params: nested, float32 numpy arrays under our names (img, txt, t, b);
      a file with an image tower alone has only img.
    tokenizer: its spec, for restore_tokenizer; {} where the source has none.
    blob: the vocabulary file's content, b"" where there is none.
    image: evaluation preprocessing, as config.eval_image.
  """

  model: dict[str, Any]
  params: dict[str, Any]
  tokenizer: dict[str, Any] = dataclasses.field(default_factory=dict)
  blob: bytes = b""
  image: list = dataclasses.field(default_factory=list)


def recognise(path: str | pathlib.Path) -> str | None:
  """Returns the format of a file or directory, None if it has none of them."""
  for name in FORMATS:
    if module(name).recognise(pathlib.Path(path)):
      return name
  return None


def read(
  path: str | pathlib.Path, format: str | None = None, where: str = "model"
) -> Portable:
  """Returns the model that lies in a file or directory of another project.

  Args:
    path: a Hugging Face directory, an OpenCLIP directory, a big_vision .npz.
    format: which of them it is; None finds out from the files.
    where: what the path is called in errors.

  Raises:
    UserError: for anything else, and for weights that don't fit their config.
  """
  name = format or recognise(path)
  if name is None:
    allowed = "a Hugging Face or OpenCLIP directory, or a big_vision .npz"
    there = pathlib.Path(path)
    remedy = (
      "It has neither config.json nor open_clip_config.json."
      if there.is_dir()
      else "No such file or directory."
      if not there.exists()
      else "Give the directory with its config."
    )
    raise errors.UserError(where, str(path), allowed, remedy)
  errors.choice("--format", name, FORMATS)
  return module(name).read(pathlib.Path(path))


def module(name: str) -> types.ModuleType:
  """Returns the format of that name."""
  return registry.module("interop.formats", name, "--format")


def size(width: int, depth: int, mlp: int, heads: int) -> dict[str, Any]:
  """Returns {"variant": name}, with what differs from the nearest size."""
  given = dict(width=width, depth=depth, mlp=mlp, heads=heads)

  def differs(name: str) -> dict[str, int]:
    own = layers.size_of(name, "variant")
    return {k: v for k, v in given.items() if own[k] != v}

  nearest = min(layers.SIZES, key=lambda name: len(differs(name)))
  return {"variant": nearest} | differs(nearest)


def sizes(section: dict[str, Any], where: str) -> dict[str, int]:
  """Returns width, depth, mlp, heads of config.model.image or .text."""
  name = section["variant"].partition("/")[0]
  own = layers.size_of(name, where)
  return {k: section.get(k) or v for k, v in own.items()}


def patch(section: dict[str, Any]) -> int:
  """Returns the patch side of config.model.image, in pixels."""
  return int(section["variant"].partition("/")[2])


def assembled(
  model: dict[str, Any],
  flat: dict[str, np.ndarray],
  section: dict[str, Any] | None = None,
  **fields: Any,
) -> Portable:
  """Returns a Portable; its scale and bias begin where the parameters are.

  Args:
    model: the section config.model, all else.
    flat: parameters by flat name.
    section: more fields of config.model.image, such as mean and std.
    fields: of the Portable: tokenizer, blob, image.
  """
  model = model | {"image": model["image"] | (section or {})}
  if "t" in flat:
    with np.errstate(over="ignore"):  # Who reads says what is not finite.
      model["scale"] = float(np.exp(np.float64(flat["t"])))
  if "b" in flat:
    model["bias"] = float(flat["b"])
  return Portable(model, rules.unflatten(flat), **fields)


def require(
  section: str, given: dict[str, Any], needed: dict[str, Any]
) -> None:
  """Raises UserError for the first field that a format can't express."""
  for name, value in needed.items():
    allowed = value if isinstance(value, tuple) else (value,)
    if given.get(name) not in allowed:
      listed = " or ".join(map(repr, allowed))
      thing = f"config.model.{section}.{name}"
      allowed = f"{listed} in this format"
      raise errors.UserError(thing, given.get(name), allowed, ANOTHER)


def require_projection(section: str, given: dict[str, Any]) -> None:
  """Raises UserError for a tower without the last linear layer."""
  if not given.get("out_dim"):
    thing = f"config.model.{section}.out_dim"
    allowed = "the width of a last linear layer, in this format"
    raise errors.UserError(thing, None, allowed, ANOTHER)


def unknown(section: dict[str, Any], known: set[str], place: str) -> None:
  """Warns of fields of a config that may change what is computed, or not."""
  if names := sorted(section.keys() - known):
    said = "%s%s: not known here; what it changes is not computed"
    logging.warning(said, place, ", ".join(names))


def plain(section: dict[str, Any], needed: dict[str, Any], place: str) -> None:
  """Raises UserError for a field of a config that is there and not as needed.

  Args:
    section: of another project's config.
    needed: what our towers compute.
    place: what comes before a field's name in the error.
  """
  for name, value in needed.items():
    if section.get(name, value) != value:
      remedy = "Our towers have no such part."
      thing = f"{place}{name}"
      raise errors.UserError(thing, section[name], repr(value), remedy)


def defaults(name: str) -> dict[str, Any]:
  """Returns what a tower takes for fields that config.model leaves out.

  Args:
    name: "image" or "text".
  """
  tower = {"image": ImageTower, "text": TextTower}[name]
  taken = inspect.signature(tower.__init__).parameters.values()
  return {p.name: p.default for p in taken if p.default is not p.empty}


def shapes(
  model: dict[str, Any],
  vocab_size: int,
  length: int,
  bias: bool,
) -> dict[str, tuple[int, ...]]:
  """Returns our parameters' shapes by flat name; nothing is allocated.

  Args:
    model: the section config.model.
    vocab_size, length: rows of the text tower's embedding and positions.
    bias: whether there is a bias b.
  """

  def make() -> TwoTower:
    rngs = nnx.Rngs(0)
    words = {"vocab_size": vocab_size, "length": length, "rngs": rngs}
    img = model["image"] | {"rngs": rngs}
    return TwoTower(
      schema.call(ImageTower, img, "config.model.image"),
      schema.call(TextTower, model["text"] | words, "config.model.text"),
      t=0.0,
      b=0.0 if bias else None,
    )

  _, params = two_tower.split(nnx.eval_shape(make))
  return rules.shapes(params)


def sized(ops: list, takes: tuple[int, ...], where: str) -> list:
  """Returns the operations if their result is what a tower takes, or raises."""
  side = tuple(operations.parse(ops, where, train=False).size)
  if side != takes:
    allowed = f"{takes}, what the image tower takes"
    remedy = "Files of two models may have been mixed."
    raise errors.UserError(f"{where}: image processor", side, allowed, remedy)
  return ops
