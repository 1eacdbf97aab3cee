"""Parts of a model besides the towers: its heads, and its decoder."""

import inspect
from collections.abc import Collection, Iterator
from typing import Any

import jax
import numpy as np

from big_contrastive.config import errors, registry, schema
from big_contrastive.models import Features
from big_contrastive.models.decoder import Decoder
from big_contrastive.models.model import Model

_WHERE = "config.model"
# What a head is on that takes an image's vector before the last linear layer.
POOLED = "pooled"
# Parts whose names a head must not have.
_RESERVED = ("img", "txt", "dec", "t", "b", POOLED)


def check_tokenizer(tokenizer: Any, part: str) -> None:
  """Raises UserError if a part that reads captions has no tokenizer."""
  if tokenizer is None:
    allowed = f"a tokenizer, where the model has {_WHERE}.{part}"
    remedy = f"Set it, or leave {_WHERE}.{part} out."
    raise errors.UserError("config.tokenizer", None, allowed, remedy)


def image_features(tower: Any, where: str, value: str) -> Features:
  """Returns the shapes of the features of an image tower, of one image.

  Args:
    tower: the image tower.
    where, value: the field that asks for an image's tokens, for the error.

  Raises:
    UserError: if the tower takes vectors.
  """
  if len(tower.takes) == 1:
    allowed = "none that sees an image's tokens"
    remedy = "The image tower takes vectors: there are no tokens."
    raise errors.UserError(where, value, allowed, remedy)
  image = jax.ShapeDtypeStruct((1, *tower.takes, 3), np.uint8)
  return jax.eval_shape(lambda tower, x: tower.features(x), tower, image)


def decoder(
  section: dict[str, Any],
  towers: dict[str, Any],
  tokenizer: Any,
  kwargs: dict[str, Any],
) -> Decoder:
  """Returns the decoder that config.model.decoder describes.

  Args:
    section: its fields.
    towers: "img", and perhaps "txt".
    tokenizer: of the captions, see build.TextSizes.
    kwargs: dtype, remat, pin and rngs.

  Raises:
    UserError: for a field that is wrong, or that the towers don't allow.
  """
  where, section = f"{_WHERE}.decoder", dict(section)
  tokens, _, mask = image_features(towers["img"], where, "set")
  cross = section.get("cross")
  if cross == "prefix" and mask is not None:
    allowed = '"attention" or "block" for images of any shape'
    raise errors.UserError(f"{where}.cross", cross, allowed, "Change it.")
  if section.get("inputs") == "text":
    text = towers.get("txt")
    if getattr(text, "pool", None) != "cls" or not text.causal:
      allowed = '"ids", or a causal text tower with pool = "cls"'
      remedy = "OpenCLIP's CoCa has one."
      raise errors.UserError(f"{where}.inputs", "text", allowed, remedy)
    width = text.encoder.width
    section.setdefault("width", width)
    if section["width"] != width:
      allowed = f"the text tower's, {width}"
      raise errors.UserError(
        f"{where}.width", section["width"], allowed, "Leave it out."
      )
  least = tokenizer.vocab_size
  section["vocab_size"] = rows("decoder", section, "vocab_size", least)
  # Without BOS, a caption begins with padding: it has as many places.
  length = tokenizer.length - (tokenizer.bos_id is not None)
  own = {"memory": tokens.shape[-1], "length": length}
  return schema.call(Decoder, section, where, kwargs | own)


def rows(part: str, section: dict[str, Any], name: str, least: int) -> int:
  """Returns the rows of a table; published weights may have more than least.

  Args:
    part: "text" or "decoder", the section of config.model.
    section: its fields.
    name: of the field that says it.
    least: what the tokenizer needs.
  """
  stated = section.get(name)
  if stated is not None and stated < least:
    allowed = f"at least the tokenizer's {least}"
    remedy = "Leave it out, or use the tokenizer of the weights."
    where = f"{_WHERE}.{part}.{name}"
    raise errors.UserError(where, stated, allowed, remedy)
  return stated or least


def heads(
  sections: dict[str, Any], towers: dict[str, Any], kwargs: dict[str, Any]
) -> dict[str, Any]:
  """Returns heads by name, each over a tower's or another head's vectors.

  Args:
    sections: config.model.heads.
    towers: "img", and perhaps "txt".
    kwargs: dtype, remat, pin and rngs.
  """
  widths = {
    name: towers[part].out_dim
    for name, part in (("image", "img"), ("text", "txt"))
    if part in towers and towers[part].out_dim is not None
  }
  heads = {}
  for name, fields in _in_order(sections, {*widths, POOLED}):
    where = f"{_WHERE}.heads.{name}"
    if name in _RESERVED or not name.isidentifier() or hasattr(Model, name):
      remedy = "Give the head another name."
      allowed = "an identifier that names no other part or method of the model"
      raise errors.UserError(where, name, allowed, remedy)
    file = fields.pop("name", None)
    base = fields.pop("on")
    if base == POOLED:
      seen = image_features(towers["img"], f"{where}.on", base)
      widths[base] = seen.pooled.shape[-1]
    head = registry.module("models.heads", file, f"{where}.name").head
    own = {k: kwargs[k] for k in ("dtype", "rngs")} | {"width": widths[base]}
    if "tower" in inspect.signature(head.__init__).parameters:
      errors.choice(f"{where}.on", base, ["image"])
      own = kwargs | {"tower": towers["img"]}
    heads[name] = schema.call(head, fields, where, own)
    widths[name] = heads[name].out_dim
  return heads


def _in_order(
  sections: dict[str, Any], towers: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields heads with their fields, each after the one that it is on.

  In the order of their names otherwise: a config has no order of its own.
  """
  left = {
    name: {"on": "image"} | schema.section(section, f"{_WHERE}.heads.{name}")
    for name, section in sorted(sections.items())
  }
  known = {*towers, *left}
  for name, fields in left.items():
    errors.choice(f"{_WHERE}.heads.{name}.on", fields["on"], known - {name})
  built = set(towers)
  while left:
    ready = [name for name, fields in left.items() if fields["on"] in built]
    if not ready:
      first = next(iter(left))
      allowed = "a tower, or a head that is on one"
      remedy = "These heads are on each other: " + ", ".join(left) + "."
      where = f"{_WHERE}.heads.{first}.on"
      raise errors.UserError(where, left[first]["on"], allowed, remedy)
    for name in ready:
      yield name, left.pop(name)
    built |= {*ready}
