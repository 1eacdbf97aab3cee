"""Hugging Face directories: SiglipModel, Siglip2Model and CLIPModel.

A directory has config.json, model.safetensors (or several and their index),
and files of the tokenizer and the image processor. SigLIP 2 is a SiglipModel
at a fixed resolution, and a Siglip2Model with images of any shape (NaFlex).
"""

import json
import math
import pathlib
from typing import Any

import numpy as np

from big_contrastive import errors, tree
from big_contrastive.interop import hugging_face_rows as rows_of
from big_contrastive.interop import layout, portable, surroundings, tensors

_WEIGHTS = "model.safetensors"
_ACTIVATIONS = {
  "gelu_tanh": "gelu_pytorch_tanh",
  "gelu": "gelu",
  "quick_gelu": "quick_gelu",
}
_CLASSES = {
  "siglip": "SiglipModel", "siglip2": "Siglip2Model", "clip": "CLIPModel",
}  # fmt: skip
# What transformers takes where config.json says nothing.
_SIZE = {
  "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
  "num_attention_heads": 12,
}  # fmt: skip
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP_TEXT = {
  **_SIZE, **_SIGLIP, "vocab_size": 32000, "max_position_embeddings": 64
}  # fmt: skip
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_DEFAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
  "siglip": (
    {**_SIZE, **_SIGLIP, "image_size": 224, "patch_size": 16},
    _SIGLIP_TEXT,
  ),
  "siglip2": (
    {**_SIZE, **_SIGLIP, "num_patches": 256, "patch_size": 16},
    _SIGLIP_TEXT,
  ),
  "clip": (
    {**_SIZE, **_CLIP, "image_size": 224, "patch_size": 32},
    {
      "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
      "num_attention_heads": 8, **_CLIP, "vocab_size": 49408,
      "max_position_embeddings": 77, "eos_token_id": 49407,
    },
  ),
}  # fmt: skip


def recognise(path: pathlib.Path) -> bool:
  """Whether it is a directory with config.json."""
  return (path / "config.json").is_file()


def read(path: pathlib.Path) -> portable.Portable:
  """Returns the model of a directory.

  Raises:
    UserError: for another architecture, an unknown activation, tensors that
      don't fit config.json, a broken file.
  """
  config = tensors.read_json(path / "config.json")
  family, model, shapes = describe(config, str(path / "config.json"))
  stored = {
    k: v for k, v in _weights(path).items() if k not in rows_of.CONSTANTS
  }
  flat = layout.read(rows_of.TABLES[family], stored, shapes, str(path))
  res, patch = model["image"]["res"], portable.patch(model["image"])
  section, fields = surroundings.read_hugging_face(path, family, res, patch)
  return portable.assembled(model, flat, section, **fields)


def describe(
  config: dict[str, Any], where: str
) -> tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]:
  """Returns the family, our sections, and our parameters' shapes.

  Args:
    config: the content of config.json; nothing of full size is allocated.
    where: its path, for errors.
  """
  family = config.get("model_type")
  if family not in rows_of.TABLES:
    allowed = "siglip, siglip2 or clip: a model with an image and a text tower"
    remedy = "Only pairs of towers are read."
    raise errors.UserError(f"{where}: model_type", family, allowed, remedy)
  image, text = (
    _whole(config, name, default)
    for name, default in zip(("vision", "text"), _DEFAULTS[family], strict=True)
  )
  siglip = family != "clip"
  model = _siglip(image, text) if siglip else _clip(config, image, text)
  rows, length = text["vocab_size"], text["max_position_embeddings"]
  shapes = portable.shapes(model, rows, length, bias=siglip)
  model["text"]["vocab_size"] = rows
  return family, model, shapes


def _whole(
  config: dict[str, Any], name: str, default: dict[str, Any]
) -> dict[str, Any]:
  """A tower's section, with what transformers takes where it says nothing."""
  section = default | (config.get(f"{name}_config") or {})
  # Of the first versions; where it is there, it rules.
  older = config.get(f"{name}_config_dict")
  return section | default | older if older else section


def _siglip(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
  if not image.get("vision_use_head", True):
    raise errors.UserError(
      "vision_use_head", False, "True", "Only SigLIP's head is read."
    )
  width = text.get("projection_size") or text["hidden_size"]
  return {
    "image": _image(image) | {"pool": "map"},
    "text": _section(text) | {"pool": "last", "out_dim": width},
  }


def _clip(
  config: dict[str, Any], image: dict[str, Any], text: dict[str, Any]
) -> dict[str, Any]:
  width = config.get("projection_dim", 512)
  # Before it was corrected, 2 stood for "the largest id".
  eos = text["eos_token_id"]
  pool = {"pool": "argmax"} if eos == 2 else {"pool": "eos", "eos_id": eos}
  return {
    "image": _image(image)
    | {
      "pool": "tok", "cls_pos": True, "pre_norm": True, "patch_bias": False,
      "out_dim": width,
    },
    "text": _section(text)
    | pool
    | {"causal": True, "out_dim": width, "out_bias": False},
  }  # fmt: skip


def _section(config: dict[str, Any]) -> dict[str, Any]:
  names = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
  name = errors.choice("hidden_act", config["hidden_act"], names)
  size = [config[key] for key in _SIZE]
  width, mlp, depth, heads = size
  return portable.size(width, depth, mlp, heads) | {
    "eps": config["layer_norm_eps"], "activation": names[name],
  }  # fmt: skip


def _image(config: dict[str, Any]) -> dict[str, Any]:
  if "num_patches" in config:  # NaFlex: the table of positions is a square.
    side = math.isqrt(config["num_patches"])
    config = config | {"image_size": side * config["patch_size"]}
  for key in ("image_size", "patch_size"):
    if not isinstance(config[key], int):
      raise errors.UserError(
        f"vision_config.{key}", config[key], "a number: squares", "None other."
      )
  section, res, patch = (
    _section(config),
    config["image_size"],
    config["patch_size"],
  )
  section["variant"] += f"/{patch}"
  return section | {"res": res, "remainder": bool(res % patch)}


def _weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  index = path / f"{_WEIGHTS}.index.json"
  if not index.is_file():
    return tensors.read_safetensors(path / _WEIGHTS)
  files = sorted(set(tensors.read_json(index).get("weight_map", {}).values()))
  merged: dict[str, np.ndarray] = {}
  for file in files:
    # A name, not a path: it must not lead out of the directory.
    merged |= tensors.read_safetensors(path / pathlib.Path(file).name)
  return merged


def write(model: portable.Portable, path: pathlib.Path) -> None:
  """Writes config.json, weights, and files of tokenizer and image processor.

  Args:
    model: a SigLIP (pool "map", a bias), also one of images of any shape, or
      a CLIP (class token, causal).
    path: a directory that exists and is empty.

  Raises:
    UserError: for a model that neither of their classes is.
  """
  image, text = (dict(model.model[k]) for k in ("image", "text"))
  family = "siglip" if image.get("pool", "map") == "map" else "clip"
  if image.get("max_patches") is not None:
    family = "siglip2"
  flat = tree.flatten(model.params)
  _check(family, image, text)
  config = _config(family, image, text, flat)
  arrays = layout.write(rows_of.TABLES[family], flat, f"a {family} model")
  surroundings.write_hugging_face(model, path, family)
  (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
  tensors.write_safetensors(arrays, path / _WEIGHTS)


def _check(family: str, image: dict[str, Any], text: dict[str, Any]) -> None:
  """Raises UserError for what their class computes otherwise."""
  own = {
    "siglip": (
      {"pool": "map", "pre_norm": False, "patch_bias": True, "out_dim": None},
      {"pool": "last", "causal": False, "out_bias": True},
    ),
    "clip": (
      {
        "pool": "tok", "pre_norm": True, "patch_bias": False, "cls_pos": True,
        "out_bias": False,
      },
      {"pool": ("eos", "argmax"), "causal": True, "out_bias": False},
    ),
  }  # fmt: skip
  own["siglip2"] = own["siglip"]
  for name, given, needed in zip(
    ("image", "text"), (image, text), own[family], strict=True
  ):
    plain = {"pos": "learned"} if name == "image" else portable.PLAIN_TEXT
    needed |= plain
    portable.require(name, portable.defaults(name) | given, needed)


def _config(
  family: str,
  image: dict[str, Any],
  text: dict[str, Any],
  flat: dict[str, np.ndarray],
) -> dict[str, Any]:
  vision, words = _sizes("image", image), _sizes("text", text)
  patch = portable.patch(image)
  vision |= {"image_size": image["res"], "patch_size": patch}
  if family == "siglip2":
    vision["num_patches"] = (vision.pop("image_size") // patch) ** 2
  words["vocab_size"], _ = flat["txt/embed/embedding"].shape
  words["max_position_embeddings"] = flat["txt/pos"].shape[0]
  width = text["out_dim"]
  config: dict[str, Any] = {
    "architectures": [_CLASSES[family]],
    "model_type": family,
    "vision_config": vision | {"model_type": f"{family}_vision_model"},
    "text_config": words | {"model_type": f"{family}_text_model"},
    "dtype": "float32",
  }
  if family != "clip":
    config["text_config"]["projection_size"] = width
    # Unused, and transformers warns of its own defaults in small vocabularies.
    unused = ("bos_token_id", "eos_token_id", "pad_token_id")
    config["text_config"] |= dict.fromkeys(unused)
    return config
  for part in (config, config["vision_config"], config["text_config"]):
    part["projection_dim"] = width
  # 2 stands for "the largest id".
  eos = 2 if text["pool"] == "argmax" else text.get("eos_id")
  config["text_config"]["eos_token_id"] = eos
  return config


def _sizes(name: str, section: dict[str, Any]) -> dict[str, Any]:
  given = portable.defaults(name) | section
  own = portable.sizes(section, f"config.model.{name}.variant")
  return {
    "hidden_size": own["width"],
    "intermediate_size": own["mlp"],
    "num_hidden_layers": own["depth"],
    "num_attention_heads": own["heads"],
    "hidden_act": _ACTIVATIONS[given["activation"]],
    "layer_norm_eps": given["eps"],
  }
