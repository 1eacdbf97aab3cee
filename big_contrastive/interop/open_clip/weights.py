"""The mapping of OpenCLIP's tensors: its own towers, and timm's for images."""

from collections.abc import Sequence

from big_contrastive.interop import mapping
from big_contrastive.interop.mapping import Row
from big_contrastive.interop.open_clip import resnet


def _blocks(ours: str, theirs: str) -> list[Row]:
  a, b = f"{ours}/encoder/blocks", f"{theirs}transformer.resblocks.{{i}}"
  return _block(a, b, ("norm1", "attention", "norm2", "mlp"))


def _block(a: str, b: str, names: Sequence[str]) -> list[Row]:
  """The rows of a block: its norm, attention, norm and MLP, by our names."""
  norm1, attention, norm2, mlp = (f"{a}/{name}" for name in names)
  return [
    *mapping.norm(norm1, f"{b}.ln_1"),
    *_attention(attention, f"{b}.attn"),
    *mapping.norm(norm2, f"{b}.ln_2"),
    *mapping.linear(f"{mlp}/fc1", f"{b}.mlp.c_fc"),
    *mapping.linear(f"{mlp}/fc2", f"{b}.mlp.c_proj"),
  ]


def _attention(ours: str, theirs: str, *, fused: bool = True) -> list[Row]:
  """The rows of torch's attention, whose bias is always one tensor."""
  parts, weight = "query key value", f"{theirs}.in_proj_weight"
  *kernel, bias = mapping.heads(ours, parts, weight, f"{theirs}.in_proj_bias")
  if not fused:
    kernel = [
      Row((f"{ours}/{p}/kernel",), f"{theirs}.{p[0]}_proj_weight", "linear")
      for p in parts.split()
    ]
  out = mapping.linear(f"{ours}/out", f"{theirs}.out_proj", "merge")
  return [*kernel, bias, *out]


def _text_rows(prefix: str, bias: bool) -> list[Row]:
  project = [Row(("txt/project/kernel",), f"{prefix}text_projection")]
  if bias:
    project = mapping.linear("txt/project", f"{prefix}text_projection")
  return [
    Row(("txt/embed/embedding",), f"{prefix}token_embedding.weight"),
    Row(("txt/pos",), f"{prefix}positional_embedding"),
    Row(("txt/cls",), f"{prefix}cls_emb"),
    *_blocks("txt", prefix),
    *mapping.norm("txt/encoder/norm", f"{prefix}ln_final"),
    *project,
    Row(("t",), "logit_scale"),
    Row(("b",), "logit_bias"),
  ]


def _native(pool: Sequence[Row]) -> list[Row]:
  return [
    Row(("img/embed/kernel",), "visual.conv1.weight", "patch_torch"),
    Row(("img/cls",), "visual.class_embedding"),
    Row(("img/pos",), "visual.positional_embedding"),
    *mapping.norm("img/pre_norm", "visual.ln_pre"),
    *_blocks("img", "visual."),
    *pool,
    Row(("img/project/kernel",), "visual.proj"),
  ]


def _queries(fused: bool) -> list[Row]:
  pool = "visual.attn_pool"
  return [
    *mapping.norm("img/encoder/norm", f"{pool}.ln_k"),
    Row(("img/head/query",), f"{pool}.query"),
    *mapping.norm("img/head/query_norm", f"{pool}.ln_q"),
    *_attention("img/head/attention", f"{pool}.attn", fused=fused),
    *mapping.norm("img/head/norm", "visual.ln_post"),
  ]


def _decoder() -> list[Row]:
  a, b = "dec/blocks", "text_decoder"
  own = ("attention_norm", "attention", "mlp_norm", "mlp")
  cross = ("cross_norm", "cross", "cross_mlp_norm", "cross_mlp")
  return [
    *_block(a, f"{b}.resblocks.{{i}}", own),
    *_block(a, f"{b}.cross_attn.{{i}}", cross),
    *mapping.norm(f"{a}/memory_norm", f"{b}.cross_attn.{{i}}.ln_1_kv"),
    *mapping.norm("dec/norm", f"{b}.ln_final"),
    Row(("dec/logits/kernel",), f"{b}.text_projection"),
  ]


def _timm_rows() -> list[Row]:
  trunk, a = "visual.trunk", "img/encoder/blocks"
  b, pool = f"{trunk}.blocks.{{i}}", f"{trunk}.attn_pool"
  head, embed = "img/head/attention", f"{trunk}.patch_embed.proj"
  return [
    Row(("img/embed/kernel",), f"{embed}.weight", "patch_torch"),
    Row(("img/embed/bias",), f"{embed}.bias"),
    Row(("img/pos",), f"{trunk}.pos_embed", "leading"),
    *mapping.norm(f"{a}/norm1", f"{b}.norm1"),
    *mapping.heads(
      f"{a}/attention", "query key value",
      f"{b}.attn.qkv.weight", f"{b}.attn.qkv.bias",
    ),
    *mapping.linear(f"{a}/attention/out", f"{b}.attn.proj", "merge"),
    *mapping.norm(f"{a}/norm2", f"{b}.norm2"),
    *mapping.linear(f"{a}/mlp/fc1", f"{b}.mlp.fc1"),
    *mapping.linear(f"{a}/mlp/fc2", f"{b}.mlp.fc2"),
    *mapping.norm("img/encoder/norm", f"{trunk}.norm"),
    Row(("img/head/probe",), f"{pool}.latent", "leading"),
    *mapping.heads(head, "query", f"{pool}.q.weight", f"{pool}.q.bias"),
    *mapping.heads(head, "key value", f"{pool}.kv.weight", f"{pool}.kv.bias"),
    *mapping.linear(f"{head}/out", f"{pool}.proj", "merge"),
    *mapping.norm("img/head/norm", f"{pool}.norm"),
    *mapping.linear("img/head/mlp/fc1", f"{pool}.mlp.fc1"),
    *mapping.linear("img/head/mlp/fc2", f"{pool}.mlp.fc2"),
  ]  # fmt: skip


def table(
  tower: str, custom: bool, bias: bool, depths: Sequence[int] = ()
) -> list[Row]:
  """Returns the rows of a model.

  Args:
    tower: the image tower: OpenCLIP's "vit" or "resnet", or "timm"'s ViT; of
      its ViT with a pooler "queries", or "queries_alike" if what they pool is
      as wide as they are: then torch has one tensor for three.
    custom: whether it is a CustomTextCLIP: text tensors begin with "text.".
    bias: whether the text projection has a bias, and so is a linear layer.
    depths: a ResNet's numbers of blocks.
  """
  towers = {
    "vit": _native(mapping.norm("img/encoder/norm", "visual.ln_post")),
    "queries": _native(_queries(fused=False)),
    "queries_alike": _native(_queries(fused=True)),
    "timm": _timm_rows(),
    "resnet": resnet.rows(depths),
  }
  texts = _text_rows("text." if custom else "", bias)
  return [*towers[tower], *texts, *_decoder()]
