"""The mapping of tensors of transformers' BLIP."""

from collections.abc import Collection, Mapping

import numpy as np

from big_contrastive.config import errors
from big_contrastive.interop import mapping
from big_contrastive.interop.mapping import Row


def _image() -> list[Row]:
  block, layer = "img/encoder/blocks", "vision_model.encoder.layers.{i}"
  embeddings = "vision_model.embeddings"
  attention = f"{layer}.self_attn"
  return [
    Row(("img/cls",), f"{embeddings}.class_embedding", "two_leading"),
    Row(("img/pos",), f"{embeddings}.position_embedding", "leading"),
    *mapping.linear(
      "img/embed", f"{embeddings}.patch_embedding", "patch_torch"
    ),
    *mapping.norm(f"{block}/norm1", f"{layer}.layer_norm1"),
    *mapping.heads(
      f"{block}/attention", "query key value", f"{attention}.qkv.weight",
      f"{attention}.qkv.bias",
    ),
    *mapping.linear(
      f"{block}/attention/out", f"{attention}.projection", "merge"
    ),
    *mapping.norm(f"{block}/norm2", f"{layer}.layer_norm2"),
    *mapping.linear(f"{block}/mlp/fc1", f"{layer}.mlp.fc1"),
    *mapping.linear(f"{block}/mlp/fc2", f"{layer}.mlp.fc2"),
    *mapping.norm("img/encoder/norm", "vision_model.post_layernorm"),
  ]  # fmt: skip


def _attention(ours: str, theirs: str) -> list[Row]:
  rows = mapping.norm(f"{ours}_norm", f"{theirs}.output.LayerNorm")
  for part in ("query", "key", "value"):
    name = f"{theirs}.self.{part}"
    rows += mapping.heads(ours, part, f"{name}.weight", f"{name}.bias")
  return rows + mapping.linear(f"{ours}/out", f"{theirs}.output.dense", "merge")


def _text(mode: str, theirs: str) -> list[Row]:
  block, layer = "txt/stack/blocks", f"{theirs}.encoder.layer.{{i}}"
  table = f"{theirs}.embeddings"
  return [
    Row(("txt/embed/embedding",), f"{table}.word_embeddings.weight"),
    Row(("txt/pos",), f"{table}.position_embeddings.weight"),
    *mapping.norm("txt/norm", f"{table}.LayerNorm"),
    *_attention(f"{block}/{mode}", f"{layer}.attention"),
    *_attention(f"{block}/cross", f"{layer}.crossattention"),
    *mapping.linear(f"{block}/mlp/fc1", f"{layer}.intermediate.dense"),
    *mapping.linear(f"{block}/mlp/fc2", f"{layer}.output.dense"),
    *mapping.norm(f"{block}/mlp_norm", f"{layer}.output.LayerNorm"),
  ]


_TOLD = "text_decoder.cls.predictions"
_ENCODER = [
  *_image(),
  *mapping.linear("img/project", "vision_proj"),
  *_text("encoder", "text_encoder"),
  *mapping.linear("txt/project", "text_proj"),
  *mapping.linear("txt/match", "itm_head"),
]
_DECODER = [
  *_image(),
  *_text("decoder", "text_decoder.bert"),
  *mapping.linear("txt/head", f"{_TOLD}.transform.dense"),
  *mapping.norm("txt/head_norm", f"{_TOLD}.transform.LayerNorm"),
  Row(("txt/logit_bias",), f"{_TOLD}.bias"),
]
# Copies that older versions saved.
_TIED = {
  f"{_TOLD}.decoder.weight": (
    "text_decoder.bert.embeddings.word_embeddings.weight"
  ),
  f"{_TOLD}.decoder.bias": f"{_TOLD}.bias",
}
# Older versions saved these constants: 0, 1, 2, ...
CONSTANTS = {
  f"{name}.embeddings.position_ids"
  for name in ("text_encoder", "text_decoder.bert")
}


def table(names: Collection[str]) -> list[Row]:
  """Returns the rows of a model with parameters of these flat names."""
  return _DECODER if "txt/logit_bias" in names else _ENCODER


def without_copies(
  stored: Mapping[str, np.ndarray], source: str
) -> dict[str, np.ndarray]:
  """Returns the tensors without constants, and without copies of others.

  Raises:
    UserError: for a copy that differs: logits with a kernel of their own.
  """
  stored = {k: v for k, v in stored.items() if k not in CONSTANTS}
  for copy, name in _TIED.items():
    if copy in stored and name in stored:
      if not np.array_equal(stored[copy], stored[name]):
        allowed, remedy = f"equal to {name}", "Our towers tie the two."
        thing = f"tensors of {source}"
        raise errors.UserError(thing, copy, allowed, remedy)
      del stored[copy]
  return stored
