"""MAE's encoder and decoder as tensors of transformers and of its own code."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from big_contrastive.config import errors
from big_contrastive.interop import mapping, sections, state_dicts
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import timm
from big_contrastive.interop.hugging_face import vit
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
_POSITIONS: dict[Layout, tuple[str, str]] = {
  "transformers": (
    "vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"
  ),
  "official": ("pos_embed", "decoder_pos_embed"),
}  # fmt: skip


def _table(layout: Layout) -> list[Row]:
  """The encoder's rows, which a ViT's layout has, and the decoder's like them.

  Positions, which are no parameters here, and a classifier are left out.
  """
  theirs, of, stack, other, decoder = {
    "transformers": (
      vit.TABLE, "vit.", "encoder.layer", "decoder.decoder_layers", "decoder."
    ),
    "official": (timm.TABLE, "", "blocks", "decoder_blocks", ""),
  }[layout]  # fmt: skip
  rows, ours = [], f"{PART}/transformer"
  for row in theirs:
    if row.ours[0].startswith(("img/pos", "img/project")):
      continue
    rows.append(row._replace(theirs=of + row.theirs))
    if row.theirs.startswith(stack):
      names = tuple(x.replace("img/encoder", ours) for x in row.ours)
      name = row.theirs.replace(stack, other, 1)
      rows.append(Row(names, name, row.kind))
  return [
    *rows,
    Row((f"{PART}/mask_token",), f"{decoder}mask_token", "two_leading"),
    *mapping.linear(f"{PART}/embed", f"{decoder}decoder_embed"),
    *mapping.norm(f"{ours}/norm", f"{decoder}decoder_norm"),
    *mapping.linear(f"{PART}/pixels", f"{decoder}decoder_pred"),
  ]


_TABLES = {layout: _table(layout) for layout in _POSITIONS}


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
  state_dicts.image_alone(model)
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
