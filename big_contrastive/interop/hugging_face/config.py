"""transformers' config.json <-> the section config.model."""

import math
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.interop import sections
from big_contrastive.interop.hugging_face import weights as hugging_face_weights
from big_contrastive.models import build

_ACTIVATIONS = {
  "gelu_tanh": "gelu_pytorch_tanh",
  "gelu": "gelu",
  "quick_gelu": "quick_gelu",
}
_CLASSES = {
  "siglip": "SiglipModel", "siglip2": "Siglip2Model", "clip": "CLIPModel",
}  # fmt: skip
# The defaults of transformers for fields that config.json lacks.
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
# Older files wrongly have EOS = 2, and transformers still takes 2 to mean the
# largest id of a text.
_LARGEST = 2
_METACLIP_2 = "metaclip_2"
# With another value these fields change the computation or stored weights.
_PLAIN: dict[str, Any] = {
  "num_channels": 3, "vision_use_head": True, "quantization_config": None,
}  # fmt: skip
_READ = {
  "model_type", "vision_config", "text_config", "vision_config_dict",
  "text_config_dict", "projection_dim", "projection_size", "eos_token_id",
  *_PLAIN, *(k for pair in _DEFAULTS.values() for one in pair for k in one),
}  # fmt: skip
# Fields of transformers' configs that don't change what these models compute
# in evaluation.
_IDLE_NAMES = """
  _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention
  architectures attention_dropout bad_words_ids begin_suppress_tokens
  bos_token_id chunk_size_feed_forward cross_attention_hidden_size
  decoder_start_token_id diversity_penalty do_sample dropout dtype
  early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
  finetuning_task forced_bos_token_id forced_eos_token_id
  gradient_checkpointing id2label initializer_factor initializer_range
  is_decoder is_encoder_decoder label2id length_penalty logit_scale_init_value
  max_length min_length no_repeat_ngram_size num_beam_groups num_beams
  num_return_sequences output_attentions output_hidden_states output_scores
  pad_token_id prefix problem_type pruned_heads remove_invalid_values
  repetition_penalty return_dict return_dict_in_generate sep_token_id
  suppress_tokens task_specific_params temperature tf_legacy_loss
  tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
  torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
"""
_IDLE = set(_IDLE_NAMES.split())


def describe(
  config: dict[str, Any], where: str
) -> tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]:
  """Returns the family, our sections, and our parameters' shapes.

  Args:
    config: the content of config.json; nothing of full size is allocated.
    where: its path, for errors.
  """
  kind = config.get("model_type")
  # MetaCLIP 2 is a CLIP that pools at the first EOS, whatever its id.
  family = "clip" if kind == _METACLIP_2 else kind
  if family not in hugging_face_weights.TABLES:
    allowed = (
      "siglip, siglip2, clip, metaclip_2 or blip: an image and a text tower"
    )
    remedy = "Only pairs of towers are read."
    raise errors.UserError(f"{where}: model_type", kind, allowed, remedy)
  look(config, where, _PLAIN, _READ)
  image, text = (
    complete(config, name, default)
    for name, default in zip(("vision", "text"), _DEFAULTS[family], strict=True)
  )
  siglip = family != "clip"
  model = _siglip(image, text) if siglip else _clip(config, image, text)
  rows, length = text["vocab_size"], text["max_position_embeddings"]
  shapes = sections.shapes(model, rows, length, bias=siglip)
  model["text"]["vocab_size"] = rows
  return family, model, shapes


def complete(
  config: dict[str, Any], name: str, default: dict[str, Any]
) -> dict[str, Any]:
  """A tower's section, completed with the defaults of transformers."""
  section = default | (config.get(f"{name}_config") or {})
  # From the first versions; if it exists, it takes precedence.
  older = config.get(f"{name}_config_dict")
  return section | default | older if older else section


def _siglip(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
  width = text.get("projection_size") or text["hidden_size"]
  return {
    "image": image_section(image) | {"pool": "map"},
    "text": section(text) | {"pool": "last", "out_dim": width},
  }


def _clip(
  config: dict[str, Any], image: dict[str, Any], text: dict[str, Any]
) -> dict[str, Any]:
  width = config.get("projection_dim", 512)
  eos = text["eos_token_id"]
  largest = config["model_type"] != _METACLIP_2 and eos == _LARGEST
  if type(eos) is not int:
    remedy = "transformers pools at a single id."
    thing = "text_config.eos_token_id"
    raise errors.UserError(thing, eos, "one id", remedy)
  pool = {"pool": "argmax"} if largest else {"pool": "eos", "eos_id": eos}
  return {
    "image": image_section(image)
    | {
      "pool": "tok", "cls_pos": True, "pre_norm": True, "patch_bias": False,
      "out_dim": width,
    },
    "text": section(text)
    | pool
    | {"causal": True, "out_dim": width, "out_bias": False},
  }  # fmt: skip


def section(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of a tower's section that all families have."""
  names = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
  name = errors.choice("hidden_act", config["hidden_act"], names)
  size = [config[key] for key in _SIZE]
  width, mlp, depth, heads = size
  return sections.size(width, depth, mlp, heads) | {
    "eps": config["layer_norm_eps"], "activation": names[name],
  }  # fmt: skip


def image_section(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of config.model.image that all families have."""
  if "num_patches" in config:  # NaFlex: the table of positions is a square.
    side = math.isqrt(config["num_patches"])
    config = config | {"image_size": side * config["patch_size"]}
  for key in ("image_size", "patch_size"):
    if not isinstance(config[key], int):
      raise errors.UserError(
        f"vision_config.{key}",
        config[key],
        "a whole number",
        "Only squares are read.",
      )
  fields, res, patch = (
    section(config),
    config["image_size"],
    config["patch_size"],
  )
  fields["variant"] += f"/{patch}"
  return fields | {"res": res, "remainder": bool(res % patch)}


def look(
  config: dict[str, Any], where: str, needed: dict[str, Any], known: set[str]
) -> None:
  """Raises UserError for fields that change results; logs unknown fields.

  Args:
    config: the content of config.json.
    where: its path, for errors.
    needed: values that our towers implement, in any section.
    known: the names of all fields that are read.
  """
  names = ["vision_config", "text_config"]
  names += [f"{name}_dict" for name in names]
  parts = {name: config.get(name) or {} for name in names}
  for name, part in {"": config, **parts}.items():
    place = f"{where}: {name}." if name else f"{where}: "
    if not isinstance(part, dict):
      remedy = "Is it the right file?"
      raise errors.UserError(f"{where}: {name}", part, "an object", remedy)
    sections.plain(part, needed, place)
    sections.unknown(part, known | _IDLE, place)


def check(
  family: str,
  image: dict[str, Any],
  text: dict[str, Any],
  flat: dict[str, np.ndarray],
) -> None:
  """Raises UserError for a model that their class would compute differently."""
  required = {
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
  required["siglip2"] = required["siglip"]
  for name, fields, needed in zip(
    ("image", "text"), (image, text), required[family], strict=True
  ):
    plain = {"pos": "learned"} if name == "image" else sections.PLAIN_TEXT
    needed |= plain
    sections.require(name, build.defaults(name) | fields, needed)
  sections.require_projection("text", text)
  if family == "clip":
    sections.require_projection("image", image)
  if ("b" in flat) != (family != "clip"):
    allowed = f"{'None' if family == 'clip' else 'a number'} in this format"
    bias = float(flat["b"]) if "b" in flat else None
    thing = "config.model.bias"
    raise errors.UserError(thing, bias, allowed, sections.ANOTHER)
  if text.get("pool") == "eos" and text.get("eos_id") == _LARGEST:
    allowed = "another id: transformers takes 2 for 'the largest id of a text'"
    remedy = "Choose --format open_clip, which pools at any id."
    raise errors.UserError("EOS of the tokenizer", _LARGEST, allowed, remedy)


def write(
  family: str,
  image: dict[str, Any],
  text: dict[str, Any],
  flat: dict[str, np.ndarray],
) -> dict[str, Any]:
  vision, language = sizes("image", image), sizes("text", text)
  patch = sections.patch(image)
  vision |= {"image_size": image["res"], "patch_size": patch}
  if family == "siglip2":
    vision["num_patches"] = (vision.pop("image_size") // patch) ** 2
  language["vocab_size"], _ = flat["txt/embed/embedding"].shape
  language["max_position_embeddings"] = flat["txt/pos"].shape[0]
  width = text["out_dim"]
  config: dict[str, Any] = {
    "architectures": [_CLASSES[family]],
    "model_type": family,
    "vision_config": vision | {"model_type": f"{family}_vision_model"},
    "text_config": language | {"model_type": f"{family}_text_model"},
    "dtype": "float32",
  }
  if family != "clip":
    config["text_config"]["projection_size"] = width
    # Unused; but transformers' defaults cause warnings in small vocabularies.
    unused = ("bos_token_id", "eos_token_id", "pad_token_id")
    config["text_config"] |= dict.fromkeys(unused)
    return config
  for part in (config, config["vision_config"], config["text_config"]):
    part["projection_dim"] = width
  eos = _LARGEST if text["pool"] == "argmax" else text.get("eos_id")
  config["text_config"]["eos_token_id"] = eos
  return config


def sizes(name: str, section: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of a tower's section that all families write."""
  fields = build.defaults(name, section) | section
  size = sections.sizes(section)
  return {
    "hidden_size": size["width"],
    "intermediate_size": size["mlp"],
    "num_hidden_layers": size["depth"],
    "num_attention_heads": size["heads"],
    "hidden_act": _ACTIVATIONS[fields["activation"]],
    "layer_norm_eps": fields["eps"],
  }
