"""Files beside the weights: of the tokenizer and the image processor."""

import json
import logging
import pathlib
from typing import Any

from big_contrastive.interop import files, preprocessing, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.tokenizers import read as read_tokenizers
from big_contrastive.models import build

_PROCESSOR = "preprocessor_config.json"
# From version 5 on, transformers saves both processors in one file.
_COMBINED = "processor_config.json"
_VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.json", "vocab.txt")
# For directories that contain only weights.
_PROCESSORS = {
  "siglip": "SiglipImageProcessor", "clip": "CLIPImageProcessor",
  "siglip2": "Siglip2ImageProcessor", "blip": "BlipImageProcessor",
  "vit": "ViTImageProcessor",
}  # fmt: skip


def read_hugging_face(
  path: pathlib.Path, family: str, res: int, patch: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns fields of config.model.image, and of a ModelBundle.

  Args:
    path: the directory.
    family: "siglip", "siglip2", "clip", "blip" or "vit", for fields that its
      files lack.
    res, patch: of the image tower.
  """
  config = _image_processor(path)
  if config is None:
    square = {"height": res, "width": res}
    config = {
      "siglip": {"size": square},
      "blip": {"size": square},
      "vit": {"size": square},
      "siglip2": {"patch_size": patch},
      "clip": {"size": {"shortest_edge": res}, "crop_size": square},
    }[family]  # fmt: skip
    config |= {"image_processor_type": _PROCESSORS[family]}
  ops, mean, std = preprocessing.from_hugging_face(config)
  section = {"mean": mean, "std": std}
  takes: tuple[int, ...] = (res, res)
  if family == "siglip2":
    # Only the processor's file has the number of patches.
    most = section["max_patches"] = ops[-1][1].get("most", 0)
    takes = most, patch, patch
  fields: dict[str, Any] = {"image": sections.sized(ops, takes, str(path))}
  if any((path / name).is_file() for name in _VOCABULARIES):
    read = read_tokenizers.read_hugging_face
    fields["tokenizer"], fields["blob"] = read(path)
  return section, fields


def _image_processor(path: pathlib.Path) -> dict[str, Any] | None:
  """The image processor's section or else its file."""
  if (path / _COMBINED).is_file():
    config = files.read_json(path / _COMBINED)
    # Older files contain only the class names.
    if isinstance(config.get("image_processor"), dict):
      return config["image_processor"]
  if (path / _PROCESSOR).is_file():
    return files.read_json(path / _PROCESSOR)
  return None


def read_open_clip(
  path: pathlib.Path, config: dict[str, Any], res: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns fields of config.model.image, and of a ModelBundle.

  Args:
    path: the directory.
    config: open_clip_config.json.
    res: of the image tower.
  """
  preprocess = {"size": res} | config.get("preprocess_cfg", {})
  ops, mean, std = preprocessing.from_open_clip(preprocess)
  takes = (res, res)
  fields: dict[str, Any] = {"image": sections.sized(ops, takes, str(path))}
  text = config["model_cfg"]["text_cfg"]
  named = text.get("hf_tokenizer_name")
  # CLIP's own vocabulary comes with OpenCLIP; others are in the directory.
  if (
    not named
    and text.get("vocab_size", 49408) == 49408
    or any((path / name).is_file() for name in _VOCABULARIES)
  ):
    read = read_tokenizers.read_open_clip
    fields["tokenizer"], fields["blob"] = read(text, path)
  return {"mean": mean, "std": std}, fields


def write_hugging_face(
  model: ModelBundle, path: pathlib.Path, family: str
) -> None:
  """Writes preprocessor_config.json and the tokenizer's files."""
  stats = statistics(model)
  processor = preprocessing.to_hugging_face(model.image, family, *stats)
  text = json.dumps(processor, indent=2) + "\n"
  (path / _PROCESSOR).write_text(text)
  write_tokenizer(model, path, family)


def open_clip_processor(model: ModelBundle) -> dict[str, Any]:
  """Returns the section preprocess_cfg of open_clip_config.json."""
  return preprocessing.to_open_clip(model.image, *statistics(model))


def write_tokenizer(
  model: ModelBundle, path: pathlib.Path, family: str = ""
) -> bool:
  """Writes the tokenizer's files for transformers; False without a tokenizer.

  Args:
    model: the model.
    path: the directory.
    family: see `read_hugging_face`; "" if transformers reads no model there.
  """
  if not model.tokenizer:
    return False
  write = read_tokenizers.write_hugging_face
  section = build.defaults("text") | model.model["text"]
  seen = family != "blip" and (
    not section["causal"] or section["pool"] not in ("first", "eos", "argmax")
  )
  for note in write(model.tokenizer, model.blob, path, family, seen):
    logging.warning("%s", note)
  return True


def statistics(model: ModelBundle) -> tuple[list, list]:
  """Returns mean and std per channel."""
  image = model.model["image"]
  section = build.defaults("image", image) | image
  return list(section["mean"]), list(section["std"])
