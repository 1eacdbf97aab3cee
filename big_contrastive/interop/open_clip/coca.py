"""CoCa in OpenCLIP's model_cfg <-> the section config.model.

OpenCLIP's pooler of an image and its decoder have eps 1e-5 and MLPs of 4 times
the width, whatever model_cfg says of them.
"""

import logging
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.interop import sections
from big_contrastive.models import build

PART = "multimodal_cfg"
EPS, _MLP = 1e-5, 4
# With another value this field changes what the decoder computes.
PLAIN: dict[str, Any] = {"ls_init_value": None}
# The others are read here, or OpenCLIP doesn't use them for a decoder.
KNOWN = """context_length vocab_size width heads layers mlp_ratio dim_head
  n_queries attn_pooler_heads embed_cls pad_id eos_id pool_type proj_bias
  proj_type output_tokens hf_tokenizer_name hf_model_name hf_model_pretrained
  hf_proj_type hf_pooler_type act_kwargs norm_kwargs no_causal_mask"""


def check(model_cfg: dict[str, Any], place: str) -> None:
  """Raises UserError for towers that no decoder of ours can stand on.

  Args:
    model_cfg: checked otherwise.
    place: the text before a field's name in the error.
  """
  pooled = model_cfg["vision_cfg"].get("attentional_pool", False)
  if pooled not in (True, False):
    remedy = "Our towers have no such part."
    thing = f"{place}vision_cfg.attentional_pool"
    raise errors.UserError(thing, pooled, "True or False", remedy)
  if PART not in model_cfg:
    return
  for tower, name in (
    ("vision_cfg", "attentional_pool"),
    ("text_cfg", "embed_cls"),
  ):
    if not model_cfg[tower].get(name):
      thing, allowed = f"{place}{tower}.{name}", f"True with {PART}"
      remedy = "Our decoders see what it makes, and nothing else."
      raise errors.UserError(thing, False, allowed, remedy)


def read_pool(cfg: dict[str, Any], eps: float) -> dict[str, Any]:
  """Returns fields of config.model.image, of a vision_cfg.

  Args:
    cfg: the vision_cfg, with attentional_pool.
    eps: of its norms.
  """
  if eps != EPS:
    allowed = f"{EPS:g} with attentional_pool"
    remedy = "The pooler's norms have that, and ours have one for all."
    raise errors.UserError("norm_kwargs.eps", eps, allowed, remedy)
  queries = cfg.get("attn_pooler_queries", 256)
  heads = cfg.get("attn_pooler_heads", 8)
  return {"pool": "queries", "queries": queries - 1, "pool_heads": heads}


def write_pool(image: dict[str, Any]) -> dict[str, Any]:
  """Returns fields of vision_cfg, of config.model.image with its defaults."""
  if image["pool"] != "queries":
    return {}
  sections.require("image", image, {"eps": EPS})
  return {
    "attentional_pool": True,
    "attn_pooler_queries": image["queries"] + 1,
    "attn_pooler_heads": image["pool_heads"],
  }


def read_cls(cfg: dict[str, Any]) -> dict[str, Any]:
  """Returns fields of config.model.text, of a text_cfg with embed_cls."""
  shifted = not cfg.get("correct_cls_mask", False)
  return {
    "pool": "cls", "pad_id": cfg.get("pad_id", 0), "shifted_mask": shifted
  }  # fmt: skip


def write_cls(text: dict[str, Any]) -> dict[str, Any]:
  """Returns fields of text_cfg, of config.model.text with pool = cls."""
  config = {"embed_cls": True, "pad_id": text["pad_id"]}
  if not text["shifted_mask"]:
    logging.warning(
      "the text tower's mask of padding is not that of OpenCLIP's published "
      "CoCa: the config asks for correct_cls_mask, which OpenCLIP 3.3 refuses"
    )
    config["correct_cls_mask"] = True
  return config


def read_decoder(model_cfg: dict[str, Any]) -> dict[str, Any]:
  """Returns config.model.decoder."""
  cfg = model_cfg[PART]
  width, depth = cfg.get("width", 512), cfg.get("layers", 12)
  heads = cfg.get("heads", 8)
  return sections.size(width, depth, _MLP * width, heads) | {
    "inputs": "text", "cross": "block", "logit_bias": False, "eps": EPS,
    "width": width,
    "activation": "quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
  }  # fmt: skip


def write_decoder(
  model: dict[str, Any],
  flat: dict[str, np.ndarray],
  embed_dim: int,
  quick: bool,
) -> dict[str, Any]:
  """Returns multimodal_cfg.

  Args:
    model: config.model, with a decoder.
    flat: parameters by flat name.
    embed_dim: of model_cfg.
    quick: quick_gelu of model_cfg.

  Raises:
    UserError: for a decoder that is not as OpenCLIP's.
  """
  # Of other poolings its decoder does not see all tokens.
  sections.require("image", model["image"], {"pool": "queries"})
  length, width = flat["txt/pos"].shape
  section = build.defaults("decoder") | {"width": width} | model["decoder"]
  section["width"] = section["width"] or width
  size = sections.sizes(section)
  rows = flat["txt/embed/embedding"].shape[0]
  stored = {"vocab_size": flat["dec/logits/kernel"].shape[1]}
  needed = {
    "inputs": "text", "cross": "block", "bias": True, "logit_bias": False,
    "eps": EPS, "activation": "quick_gelu" if quick else "gelu",
    "width": embed_dim, "mlp": _MLP * width, "vocab_size": rows,
  }  # fmt: skip
  sections.require("decoder", section | size | stored, needed)
  return {
    "context_length": length - 1, "vocab_size": rows, "width": width,
    "heads": size["heads"], "layers": size["depth"], "mlp_ratio": _MLP,
  }  # fmt: skip
