"""Vision Transformers in timm's layout, which is also DINO's own.

A state dict in a .safetensors or .pth file, or timm's directory, with
config.json and model.safetensors. It is an image tower with a class token
alone. A state dict says nothing of the preprocessing, for which DINO's is
taken. Our files hold what it lacks in their metadata, which timm doesn't read.
Reading .pth needs torch.
"""

import math
import pathlib
import re
from typing import Any

import numpy as np

from big_contrastive.config import errors, schema
from big_contrastive.interop import (
  files,
  mapping,
  preprocessing,
  sections,
  state_dicts,
)
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.mapping import Row
from big_contrastive.models import build, layers

MAY_LACK: tuple[str, ...] = ("text", "tokenizer")
SUFFIX = state_dicts.SUFFIX

# OpenCLIP's have "visual.trunk." before it.
_NAME = re.compile(rb"(?<![\w.])(module\.)?blocks\.0\.attn\.qkv\.weight")
# What MAE's code adds: see formats/mae.py.
MAE = re.compile(rb"(?<![\w.])(module\.)?decoder_pos_embed")
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# transformers has the second in files of weights that were trained with 1e-6.
EPS = 1e-6, 1e-12
# What a tower of ours must be.
_NEEDED = {
  "pool": "tok", "pos": "learned", "pre_norm": False, "patch_bias": True,
  "eps": EPS, "activation": "gelu", "max_patches": None,
}  # fmt: skip


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a file with the names of a ViT's, or timm's directory."""
  if path.is_dir():
    return is_timm(path / "config.json")
  return state_dicts.holds(path, _NAME) and not state_dicts.holds(path, MAE)


def is_timm(path: pathlib.Path) -> bool:
  """Whether it is a config.json of timm's."""
  return path.is_file() and "architecture" in files.read_json(path)


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the image tower of a file or directory.

  A classifier, head, is left out, with a line in the log; in a file of ours it
  is the tower's last linear layer.

  Raises:
    UserError: for a broken file, and tensors that are missing, unknown or
      misshapen, as those of towers with more parts.
  """
  if path.is_dir():
    stored = files.read_safetensors(path / "model.safetensors")
    about = _configured(files.read_json(path / "config.json"), path)
    section = _described(stored, path) | about["image"]
  else:
    stored, about = state_dicts.read(path)
    # Of ours, the notes tell all.
    given = about.get("image") or _described(stored, path)
    section = schema.section(given, f"metadata of {path}")
  if not section.get("out_dim"):
    stored = state_dicts.without("head", stored, path)
  elif not section.get("out_bias"):
    stored.pop("head.bias", None)
  shapes = sections.shapes({"image": section}, 1, 1, bias=False)
  shapes = {k: v for k, v in shapes.items() if k.startswith("img/")}
  flat = mapping.read(TABLE, stored, shapes, str(path))
  return sections.assembled(
    {"image": section}, flat, image=about.get("eval_image", cropped(section))
  )


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes the state dict of an image tower; heads are left out.

  timm's and DINO's `load_state_dict` take it, where head is the last linear
  layer, or an Identity for a tower without one (num_classes=0).

  Raises:
    UserError: for a tower that theirs would compute differently, a model with a
      text tower or a decoder, and a path that is no .safetensors.
  """
  given = model.model["image"]
  sections.require_tower(given, "vit")
  state_dicts.check(model, path)
  sections.require("image", build.defaults("image", given) | given, _NEEDED)
  flat = state_dicts.tower(model, path.name)
  arrays = mapping.write(TABLE, flat, "a ViT of timm's")
  state_dicts.write(arrays, path, model)


def _described(
  stored: dict[str, np.ndarray], path: pathlib.Path
) -> dict[str, Any]:
  """Fields of config.model.image that names and shapes of tensors tell."""
  name, known = "patch_embed.proj.weight", stored.get("pos_embed")
  first = stored.get(name, np.zeros(0)).shape
  mlp = stored.get("blocks.0.mlp.fc1.weight", np.zeros(0)).shape
  if len(first) != 4 or len(mlp) != 2 or known is None or known.ndim != 3:
    allowed = "that of a ViT, with positions"
    remedy = "Give a file of timm's or DINO's."
    raise errors.UserError(f"{name} of {path}", first, allowed, remedy)
  width, cells = first[0], known.shape[1]
  side = math.isqrt(cells)
  depth = len({k.split(".")[1] for k in stored if k.startswith("blocks.")})
  section = sections.size(width, depth, mlp[0], _heads(width))
  section["variant"] += f"/{first[-1]}"
  return section | {
    "res": side * first[-1], "pool": "tok", "cls_pos": cells != side**2,
    "eps": 1e-6, "activation": "gelu", "mean": _MEAN, "std": _STD,
    "pos_resize": "dino",
  }  # fmt: skip


def _heads(width: int) -> int:
  """The heads of the published size; else they have 64 features."""
  known = (heads for w, _, _, heads in layers.SIZES.values() if w == width)
  return next(known, max(1, width // 64))


def _configured(config: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """What a config.json of timm's tells: fields, and the preprocessing."""
  where = f"{path / 'config.json'}: "
  known = {
    "depth", "embed_dim", "img_size", "in_chans", "mlp_ratio", "num_classes",
    "num_heads", "patch_size", "global_pool", "class_token", "no_embed_class",
    "dynamic_img_size",
  }  # fmt: skip
  given = config.get("model_args") or {}
  sections.unknown(given, known, f"{where}model_args.")
  pool = config.get("global_pool", "token")
  if pool not in ("token", ""):
    allowed = '"token": a class token'
    remedy = "Our tower would pool otherwise."
    raise errors.UserError(f"{where}global_pool", pool, allowed, remedy)
  how = config.get("pretrained_cfg") or {}
  sections.plain(how, {"crop_mode": "center"}, f"{where}pretrained_cfg.")
  *_, res = how.get("input_size", (224,))
  share = how.get("crop_pct") or 0.875  # timm's default.
  size = math.floor(res / share)
  method = how.get("interpolation", "bicubic")
  ops, mean, std = preprocessing.from_open_clip({
    "size": res, "interpolation": method, "mean": how.get("mean", _MEAN),
    "std": how.get("std", _STD),
  })  # fmt: skip
  ops[0][1]["size"] = size
  section = {"mean": mean, "std": std, "pos_resize": "antialias"}
  if "num_heads" in given:
    section["heads"] = given["num_heads"]
  return {"image": section, "eval_image": ops}


def cropped(section: dict[str, Any]) -> list:
  """DINO's preprocessing: 256 to 224, or as much more for another size."""
  res = section["res"]
  how = {"size": round(res * 256 / 224), "method": "bicubic"}
  return [
    ["resize_shortest", how | {"rounding": "down"}],
    ["center_crop", {"size": res, "rounding": "nearest"}],
  ]


def _table() -> list[Row]:
  block, layer = "img/encoder/blocks", "blocks.{i}"
  qkv = f"{layer}.attn.qkv"
  return [
    Row(("img/cls",), "cls_token", "two_leading"),
    Row(("img/pos",), "pos_embed", "leading"),
    *mapping.linear("img/embed", "patch_embed.proj", "patch_torch"),
    *mapping.norm(f"{block}/norm1", f"{layer}.norm1"),
    *mapping.heads(
      f"{block}/attention", "query key value", f"{qkv}.weight", f"{qkv}.bias"
    ),
    *mapping.linear(f"{block}/attention/out", f"{layer}.attn.proj", "merge"),
    *mapping.norm(f"{block}/norm2", f"{layer}.norm2"),
    *mapping.linear(f"{block}/mlp/fc1", f"{layer}.mlp.fc1"),
    *mapping.linear(f"{block}/mlp/fc2", f"{layer}.mlp.fc2"),
    *mapping.norm("img/encoder/norm", "norm"),
    *mapping.linear("img/project", "head"),
  ]


TABLE = _table()
