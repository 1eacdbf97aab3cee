"""Hugging Face directories: SiglipModel, Siglip2Model, CLIPModel, and BLIP.

A directory has config.json, model.safetensors (or several and their index),
and files of the tokenizer and the image processor. SigLIP 2 is a SiglipModel
at a fixed resolution, and a Siglip2Model with images of any shape (NaFlex).
"""

import json
import pathlib
from collections.abc import Collection

import numpy as np

from big_contrastive.config import rules
from big_contrastive.interop import files, mapping, processors, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import vit_mae
from big_contrastive.interop.hugging_face import blip, blip_weights
from big_contrastive.interop.hugging_face import config as hugging_face_config
from big_contrastive.interop.hugging_face import weights as hugging_face_weights

_WEIGHTS = "model.safetensors"


MAY_LACK: tuple[str, ...] = ()
SUFFIX = ""


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a directory with config.json, but not of a ViTMAE."""
  return (path / "config.json").is_file() and not vit_mae.recognize(path)


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the model of a directory.

  Raises:
    UserError: for another architecture, an unknown activation, tensors that
      don't fit config.json, a broken file.
  """
  config = files.read_json(path / "config.json")
  where = str(path / "config.json")
  is_blip = config.get("model_type") == "blip"
  describe = (blip if is_blip else hugging_face_config).describe
  family, model, shapes = describe(config, where)
  stored = {
    k: v
    for k, v in _weights(path).items()
    if k not in hugging_face_weights.CONSTANTS
  }
  stored = blip_weights.without_copies(stored, str(path)) if is_blip else stored
  rows = _rows(family, shapes)
  flat = mapping.read(rows, stored, shapes, str(path))
  res, patch = model["image"]["res"], sections.patch(model["image"])
  section, fields = processors.read_hugging_face(path, family, res, patch)
  return sections.assembled(model, flat, section, **fields)


def _rows(family: str, names: Collection[str]) -> list[mapping.Row]:
  """The table of a model with parameters of these flat names."""
  if family == "blip":
    return blip_weights.table(names)
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
      (class token, causal), or an encoder or a decoder of BLIP.
    path: of the directory, which is created.

  Raises:
    UserError: for a model that none of their classes implements.
  """
  sections.no_decoder(model)
  image, text = (dict(model.model[k]) for k in ("image", "text"))
  sections.require_tower(image, "vit")
  flat = rules.flatten(model.params)
  if text.get("tower") == "blip":
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
