"""Shared by the readers and writers of configs: fields of config.model."""

import logging
from typing import Any

import numpy as np

from big_contrastive.config import errors, rules
from big_contrastive.data.transforms import operations
from big_contrastive.interop.bundle import ModelBundle, TextSizes
from big_contrastive.models import layers
from big_contrastive.models.build import build_model

# Fields of config.model.text in all text towers but LiT's.
PLAIN_TEXT: dict[str, Any] = {"norm": "pre", "segments": 0, "pad_id": None}
ANOTHER = "Choose another format for the destination."


def size(width: int, depth: int, mlp: int, heads: int) -> dict[str, Any]:
  """Returns {"variant": name} of the nearest size, and what differs from it."""
  values = dict(width=width, depth=depth, mlp=mlp, heads=heads)

  def differs(name: str) -> dict[str, int]:
    preset = layers.size_of(name)
    return {k: v for k, v in values.items() if preset[k] != v}

  nearest = min(layers.SIZES, key=lambda name: len(differs(name)))
  return {"variant": nearest} | differs(nearest)


def sizes(section: dict[str, Any]) -> dict[str, int]:
  """Returns width, depth, mlp, heads of config.model.image or .text."""
  preset = layers.size_of(section["variant"].partition("/")[0])
  return {k: section.get(k) or v for k, v in preset.items()}


def patch(section: dict[str, Any]) -> int:
  """Returns the patch side of config.model.image, in pixels."""
  return int(section["variant"].partition("/")[2])


def assembled(
  model: dict[str, Any],
  flat: dict[str, np.ndarray],
  section: dict[str, Any] | None = None,
  **fields: Any,
) -> ModelBundle:
  """Returns a bundle, whose initial scale and bias are those of the parameters.

  Args:
    model: the section config.model, without scale and bias.
    flat: parameters by flat name.
    section: more fields of config.model.image, such as mean and std.
    fields: of the bundle: tokenizer, blob, image.
  """
  model = model | {"image": model["image"] | (section or {})}
  if "t" in flat:
    with np.errstate(over="ignore"):  # The reader checks that it is finite.
      model["scale"] = float(np.exp(np.float64(flat["t"])))
  if "b" in flat:
    model["bias"] = float(flat["b"])
  return ModelBundle(model, rules.unflatten(flat), **fields)


def require(
  section: str, fields: dict[str, Any], needed: dict[str, Any]
) -> None:
  """Raises UserError for the first field that a format can't represent."""
  for name, value in needed.items():
    allowed = value if isinstance(value, tuple) else (value,)
    if fields.get(name) not in allowed:
      listed = " or ".join(map(repr, allowed))
      thing = f"config.model.{section}.{name}"
      allowed = f"{listed} in this format"
      raise errors.UserError(thing, fields.get(name), allowed, ANOTHER)


def require_tower(image: dict[str, Any], *known: str) -> str:
  """Returns the image tower's name, or raises UserError for an unknown one."""
  needed = {"tower": known}
  require("image", {"tower": image.get("tower", "vit")}, needed)
  return image.get("tower", "vit")


def require_projection(section: str, fields: dict[str, Any]) -> None:
  """Raises UserError for a tower without the last linear layer."""
  if not fields.get("out_dim"):
    thing = f"config.model.{section}.out_dim"
    allowed = "the width of a last linear layer, in this format"
    raise errors.UserError(thing, None, allowed, ANOTHER)


def no_decoder(model: ModelBundle) -> None:
  """Raises UserError for a model with a decoder, in a format without."""
  if model.has_decoder:
    section = model.model["decoder"]
    remedy = "OpenCLIP's holds that of CoCa, a checkpoint of ours any."
    raise errors.UserError(
      "config.model.decoder", section.get("variant", "set"),
      "no decoder in this format", remedy,
    )  # fmt: skip


def check_positions(model: ModelBundle) -> None:
  """Raises UserError if a format would take longer texts than the model."""
  if not model.has_text or model.model["text"].get("norm") == "post":
    return
  rows, length = len(model.params["txt"]["pos"]), model.text_sizes.length
  rows -= model.model["text"].get("pool") == "cls"
  if rows != length:
    allowed = f"the length of its texts, {length}, in this format"
    thing = "config.model.text.positions"
    raise errors.UserError(thing, rows, allowed, ANOTHER)


def unknown(section: dict[str, Any], known: set[str], place: str) -> None:
  """Warns of unknown fields of a config, which may change the computation."""
  if names := sorted(section.keys() - known):
    message = "%s%s: not known here; what it changes is not computed"
    logging.warning(message, place, ", ".join(names))


def plain(section: dict[str, Any], needed: dict[str, Any], place: str) -> None:
  """Raises UserError for a field of a config whose value is not the needed one.

  Args:
    section: of another project's config; it may lack fields.
    needed: the values that our towers implement.
    place: the text before a field's name in the error.
  """
  for name, value in needed.items():
    if section.get(name, value) != value:
      remedy = "Our towers have no such part."
      thing = f"{place}{name}"
      raise errors.UserError(thing, section[name], repr(value), remedy)


def shapes(
  model: dict[str, Any], vocab_size: int, length: int, bias: bool
) -> dict[str, tuple[int, ...]]:
  """Returns our variables' shapes by flat name; nothing is allocated.

  Args:
    model: the section config.model; without text for only an image tower.
    vocab_size, length: rows of the text tower's embedding and positions.
    bias: whether there is a bias b.
  """
  logit = {"scale": 1.0, "bias": 0.0 if bias else None}
  if "text" not in model:
    return rules.shapes(build_model(model | logit).variables)
  text = model["text"] | {"vocab_size": vocab_size, "positions": length}
  text_sizes = TextSizes(
    length, vocab_size, text.get("pad_id"), text.get("eos_id")
  )
  built = build_model(model | logit | {"text": text}, text_sizes)
  return rules.shapes(built.variables)


def sized(ops: list, takes: tuple[int, ...], where: str) -> list:
  """Returns the operations if a tower takes their output, else raises."""
  side = tuple(operations.parse(ops, where, train=False).size)
  if side != takes:
    allowed = f"{takes}, what the image tower takes"
    remedy = "Files of two models may have been mixed."
    raise errors.UserError(f"{where}: image processor", side, allowed, remedy)
  return ops
