"""OpenCLIP's model_cfg <-> the section config.model."""

import logging
import re
from typing import Any

from big_contrastive.config import errors
from big_contrastive.interop import sections
from big_contrastive.interop.open_clip import coca

CONFIG = "open_clip_config.json"
TIMM = re.compile(
  r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(\d+)(\.\w+)?"
)
SIZES = {"base": "B", "large": "L", "so400m": "So400m", "giantopt": "g-opt"}
# Sizes, by patch side and resolution, for which timm uses exact gelu; the
# others use tanh. big_vision, where the weights are from, always uses tanh.
EXACT: dict[str, set[tuple[int, int]]] = {
  "base": {(16, 224), (16, 256), (16, 384), (16, 512)},
  "large": {(16, 256), (16, 384)},
  "so400m": {(14, 224), (14, 378), (14, 384)},
  "giantopt": set(),
}
TANH = {
  "base": {(32, 256)},
  "large": {(16, 512)},
  "so400m": {(16, 256), (16, 384), (16, 512)},
  "giantopt": {(16, 256), (16, 384)},
}
# With another value these fields change what the towers compute.
_IMAGE_PLAIN: dict[str, Any] = {
  "ls_init_value": None, "no_ln_pre": False,
  "pos_embed_type": "learnable", "final_ln_after_pool": False,
  "pool_type": "tok", "block_type": None, "qk_norm": False,
  "scaled_cosine_attn": False, "scale_heads": False,
  "scale_attn_inner": False, "scale_attn": False, "scale_fc": False,
}  # fmt: skip
_TEXT_PLAIN: dict[str, Any] = {
  "ls_init_value": None, "final_ln_after_pool": False,
  "block_type": None, "qk_norm": False,
  "scaled_cosine_attn": False, "scale_heads": False,
  "scale_attn_inner": False, "scale_attn": False, "scale_fc": False,
  "hf_model_name": None, "tokenizer_mode": None,
}  # fmt: skip
# All other fields: read here, or about training and initialization.
_KNOWN = {
  "model_cfg": """embed_dim vision_cfg text_cfg quick_gelu custom_text
    init_logit_scale init_logit_bias nonscalar_logit_scale multimodal_cfg
    pad_id""",
  "vision_cfg": """layers width head_width mlp_ratio patch_size image_size
    patch_dropout attentional_pool attn_pooler_queries attn_pooler_heads
    output_tokens
    act_kwargs norm_kwargs timm_model_name timm_model_pretrained timm_pool
    timm_proj timm_proj_bias timm_drop timm_drop_path timm_model_kwargs""",
  "text_cfg": """context_length vocab_size hf_tokenizer_name tokenizer_kwargs
    width heads layers mlp_ratio pad_id eos_id no_causal_mask pool_type
    embed_cls correct_cls_mask
    proj_bias proj_type output_tokens act_kwargs norm_kwargs hf_model_pretrained
    hf_proj_type hf_pooler_type""",
  coca.PART: coca.KNOWN,
}
_POOLS = {"argmax": "argmax", "eos": "eos", "last": "last", "first": "first"}


def look(model_cfg: dict[str, Any]) -> None:
  """Raises UserError for what our towers don't compute; logs unknown fields."""
  parts = {"model_cfg": model_cfg, "vision_cfg": model_cfg["vision_cfg"]}
  parts["text_cfg"] = model_cfg["text_cfg"]
  plain = {"vision_cfg": _IMAGE_PLAIN, "text_cfg": _TEXT_PLAIN, "model_cfg": {}}
  if coca.PART in model_cfg:
    parts[coca.PART], plain[coca.PART] = model_cfg[coca.PART], coca.PLAIN
  for name, part in parts.items():
    if not isinstance(part, dict):
      remedy = "Is it the right file?"
      raise errors.UserError(f"{CONFIG}: {name}", part, "an object", remedy)
    place = f"{CONFIG}: {name}."
    if name == "text_cfg" or not part.get("timm_model_name"):
      sections.plain(part, plain[name], place)
    sections.unknown(part, {*_KNOWN[name].split(), *plain[name]}, place)
  coca.check(model_cfg, f"{CONFIG}: ")


def _activation(model_cfg: dict[str, Any], section: dict[str, Any]) -> str:
  if model_cfg.get("quick_gelu"):
    return "quick_gelu"
  approximate = (section.get("act_kwargs") or {}).get("approximate", "none")
  where = "act_kwargs.approximate"
  names = {"none": "gelu", "tanh": "gelu_tanh"}
  return names[errors.choice(where, approximate, names)]


def _eps(section: dict[str, Any]) -> float:
  return (section.get("norm_kwargs") or {}).get("eps", 1e-5)


def read_image_native(
  model_cfg: dict[str, Any], cfg: dict[str, Any]
) -> dict[str, Any]:
  width, patch = cfg.get("width", 768), cfg.get("patch_size", 16)
  depth, res = cfg.get("layers", 12), cfg.get("image_size", 224)
  if not isinstance(depth, int):
    remedy = "A ViT has a number, a ResNet a list of them."
    raise errors.UserError("vision_cfg.layers", depth, "a number", remedy)
  mlp = int(width * cfg.get("mlp_ratio", 4.0))
  section = sections.size(width, depth, mlp, width // cfg.get("head_width", 64))
  section["variant"] += f"/{patch}"
  pool: dict[str, Any] = {"pool": "tok"}
  if cfg.get("attentional_pool"):
    pool = coca.read_pool(cfg, _eps(cfg))
  return section | pool | {
    "res": res, "remainder": bool(res % patch),
    "cls_pos": True, "pre_norm": True, "patch_bias": False,
    "out_dim": model_cfg["embed_dim"], "eps": _eps(cfg),
    "activation": _activation(model_cfg, cfg),
  }  # fmt: skip


def read_image_timm(
  model_cfg: dict[str, Any], cfg: dict[str, Any]
) -> dict[str, Any]:
  name = cfg["timm_model_name"]
  match = TIMM.fullmatch(name)
  head = cfg.get("timm_pool"), cfg.get("timm_proj")
  if not match or head != ("map", "none"):
    allowed = "vit_*_patch*_siglip_*, timm_pool = map and timm_proj = none"
    remedy = "Of timm's towers only SigLIP's are read."
    raise errors.UserError("timm_model_name", (name, *head), allowed, remedy)
  size, patch, res = match[1], int(match[2]), int(match[3])
  res = cfg.get("image_size", res)
  exact = (patch, int(match[3])) in EXACT[size]
  kwargs = dict(cfg.get("timm_model_kwargs") or {})
  act = kwargs.pop("act_layer", None)
  sections.plain({"timm_model_kwargs": kwargs}, {"timm_model_kwargs": {}}, "")
  act = act or ("gelu" if exact else "gelu_tanh")
  return {
    "variant": f"{SIZES[size]}/{patch}", "res": res, "pool": "map",
    "remainder": bool(res % patch), "activation": act,
  }  # fmt: skip


def read_text(model_cfg: dict[str, Any], cfg: dict[str, Any]) -> dict[str, Any]:
  width, heads = cfg.get("width", 512), cfg.get("heads", 8)
  mlp = int(width * cfg.get("mlp_ratio", 4.0))
  where = "text_cfg.pool_type"
  pool = errors.choice(where, cfg.get("pool_type", "argmax"), _POOLS)
  eos = {"eos_id": cfg.get("eos_id", 2)} if pool == "eos" else {}
  where, projection = "text_cfg.proj_type", cfg.get("proj_type", "linear")
  none = errors.choice(where, projection, ("linear", "none")) == "none"
  pooled = {"pool": pool} | eos
  if cfg.get("embed_cls"):  # Pooled, whatever pool_type is.
    pooled = coca.read_cls(cfg)
  return sections.size(width, cfg.get("layers", 12), mlp, heads) | pooled | {
    "causal": not cfg.get("no_causal_mask", False),
    "out_dim": None if none else model_cfg["embed_dim"],
    "out_bias": cfg.get("proj_bias", False),
    "eps": _eps(cfg), "activation": _activation(model_cfg, cfg),
  }  # fmt: skip


def write_image_native(image: dict[str, Any]) -> dict[str, Any]:
  needed = {
    "pool": ("tok", "queries"), "cls_pos": True, "pos": "learned",
    "pre_norm": True,
    "patch_bias": False, "out_bias": False, "max_patches": None,
  }  # fmt: skip
  sections.require("image", image, needed)
  size = sections.sizes(image)
  return (
    _shared(image, size)
    | coca.write_pool(image)
    | {
      "image_size": image["res"],
      "patch_size": sections.patch(image),
      "head_width": size["width"] // size["heads"],
    }
  )


def write_image_timm(image: dict[str, Any]) -> dict[str, Any]:
  needed = {
    "pos": "learned", "pre_norm": False, "patch_bias": True, "out_dim": None,
    "eps": 1e-6, "activation": ("gelu", "gelu_tanh"), "max_patches": None,
  }  # fmt: skip
  sections.require("image", image, needed)
  size = sections.sizes(image)
  variant, _, patch = image["variant"].partition("/")
  names = {ours: theirs for theirs, ours in SIZES.items()}
  name = f"vit_{names.get(variant)}_patch{patch}_siglip_{image['res']}"
  if not TIMM.fullmatch(name) or not _known(name, size, variant):
    allowed = "a size that timm has with SigLIP's head: B, L, So400m, g-opt"
    remedy = "Choose another format for the destination."
    thing = "config.model.image.variant"
    raise errors.UserError(thing, image["variant"], allowed, remedy)
  config = {
    "image_size": image["res"], "timm_model_name": name,
    "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none",
  }  # fmt: skip
  if read_image_timm({}, config)["activation"] != image["activation"]:
    config["timm_model_kwargs"] = {"act_layer": image["activation"]}
    logging.warning(
      "timm's %s has another gelu than this model: the config asks for %s, "
      "which OpenCLIP takes from version 4 on",
      name,
      image["activation"],
    )
  return config


def _known(name: str, size: dict[str, int], variant: str) -> bool:
  """Whether timm has a model of this name with these sizes."""
  _, patch, res = TIMM.fullmatch(name).groups()[:3]  # type: ignore[union-attr]
  preset = sections.sizes({"variant": variant})
  key = next(k for k, v in SIZES.items() if v == variant)
  both = EXACT[key] | TANH[key]
  return preset == size and (int(patch), int(res)) in both


def _shared(section: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
  """Fields that the image and the text tower share."""
  # Half a unit more, so that their int(width * ratio) doesn't round down.
  half = 0.5 if size["mlp"] % size["width"] else 0
  config: dict[str, Any] = {
    "width": size["width"],
    "layers": size["depth"],
    "mlp_ratio": (size["mlp"] + half) / size["width"],
    "norm_kwargs": {"eps": section["eps"]},
  }
  if section["activation"] == "gelu_tanh":
    config["act_kwargs"] = {"approximate": "tanh"}
  return config


def write_text(text: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
  needed = sections.PLAIN_TEXT | {"pool": (*_POOLS, "cls")}
  has_cls = text["pool"] == "cls"
  if has_cls:  # It excludes the padding, others don't.
    del needed["pad_id"]
  sections.require("text", text, needed)
  size = sections.sizes(text)
  config = _shared(text, size) | {
    "context_length": flat["txt/pos"].shape[0] - has_cls,
    "vocab_size": flat["txt/embed/embedding"].shape[0],
    "heads": size["heads"],
    "no_causal_mask": not text["causal"],
    "proj_bias": text["out_bias"],
    "proj_type": "linear" if text["out_dim"] else "none",
  }
  if has_cls:
    return config | coca.write_cls(text)
  config["pool_type"] = text["pool"]
  if text["pool"] == "eos":
    config["eos_id"] = text["eos_id"]
  return config
