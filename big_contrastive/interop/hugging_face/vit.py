"""ViTModel, as DINO is published: an image tower with a class token, alone."""

import logging
from collections.abc import Mapping
from typing import Any

from big_contrastive.config import errors
from big_contrastive.interop import mapping, sections
from big_contrastive.interop.hugging_face import config as hugging_face_config
from big_contrastive.interop.mapping import Row
from big_contrastive.models import build

_DEFAULTS: dict[str, Any] = {
  "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
  "num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
  "image_size": 224, "patch_size": 16,
}  # fmt: skip
# With another value these change the computation.
_PLAIN = {"num_channels": 3, "qkv_bias": True, "quantization_config": None}
_IDLE = {
  "hidden_dropout_prob", "attention_probs_dropout_prob", "encoder_stride",
  "pooler_act", "pooler_output_size",
}  # fmt: skip
# What a tower of ours must be.
_NEEDED: dict[str, Any] = {
  "tower": "vit", "pool": "tok", "pos": "learned", "cls_pos": True,
  "pre_norm": False, "patch_bias": True, "out_dim": None,
}  # fmt: skip
# Before the tower's tensors in ViTForImageClassification.
_PREFIX = "vit."
_LEFT_OUT = ("pooler.", "classifier.")


def describe(
  config: dict[str, Any], where: str
) -> tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]:
  """Returns "vit", our sections, and our parameters' shapes.

  Args:
    config: the content of config.json; nothing of full size is allocated.
    where: its path, for errors.
  """
  known = {"model_type", *_DEFAULTS, *_PLAIN, *_IDLE}
  hugging_face_config.look(config, where, _PLAIN, known)
  image = hugging_face_config.image_section(_DEFAULTS | config)
  model = {"image": image | {"pool": "tok", "cls_pos": True}}
  shapes = sections.shapes(model, 1, 1, bias=False)
  return "vit", model, {k: v for k, v in shapes.items() if k != "t"}


def tower_alone(stored: Mapping[str, Any], source: str) -> dict[str, Any]:
  """Returns the tensors without the prefix, the pooler and a classifier."""
  stored = {k.removeprefix(_PREFIX): x for k, x in stored.items()}
  if left_out := sorted(k for k in stored if k.startswith(_LEFT_OUT)):
    logging.warning("%s: left out: %s", source, ", ".join(left_out))
  return {k: x for k, x in stored.items() if k not in left_out}


def check(image: dict[str, Any]) -> None:
  """Raises UserError for a tower that ViTModel would compute differently."""
  fields = build.defaults("image", image) | {"tower": "vit"} | image
  for name, value in _NEEDED.items():
    if fields.get(name) != value:
      thing = f"config.model.image.{name}"
      allowed = f"{value!r} in ViTModel, which holds an image tower alone"
      raise errors.UserError(thing, fields.get(name), allowed, sections.ANOTHER)


def write(image: dict[str, Any]) -> dict[str, Any]:
  """Returns the content of config.json."""
  size = {"image_size": image["res"], "patch_size": sections.patch(image)}
  return {
    "architectures": ["ViTModel"], "model_type": "vit", "dtype": "float32",
    **hugging_face_config.sizes("image", image), **size, "qkv_bias": True,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
  }  # fmt: skip


def _table() -> list[Row]:
  block, layer = "img/encoder/blocks", "encoder.layer.{i}"
  patches = "embeddings.patch_embeddings.projection"
  rows = [
    Row(("img/cls",), "embeddings.cls_token", "two_leading"),
    Row(("img/pos",), "embeddings.position_embeddings", "leading"),
    *mapping.linear("img/embed", patches, "patch_torch"),
    *mapping.norm(f"{block}/norm1", f"{layer}.layernorm_before"),
  ]
  for part in ("query", "key", "value"):
    name = f"{layer}.attention.attention.{part}"
    names = f"{name}.weight", f"{name}.bias"
    rows += mapping.heads(f"{block}/attention", part, *names)
  out = f"{layer}.attention.output.dense"
  return [
    *rows,
    *mapping.linear(f"{block}/attention/out", out, "merge"),
    *mapping.norm(f"{block}/norm2", f"{layer}.layernorm_after"),
    *mapping.linear(f"{block}/mlp/fc1", f"{layer}.intermediate.dense"),
    *mapping.linear(f"{block}/mlp/fc2", f"{layer}.output.dense"),
    *mapping.norm("img/encoder/norm", "layernorm"),
  ]


TABLE = _table()
