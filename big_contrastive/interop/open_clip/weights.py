"""The mapping of OpenCLIP's tensors: its own towers, and timm's for images."""

from collections.abc import Sequence

from big_contrastive.interop import mapping
from big_contrastive.interop.mapping import Row
from big_contrastive.interop.open_clip import resnet


def _blocks(ours: str, theirs: str) -> list[Row]:
  a, b = f"{ours}/encoder/blocks", f"{theirs}transformer.resblocks.{{i}}"
  fused = f"{b}.attn.in_proj"
  return [
    *mapping.norm(f"{a}/norm1", f"{b}.ln_1"),
    *mapping.heads(
      f"{a}/attention", "query key value", f"{fused}_weight", f"{fused}_bias"
    ),
    *mapping.linear(f"{a}/attention/out", f"{b}.attn.out_proj", "merge"),
    *mapping.norm(f"{a}/norm2", f"{b}.ln_2"),
    *mapping.linear(f"{a}/mlp/fc1", f"{b}.mlp.c_fc"),
    *mapping.linear(f"{a}/mlp/fc2", f"{b}.mlp.c_proj"),
  ]


def _text_rows(prefix: str, bias: bool) -> list[Row]:
  project = [Row(("txt/project/kernel",), f"{prefix}text_projection")]
  if bias:
    project = mapping.linear("txt/project", f"{prefix}text_projection")
  return [
    Row(("txt/embed/embedding",), f"{prefix}token_embedding.weight"),
    Row(("txt/pos",), f"{prefix}positional_embedding"),
    *_blocks("txt", prefix),
    *mapping.norm("txt/encoder/norm", f"{prefix}ln_final"),
    *project,
    Row(("t",), "logit_scale"),
    Row(("b",), "logit_bias"),
  ]


_NATIVE = [
  Row(("img/embed/kernel",), "visual.conv1.weight", "patch_torch"),
  Row(("img/cls",), "visual.class_embedding"),
  Row(("img/pos",), "visual.positional_embedding"),
  *mapping.norm("img/pre_norm", "visual.ln_pre"),
  *_blocks("img", "visual."),
  *mapping.norm("img/encoder/norm", "visual.ln_post"),
  Row(("img/project/kernel",), "visual.proj"),
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
    tower: the image tower: OpenCLIP's "vit" or "resnet", or "timm"'s ViT.
    custom: whether it is a CustomTextCLIP: text tensors begin with "text.".
    bias: whether the text projection has a bias, and so is a linear layer.
    depths: a ResNet's numbers of blocks.
  """
  towers = {"vit": _NATIVE, "timm": _timm_rows(), "resnet": resnet.rows(depths)}
  return [*towers[tower], *_text_rows("text." if custom else "", bias)]
