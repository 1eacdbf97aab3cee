"""Hugging Face directories: SigLIP, CLIP, BLIP, and the ViT alone.

A directory has config.json, model.safetensors (or several and their index),
and files of the tokenizer and the image processor. SigLIP 2 is a SiglipModel
at a fixed resolution, and a Siglip2Model with images of any shape (NaFlex).
A ViTModel, as DINO's, is an image tower alone.
"""

import json
import pathlib
from collections.abc import Collection

import numpy as np

from big_contrastive.config import rules
from big_contrastive.interop import (
  files,
  mapping,
  processors,
  sections,
  state_dicts,
)
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats.timm import is_timm
from big_contrastive.interop.hugging_face import blip, blip_weights, vit
from big_contrastive.interop.hugging_face import config as hugging_face_config
from big_contrastive.interop.hugging_face import weights as hugging_face_weights

_WEIGHTS = "model.safetensors"


MAY_LACK: tuple[str, ...] = ("text",)  # ViTModel.
SUFFIX = ""


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a directory with config.json, and not timm's."""
  config = path / "config.json"
  return config.is_file() and not is_timm(config)


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the model of a directory.

  Raises:
    UserError: for another architecture, an unknown activation, tensors that
      don't fit config.json, a broken file.
  """
  config = files.read_json(path / "config.json")
  where = str(path / "config.json")
  own = {"blip": blip, "vit": vit}
  kind = own.get(config.get("model_type", ""), hugging_face_config)
  family, model, shapes = kind.describe(config, where)
  stored = {
    k: v
    for k, v in _weights(path).items()
    if k not in hugging_face_weights.CONSTANTS
  }
  if family == "blip":
    stored = blip_weights.without_copies(stored, str(path))
  if family == "vit":
    stored = vit.tower_alone(stored, str(path))
  rows = _rows(family, shapes)
  flat = mapping.read(rows, stored, shapes, str(path))
  res, patch = model["image"]["res"], sections.patch(model["image"])
  section, fields = processors.read_hugging_face(path, family, res, patch)
  return sections.assembled(model, flat, section, **fields)


def _rows(family: str, names: Collection[str]) -> list[mapping.Row]:
  """The table of a model with parameters of these flat names."""
  if family == "blip":
    return blip_weights.table(names)
  if family == "vit":
    return vit.TABLE
  return hugging_face_weights.TABLES[family]


def _weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  index = path / f"{_WEIGHTS}.index.json"
  if not index.is_file():
    return files.read_safetensors(path / _WEIGHTS)
  names = sorted(set(files.read_json(index).get("weight_map", {}).values()))
  merged: dict[str, np.ndarray] = {}
  for name in names:
    # Only the file name, so that it can't lead out of the directory.
    merged |= files.read_safetensors(path / pathlib.Path(name).name)
  return merged


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes config.json, weights, and files of tokenizer and image processor.

  Args:
    model: a SigLIP (pool "map", a bias), also for images of any shape, a CLIP
      (class token, causal), an encoder or a decoder of BLIP, or an image tower
      with a class token alone.
    path: of the directory, which is created.

  Raises:
    UserError: for a model that none of their classes implements.
  """
  sections.no_decoder(model)
  image, text = (dict(model.model.get(k) or {}) for k in ("image", "text"))
  sections.require_tower(image, "vit")
  flat = rules.flatten(model.params)
  if not model.has_text:
    family = "vit"
    vit.check(image)
    flat = state_dicts.tower(model, path.name)
    config = vit.write(image)
  elif text.get("tower") == "blip":
    family = "blip"
    blip.check(image, text, flat)
    flat.pop("t", None)
    config = blip.write(model, flat)
  else:
    sections.check_positions(model)
    family = "siglip" if image.get("pool", "map") == "map" else "clip"
    if image.get("max_patches") is not None:
      family = "siglip2"
    hugging_face_config.check(family, image, text, flat)
    config = hugging_face_config.write(family, image, text, flat)
  arrays = mapping.write(_rows(family, flat), flat, f"a {family} model")
  path.mkdir(exist_ok=True)
  processors.write_hugging_face(model, path, family)
  (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
  files.write_safetensors(arrays, path / _WEIGHTS)
