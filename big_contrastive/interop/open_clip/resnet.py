"""OpenCLIP's ModifiedResNet: its vision_cfg and tensors, and ours."""

from collections.abc import Sequence
from typing import Any

from big_contrastive.config import errors
from big_contrastive.interop import mapping
from big_contrastive.interop.mapping import Row
from big_contrastive.models.image import clip_resnet

TOWER = "clip_resnet"
_CHANGES = ("layers", "width", "heads", "res", "out_dim")


def read_image(
  model_cfg: dict[str, Any], cfg: dict[str, Any]
) -> dict[str, Any]:
  """Returns config.model.image of a vision_cfg whose layers are a list."""
  width, head = cfg.get("width", 768), cfg.get("head_width", 64)
  for name, value in (("width", width), ("head_width", head)):
    if not isinstance(value, int) or value < 1:
      remedy = "Is it the config of a ResNet?"
      where = f"vision_cfg.{name}"
      raise errors.UserError(where, value, "a whole number from 1 up", remedy)
  values = {
    "layers": list(cfg["layers"]), "width": width,
    "heads": width * clip_resnet.EXPANSION // head,
    "res": cfg.get("image_size", 224), "out_dim": model_cfg["embed_dim"],
  }  # fmt: skip

  def differs(name: str) -> dict[str, Any]:
    preset = clip_resnet.sized(name) | {"res": None}
    preset["layers"] = list(preset["layers"])
    return {k: v for k, v in values.items() if preset[k] != v}

  nearest = min(clip_resnet.VARIANTS, key=lambda name: len(differs(name)))
  return {"tower": TOWER, "variant": nearest} | differs(nearest)


def write_image(image: dict[str, Any]) -> dict[str, Any]:
  """Returns the vision_cfg of config.model.image, defaults included."""
  size = sizes(image)
  features = size["width"] * clip_resnet.EXPANSION
  return {
    "image_size": size["res"], "layers": list(size["layers"]),
    "width": size["width"], "head_width": features // size["heads"],
    "patch_size": None,
  }  # fmt: skip


def sizes(image: dict[str, Any]) -> dict[str, Any]:
  """Returns layers, width, heads, res and out_dim of config.model.image."""
  changes = {k: image.get(k) for k in _CHANGES}
  return clip_resnet.sized(image["variant"], **changes)


def rows(depths: Sequence[int]) -> list[Row]:
  """Returns the rows of the image tower, by its numbers of blocks."""
  # By our name: theirs, of the convolution and of its norm.
  convolutions = {f"stem/conv{i}": (f"conv{i}", f"bn{i}") for i in (1, 2, 3)}
  for stage, depth in enumerate(depths, 1):
    for j in range(depth):
      ours, theirs = f"layer{stage}/block{j}", f"layer{stage}.{j}"
      for i in (1, 2, 3):
        names = f"{theirs}.conv{i}", f"{theirs}.bn{i}"
        convolutions[f"{ours}/conv{i}"] = names
      names = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
      convolutions[f"{ours}/shortcut"] = names
  table = [Row(("img/pos",), "visual.attnpool.positional_embedding")]
  for ours, (kernel, norm) in convolutions.items():
    name = (f"img/{ours}/conv/kernel",)
    table.append(Row(name, f"visual.{kernel}.weight", "convolution"))
    table += mapping.batch_norm(f"img/{ours}/norm", f"visual.{norm}")
  for part in ("query", "key", "value"):
    name = f"visual.attnpool.{part[0]}_proj"
    table += mapping.heads("img/pool", part, f"{name}.weight", f"{name}.bias")
  return table + mapping.linear("img/project", "visual.attnpool.c_proj")
