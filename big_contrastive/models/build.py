"""Builds a model from the section config.model."""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax

from big_contrastive.config import errors, schema
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.models import layers
from big_contrastive.models.image.vit import ImageTower
from big_contrastive.models.text.transformer import TextTower
from big_contrastive.models.two_tower import TwoTower

MakeModel = Callable[[jax.Array], TwoTower]


def build_model(
  config: dict[str, Any],
  words: Tokenizer,
  pin: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[MakeModel, TwoTower]:
  """Returns key -> model, and the model with shapes for arrays.

  Args:
    config: the section config.model, see `_towers`.
    words: sets the text tower's length, and its vocabulary, positions and
      EOS where config.model.text does not state them.
    pin: see sharding.pin.
  """
  parts = schema.call(_towers, config, "config.model")
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
      schema.call(ImageTower, parts["image"], "config.model.image", shared),
      schema.call(TextTower, txt, "config.model.text", shared | length),
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


def _check_ids(section: dict[str, Any], words: Tokenizer) -> None:
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
  remat: str | None = layers.REMAT,
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
