"""OpenCLIP directories: CLIP with a ViT or a ResNet, SigLIP with timm's, CoCa.

A directory has open_clip_config.json and open_clip_model.safetensors, or
another file of weights that OpenCLIP would find; OpenCLIP loads it as
"local-dir:PATH". OpenAI's own .pt files are read, too.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_contrastive.config import errors, rules
from big_contrastive.data.tokenizers.tokenizer import restore_tokenizer
from big_contrastive.interop import files, mapping, processors, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.open_clip import coca, openai, resnet
from big_contrastive.interop.open_clip import (
  config as open_clip_config,
)
from big_contrastive.interop.open_clip import (
  weights as open_clip_weights,
)
from big_contrastive.interop.tokenizers import read as read_tokenizers
from big_contrastive.models import build

_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


MAY_LACK: tuple[str, ...] = ()
SUFFIX = ""


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a directory with open_clip_config.json, or OpenAI's file."""
  return (path / _CONFIG).is_file() or openai.recognize(path)


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the model of a directory, or of a .pt file of OpenAI's.

  Raises:
    UserError: for towers that ours don't implement, tensors that don't fit the
      config, a broken file.
  """
  if path.is_file():
    config, stored = openai.read(path)
  else:
    config, stored = _config(path), _weights(path)
  stored = {k: v for k, v in stored.items() if not k.endswith("attn_mask")}
  stored = mapping.without_counters(stored)
  custom = any(k.startswith("text.") for k in stored)
  model, table, shapes = _plan(
    config["model_cfg"], custom, "logit_bias" in stored
  )
  flat = mapping.read(table, stored, shapes, str(path))
  rows, _ = shapes["txt/embed/embedding"]
  for part in {"text", "decoder"} & model.keys():
    model[part]["vocab_size"] = rows
  res = model["image"]["res"]
  folder = path.parent if path.is_file() else path
  section, fields = processors.read_open_clip(folder, config, res)
  return sections.assembled(model, flat, section, **fields)


def _config(path: pathlib.Path) -> dict[str, Any]:
  """The content of open_clip_config.json, of a pair of towers."""
  config = files.read_json(path / _CONFIG)
  model_cfg = config.get("model_cfg", {})
  if not {"embed_dim", "vision_cfg", "text_cfg"} <= model_cfg.keys():
    allowed = "embed_dim, vision_cfg and text_cfg"
    remedy = "It is not a pair of an image and a text tower."
    raise errors.UserError(
      f"{path}: model_cfg", sorted(model_cfg), allowed, remedy
    )
  return config


def names(model_cfg: dict[str, Any], custom: bool) -> mapping.Shapes:
  """Returns shapes of OpenCLIP's tensors by name; nothing is allocated.

  Args:
    model_cfg: of open_clip_config.json.
    custom: whether it is a CustomTextCLIP.
  """
  _, rows, shapes = _plan(
    model_cfg, custom, model_cfg.get("init_logit_bias") is not None
  )
  return mapping.names(rows, shapes)


def _plan(
  model_cfg: dict[str, Any], custom: bool, bias: bool
) -> tuple[dict[str, Any], list[mapping.Row], dict[str, tuple[int, ...]]]:
  """config.model, the table, and our parameters' shapes, of a model_cfg."""
  open_clip_config.look(model_cfg)
  vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
  tower = "timm" if vision.get("timm_model_name") else "vit"
  if isinstance(vision.get("layers"), list) and tower != "timm":
    tower = "resnet"
  read_image = {
    "timm": open_clip_config.read_image_timm, "resnet": resnet.read_image,
    "vit": open_clip_config.read_image_native,
  }[tower]  # fmt: skip
  model: dict[str, Any] = {
    "image": read_image(model_cfg, vision),
    "text": open_clip_config.read_text(model_cfg, text),
  }
  if tower == "vit":
    width = vision.get("width", 768)
    tower = _pooled(model["image"], width, model_cfg["embed_dim"])
  if coca.PART in model_cfg:
    model["decoder"] = coca.read_decoder(model_cfg)
  depths = vision["layers"] if tower == "resnet" else ()
  rows = open_clip_weights.table(
    tower, custom, text.get("proj_bias", False), depths
  )
  vocab, length = text.get("vocab_size", 49408), text.get("context_length", 77)
  return model, rows, sections.shapes(model, vocab, length, bias)


def _pooled(image: dict[str, Any], width: int, out_dim: int) -> str:
  """The tower of weights.table, for OpenCLIP's own ViT."""
  if image["pool"] == "tok":
    return "vit"
  return "queries_alike" if width == out_dim else "queries"


def _weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  paths = [
    p
    for ending in ("safetensors", "pt", "pth", "bin")
    for p in sorted(path.glob(f"*.{ending}"))
  ]
  if not paths:
    raise errors.UserError(
      "weights", str(path), _WEIGHTS, "Is the download complete?"
    )
  named = [p for p in paths if p.name == _WEIGHTS]
  chosen = (named or paths)[0]
  if chosen.suffix == ".safetensors":
    return files.read_safetensors(chosen)
  return files.read_torch(chosen)


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes config, weights and the tokenizer's files.

  Args:
    model: a CLIP, a SigLIP of a size that timm has, or a CoCa.
    path: of the directory, which is created.

  Raises:
    UserError: for a model that OpenCLIP can't build.
  """
  sections.check_positions(model)
  text = build.defaults("text") | model.model["text"]
  flat = rules.flatten(model.params)
  tower, vision, quick, depths = _vision(model.model["image"], text)
  texts = open_clip_config.write_text(text, flat)
  if (text["activation"] == "quick_gelu") != quick:
    allowed = "the image tower's: quick_gelu is for both"
    raise errors.UserError(
      "config.model.text.activation",
      text["activation"],
      allowed,
      "OpenCLIP can't mix them.",
    )
  model_cfg: dict[str, Any] = {"quick_gelu": True} if quick else {}
  if "b" in flat:
    model_cfg["init_logit_bias"] = float(flat["b"])
  embed_dim = text["out_dim"] or flat["txt/pos"].shape[1]
  if model.has_decoder:
    part = coca.write_decoder(model.model, flat, embed_dim, quick)
    model_cfg[coca.PART] = part
    if text["pad_id"]:  # Generation asks for it here.
      model_cfg["pad_id"] = text["pad_id"]
    for tower_cfg in (vision, texts):
      tower_cfg["output_tokens"] = True
  model_cfg |= {
    "embed_dim": embed_dim,
    "vision_cfg": vision,
    "text_cfg": texts,
    # Older versions of the plain class always pool by argmax.
    "custom_text": tower == "timm" or text["pool"] != "argmax",
  }  # fmt: skip
  rows = open_clip_weights.table(
    tower, model_cfg["custom_text"], text["out_bias"], depths
  )
  arrays = mapping.write(rows, flat, "an OpenCLIP model")
  arrays = mapping.with_counters(arrays)
  config = {
    "model_cfg": model_cfg,
    "preprocess_cfg": processors.open_clip_processor(model),
  }
  path.mkdir(exist_ok=True)
  if not model.tokenizer:
    # Points to missing files: otherwise OpenCLIP would take CLIP's own.
    model_cfg["text_cfg"]["hf_tokenizer_name"] = "."
  elif _is_clips(model):  # It comes with OpenCLIP; others need the file.
    zipped = model.blob[:2] == b"\x1f\x8b"
    name = read_tokenizers.CLIP_FILE if zipped else "merges.txt"
    (path / name).write_bytes(model.blob)
  else:
    processors.write_tokenizer(model, path)
    model_cfg["text_cfg"] |= {
      "hf_tokenizer_name": ".",
      "tokenizer_kwargs": {"clean": _cleaning(model.tokenizer)},
    }
  (path / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
  files.write_safetensors(arrays, path / _WEIGHTS)


def _vision(
  section: dict[str, Any], text: dict[str, Any]
) -> tuple[str, dict[str, Any], bool, Sequence[int]]:
  """The tower of weights.table, vision_cfg, quick_gelu, a ResNet's depths."""
  name = sections.require_tower(section, "vit", resnet.TOWER)
  image = build.defaults("image", section) | section
  if name == resnet.TOWER:  # Without an activation of its own: the text's.
    vision = resnet.write_image(image)
    quick = text["activation"] == "quick_gelu"
    return "resnet", vision, quick, vision["layers"]
  if image["pool"] == "map":
    return "timm", open_clip_config.write_image_timm(image), False, ()
  vision = open_clip_config.write_image_native(image)
  sections.require_projection("image", image)
  tower = _pooled(image, vision["width"], image["out_dim"])
  return tower, vision, image["activation"] == "quick_gelu", ()


def _is_clips(model: ModelBundle) -> bool:
  """Whether it is CLIP's own vocabulary, which comes with OpenCLIP."""
  tokenizer = restore_tokenizer(model.tokenizer, model.blob)
  is_same = (
    tokenizer.spec["kind"] == "clip_bpe" and tokenizer.vocab_size == 49408
  )
  return is_same and tokenizer.pad_id == 0


def _cleaning(spec: dict[str, Any]) -> str:
  if spec.get("canonicalize"):
    return "canonicalize"
  return "lower" if spec.get("lower") else "whitespace"
