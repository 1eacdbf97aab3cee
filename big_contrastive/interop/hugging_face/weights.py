"""The mapping of tensors of SiglipModel, Siglip2Model and CLIPModel."""

from big_contrastive.interop import mapping
from big_contrastive.interop.mapping import Row


def _tower(ours: str, theirs: str, norm: str) -> list[Row]:
  block, layer = f"{ours}/encoder/blocks", f"{theirs}.encoder.layers.{{i}}"
  rows = mapping.norm(f"{block}/norm1", f"{layer}.layer_norm1")
  for part in ("query", "key", "value"):
    name = f"{layer}.self_attn.{part[0]}_proj"
    rows += mapping.heads(
      f"{block}/attention", part, f"{name}.weight", f"{name}.bias"
    )
  out = f"{layer}.self_attn.out_proj"
  return [
    *rows,
    *mapping.linear(f"{block}/attention/out", out, "merge"),
    *mapping.norm(f"{block}/norm2", f"{layer}.layer_norm2"),
    *mapping.linear(f"{block}/mlp/fc1", f"{layer}.mlp.fc1"),
    *mapping.linear(f"{block}/mlp/fc2", f"{layer}.mlp.fc2"),
    *mapping.norm(f"{ours}/encoder/norm", f"{theirs}.{norm}"),
  ]


_IMAGE, _TEXT = "vision_model.embeddings", "text_model.embeddings"
_HEAD = "vision_model.head"
_PATCH = f"{_IMAGE}.patch_embedding.weight"
_CONVOLUTION = Row(("img/embed/kernel",), _PATCH, "patch_torch")
_SHARED = [
  Row(("img/embed/bias",), f"{_IMAGE}.patch_embedding.bias"),
  Row(("img/pos",), f"{_IMAGE}.position_embedding.weight"),
  *_tower("img", "vision_model", "post_layernorm"),
  Row(("txt/embed/embedding",), f"{_TEXT}.token_embedding.weight"),
  Row(("txt/pos",), f"{_TEXT}.position_embedding.weight"),
  *_tower("txt", "text_model", "final_layer_norm"),
]
_SIGLIP = [
  *_SHARED,
  Row(("img/head/probe",), f"{_HEAD}.probe", "leading"),
  *mapping.heads(
    "img/head/attention",
    "query key value",
    f"{_HEAD}.attention.in_proj_weight",
    f"{_HEAD}.attention.in_proj_bias",
  ),
  *mapping.linear(
    "img/head/attention/out", f"{_HEAD}.attention.out_proj", "merge"
  ),
  *mapping.norm("img/head/norm", f"{_HEAD}.layernorm"),
  *mapping.linear("img/head/mlp/fc1", f"{_HEAD}.mlp.fc1"),
  *mapping.linear("img/head/mlp/fc2", f"{_HEAD}.mlp.fc2"),
  *mapping.linear("txt/project", "text_model.head"),
  Row(("t",), "logit_scale", "leading"),
  Row(("b",), "logit_bias", "leading"),
]
TABLES = {
  "siglip": [_CONVOLUTION, *_SIGLIP],
  # NaFlex: images come as patches.
  "siglip2": [Row(("img/embed/kernel",), _PATCH, "linear"), *_SIGLIP],
  "clip": [
    _CONVOLUTION,
    *_SHARED,
    Row(("img/cls",), f"{_IMAGE}.class_embedding"),
    *mapping.norm("img/pre_norm", "vision_model.pre_layrnorm"),
    Row(("img/project/kernel",), "visual_projection.weight", "linear"),
    Row(("txt/project/kernel",), "text_projection.weight", "linear"),
    Row(("t",), "logit_scale"),
  ],
}
# Older versions saved these constants: 0, 1, 2, ...
CONSTANTS = {f"{_IMAGE}.position_ids", f"{_TEXT}.position_ids"}
