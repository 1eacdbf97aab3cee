"""MAE's encoder and decoder as tensors of transformers and of its own code."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from big_contrastive.config import errors
from big_contrastive.interop import mapping, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.mapping import Row
from big_contrastive.models import build, positions
from big_contrastive.models.heads.patch_decoder import PatchDecoder

Layout = Literal["transformers", "official"]

PART = "decoder"  # The head of our model.
HEAD = "patch_decoder"
# What these codes implement; the class token has no position.
_IMAGE = {
  "pool": "tok", "pos": "sincos2d_mae", "cls_pos": False, "pre_norm": False,
  "patch_bias": True, "out_dim": None, "max_patches": None,
}  # fmt: skip
_DECODER = {
  p.name: p.default
  for p in inspect.signature(PatchDecoder.__init__).parameters.values()
  if p.default is not p.empty
}
# By layout, the names of the two tables of positions.
_POSITIONS = {
  "transformers": (
    "vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"
  ),
  "official": ("pos_embed", "decoder_pos_embed"),
}  # fmt: skip


def _separate(ours: str, theirs: str) -> list[Row]:
  """Blocks with transformers' names."""
  block, own = f"{ours}/blocks", f"{theirs}.{{i}}"
  rows = [
    *mapping.norm(f"{block}/norm1", f"{own}.layernorm_before"),
    *mapping.norm(f"{block}/norm2", f"{own}.layernorm_after"),
    *mapping.linear(f"{block}/mlp/fc1", f"{own}.intermediate.dense"),
    *mapping.linear(f"{block}/mlp/fc2", f"{own}.output.dense"),
  ]
  for part in ("query", "key", "value"):
    name = f"{own}.attention.attention.{part}"
    names = f"{name}.weight", f"{name}.bias"
    rows += mapping.heads(f"{block}/attention", part, *names)
  out = f"{own}.attention.output.dense"
  return rows + mapping.linear(f"{block}/attention/out", out, "merge")


def _joint(ours: str, theirs: str) -> list[Row]:
  """Blocks with timm's names."""
  block, own = f"{ours}/blocks", f"{theirs}.{{i}}"
  qkv = f"{own}.attn.qkv.weight", f"{own}.attn.qkv.bias"
  return [
    *mapping.norm(f"{block}/norm1", f"{own}.norm1"),
    *mapping.norm(f"{block}/norm2", f"{own}.norm2"),
    *mapping.heads(f"{block}/attention", "query key value", *qkv),
    *mapping.linear(f"{block}/attention/out", f"{own}.attn.proj", "merge"),
    *mapping.linear(f"{block}/mlp/fc1", f"{own}.mlp.fc1"),
    *mapping.linear(f"{block}/mlp/fc2", f"{own}.mlp.fc2"),
  ]


def _table(patch: str, cls: str, norm: str, decoder: str) -> list[Row]:
  """What is around the blocks."""
  stack = f"{PART}/transformer"
  return [
    Row(("img/embed/kernel",), f"{patch}.weight", "patch_torch"),
    Row(("img/embed/bias",), f"{patch}.bias"),
    Row(("img/cls",), cls, "two_leading"),
    *mapping.norm("img/encoder/norm", norm),
    Row((f"{PART}/mask_token",), f"{decoder}mask_token", "two_leading"),
    *mapping.linear(f"{PART}/embed", f"{decoder}decoder_embed"),
    *mapping.norm(f"{stack}/norm", f"{decoder}decoder_norm"),
    *mapping.linear(f"{PART}/pixels", f"{decoder}decoder_pred"),
  ]


_VIT = "vit.embeddings"
_TABLES = {
  "transformers": [
    *_separate("img/encoder", "vit.encoder.layer"),
    *_separate(f"{PART}/transformer", "decoder.decoder_layers"),
    *_table(
      f"{_VIT}.patch_embeddings.projection", f"{_VIT}.cls_token",
      "vit.layernorm", "decoder.",
    ),
  ],
  "official": [
    *_joint("img/encoder", "blocks"),
    *_joint(f"{PART}/transformer", "decoder_blocks"),
    *_table("patch_embed.proj", "cls_token", "norm", ""),
  ],
}  # fmt: skip


def read(
  layout: Layout,
  stored: Mapping[str, np.ndarray],
  model: dict[str, Any],
  source: str,
) -> dict[str, np.ndarray]:
  """Returns our parameters by flat name.

  Args:
    layout: of the tensors.
    stored: their tensors, the tables of positions among them.
    model: the section config.model that they are of.
    source: the file, for errors.

  Raises:
    UserError: for tensors that don't fit, and for positions that are not the
      fixed ones.
  """
  stored = dict(stored)
  for name, table in _positions(layout, model).items():
    found = stored.pop(name, None)
    if found is None or found.shape != table.shape:
      value = None if found is None else found.shape
      allowed, remedy = f"{table.shape}", "Do weights and config fit?"
      raise errors.UserError(f"{name} of {source}", value, allowed, remedy)
    if not np.allclose(found, table, rtol=0, atol=1e-4):
      allowed = "MAE's fixed sines and cosines, which are not trained"
      remedy = "A model with other positions can't be read."
      raise errors.UserError(f"{name} of {source}", "others", allowed, remedy)
  shapes = sections.shapes(model, 1, 1, bias=False)
  shapes = {k: v for k, v in shapes.items() if k != "t"}
  return mapping.read(_TABLES[layout], stored, shapes, source)


def write(
  layout: Layout, model: dict[str, Any], flat: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns their tensors of a model that `check` passed."""
  flat = {k: v for k, v in flat.items() if k.startswith(("img/", f"{PART}/"))}
  arrays = mapping.write(_TABLES[layout], flat, "an MAE")
  return arrays | _positions(layout, model)


def check(model: ModelBundle) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the tower's section and the decoder's, with defaults.

  Raises:
    UserError: for a model that their codes would compute differently.
  """
  sections.no_decoder(model)
  if model.has_text:
    allowed = "no text tower in this format"
    thing, value = "config.model.text", model.model["text"].get("variant")
    raise errors.UserError(thing, value, allowed, sections.ANOTHER)
  image = build.defaults("image") | model.model["image"]
  sections.require_tower(image, "vit")
  sections.require("image", image, _IMAGE)
  section = _DECODER | model.model.get("heads", {}).get(PART, {"name": None})
  where = f"heads.{PART}"
  same = {k: image[k] for k in ("eps", "activation")}
  sections.require(where, section, {"name": HEAD} | same)
  if heads := sorted(model.params.keys() - {"img", PART}):
    logging.warning("left out: %s", ", ".join(heads))
  return image, section


def _positions(layout: Layout, model: dict[str, Any]) -> dict[str, np.ndarray]:
  """Their tables, whose first row, the class token's, is 0."""
  image, widths = model["image"], [sections.sizes(model["image"])["width"]]
  if PART in (model.get("heads") or {}):
    widths.append(model["heads"][PART].get("width", 512))
  side, tables = image["res"] // sections.patch(image), []
  for width in widths:
    table = positions.sincos2d(side, width, "sincos2d_mae")
    tables.append(np.pad(table, ((1, 0), (0, 0)))[None])
  return dict(zip(_POSITIONS[layout], tables, strict=False))
