"""Builds a model from the section config.model; nothing else does."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import flax.nnx as nnx
import jax

from big_contrastive.config import errors, registry, schema
from big_contrastive.models import cudnn, layers, parts
from big_contrastive.models.built import Built, fusible
from big_contrastive.models.decoder import Decoder
from big_contrastive.models.model import Model, split

_WHERE = "config.model"
_TOWERS = {"image": "vit", "text": "transformer"}  # The defaults.


@runtime_checkable
class TextSizes(Protocol):
  """What a text tower needs to know of a tokenizer.

  Attributes:
    length, vocab_size: ids per text, and distinct ids.
    pad_id: the id that pads a text to its length.
    bos_id, eos_id: the ids that begin and end every text; None without one.
  """

  length: int
  vocab_size: int
  pad_id: int | None
  bos_id: int | None
  eos_id: int | None


def build_model(
  config: dict[str, Any],
  tokenizer: TextSizes | None = None,
  pin: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Built:
  """Returns the model that config.model describes.

  Args:
    config: the section config.model, see `_sections`.
    tokenizer: sets the text tower's length, and its vocabulary, positions and
      EOS if config.model.text leaves them out; None without a text tower.
    pin: see sharding.pin.

  Raises:
    UserError: for the first field that is wrong.
  """
  sections = schema.call(_sections, config, _WHERE)
  shared = sections["shared"] | {"pin": pin}
  text = None
  if sections["decoder"] is not None:
    parts.check_tokenizer(tokenizer, "decoder")
  if sections["text"] is not None:
    text = _text_section(sections["text"], tokenizer)
  logit = {"t": sections["t"], "b": sections["bias"]}

  def make(key: jax.Array) -> Model:
    kwargs = shared | {"rngs": nnx.Rngs(key)}
    towers = {"img": _tower("image", sections["image"], kwargs)}
    if text is not None:
      own = {"length": tokenizer.length} | _seen(text, towers["img"])
      towers["txt"] = _tower("text", text, kwargs | own)
    decoder = None
    if sections["decoder"] is not None:
      decoder = parts.decoder(sections["decoder"], towers, tokenizer, kwargs)
    heads = parts.heads(sections["heads"], towers, kwargs)
    pooled = tuple(
      k
      for k, head in sections["heads"].items()
      if head.get("on") == parts.POOLED
    )
    return Model(**towers, **logit, dec=decoder, heads=heads, pooled=pooled)

  abstract = nnx.eval_shape(lambda: make(jax.random.key(0)))
  widths = {None, abstract.img.out_dim}  # None for a decoder, see text/blip.py.
  if text is not None and abstract.txt.out_dim not in widths:
    width = abstract.img.out_dim
    raise errors.UserError(
      f"{_WHERE}.text.out_dim",
      abstract.txt.out_dim,
      f"the image tower's width, {width}",
      f"Set {_WHERE}.text.out_dim = {width}.",
    )
  widths = [block.key.out_features[1] for block in fusible(abstract)]
  fused = cudnn.choose(sections["attention"], shared["dtype"], widths)

  def fuse(model: Model) -> Model:
    for block in fusible(model):
      block.fused = fused
    return model

  abstract = fuse(abstract)
  return Built(lambda key: fuse(make(key)), abstract, *split(abstract))


def defaults(
  kind: str, section: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Returns the default values of a tower or of the decoder, by field.

  Args:
    kind: "image", "text" or "decoder".
    section: config.model.image or .text, whose field `tower` chooses it.
  """
  tower: type = Decoder
  if kind != "decoder":
    tower, _ = _tower_class(kind, section or {})
  parameters = inspect.signature(tower.__init__).parameters.values()
  return {p.name: p.default for p in parameters if p.default is not p.empty}


def _tower_class(
  kind: str, section: dict[str, Any]
) -> tuple[type, dict[str, Any]]:
  """Returns the class of a tower, and the section's other fields."""
  fields = dict(section)
  name = fields.pop("tower", _TOWERS[kind])
  where = f"{_WHERE}.{kind}.tower"
  return registry.module(f"models.{kind}", name, where).tower, fields


def _tower(kind: str, section: dict[str, Any], kwargs: dict[str, Any]) -> Any:
  tower, fields = _tower_class(kind, section)
  return schema.call(tower, fields, f"{_WHERE}.{kind}", kwargs)


def _seen(section: dict[str, Any], img: Any) -> dict[str, int]:
  """Returns {"memory": width of an image's tokens} if the text tower sees them.

  Args:
    section: config.model.text.
    img: the image tower.
  """
  tower, _ = _tower_class("text", section)
  if "memory" not in inspect.signature(tower.__init__).parameters:
    return {}
  shapes = parts.image_features(img, f"{_WHERE}.text.tower", section["tower"])
  return {"memory": shapes.tokens.shape[-1]}


def _text_section(
  section: dict[str, Any], tokenizer: TextSizes | None
) -> dict[str, Any]:
  """Returns config.model.text, completed with the tokenizer's sizes."""
  parts.check_tokenizer(tokenizer, "text")
  _check_ids(section, tokenizer)
  return section | {
    "vocab_size": parts.rows(
      "text", section, "vocab_size", tokenizer.vocab_size
    ),
    "positions": parts.rows("text", section, "positions", tokenizer.length),
    "eos_id": section.get("eos_id", tokenizer.eos_id),
  }


def _check_ids(section: dict[str, Any], tokenizer: TextSizes) -> None:
  pad = section.get("pad_id")
  if pad is not None and pad != tokenizer.pad_id:
    allowed = f"the tokenizer's padding id, {tokenizer.pad_id}, or None"
    remedy = "Another token would be masked in place of the padding."
    raise errors.UserError(f"{_WHERE}.text.pad_id", pad, allowed, remedy)
  eos = section.get("eos_id")
  if section.get("pool") == "eos" and eos not in (None, tokenizer.eos_id):
    allowed = f"the tokenizer's EOS id, {tokenizer.eos_id}"
    remedy = "No text would have the token that is pooled."
    raise errors.UserError(f"{_WHERE}.text.eos_id", eos, allowed, remedy)


def _sections(
  *,
  image: dict,
  text: dict | None = None,
  decoder: dict | None = None,
  heads: dict | None = None,
  scale: float | None = None,
  bias: float | Literal["auto"] | None = None,
  dtype: Literal["float32", "bfloat16"] = "float32",
  remat: str | None = layers.REMAT,
  attention: cudnn.Choice = "auto",
) -> dict[str, Any]:
  """Returns the fields of config.model, checked and with defaults.

  Args:
    image, text: the towers: `tower`, a file in models/image or models/text,
      and its fields; no text for images alone.
    decoder: of captions, the fields of decoder.Decoder; None for none.
    heads: by name: `name`, a file in models/heads, `on`, whose vectors it
      takes ("image", "pooled", "text" or another head), and its fields.
    scale, bias: initial exp(t) and b; None for none. "auto" is a number here:
      factory.parts.with_bias knows the batch.
    dtype: compute dtype of all parts.
    remat: what blocks keep for the backward pass, see layers.Transformer; None
      for all.
    attention: how blocks compute it, see cudnn.choose.
  """
  sections = {"image": image, "text": text, "decoder": decoder}
  for name, section in sections.items():
    _check_sizes(section or {}, name)
  layers.remat_policy(remat or "none")
  if scale is not None and not 0 < scale < math.inf:
    remedy = "SigLIP begins with 10, CLIP with 1 / 0.07."
    raise errors.UserError("scale", scale, "a finite number above 0", remedy)
  if bias == "auto":
    remedy = "Only a run has a batch."
    raise errors.UserError("bias", bias, "a number without a batch", remedy)
  return {
    **sections, "heads": heads or {}, "attention": attention,
    "t": None if scale is None else math.log(scale), "bias": bias,
    "shared": {"dtype": dtype, "remat": remat or "none"},
  }  # fmt: skip


def _check_sizes(section: dict[str, Any], tower: str) -> None:
  for key in ("res", "width", "depth", "mlp", "heads", "out_dim"):
    value = section.get(key)
    if isinstance(value, int) and value < 1:
      allowed = "a whole number from 1 up"
      remedy = "Leave it out for that of the variant."
      raise errors.UserError(f"{tower}.{key}", value, allowed, remedy)
  for key in ("dropout", "drop_path"):
    rate = section.get(key, 0)
    if isinstance(rate, int | float) and not 0 <= rate < 1:
      allowed = "a number from 0 to below 1"
      raise errors.UserError(f"{tower}.{key}", rate, allowed, "0 is off.")
  if tower == "image" and section.get("in_channels", 3) != 3:
    value, remedy = section["in_channels"], "Those in two_colors have others."
    raise errors.UserError("image.in_channels", value, "3: images", remedy)
