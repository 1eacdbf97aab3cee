"""Image towers of configs over views, by name."""

import re
from typing import Any

# Of ImageNet's pixels, scaled to [0, 1].
PIXELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def image(tower: str, res: int) -> dict[str, Any]:
  """Returns config.model.image: "resnet50", "resnet50x2", "S/16", "convnet".

  ResNets of up to 64 pixels have the stem of CIFAR; a convnet is for CPUs.
  """
  if tower == "convnet":
    sizes = {"widths": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
    return {"tower": tower, "res": res} | sizes | PIXELS
  match = re.fullmatch(r"resnet(\d+)(?:x(\d))?", tower)
  if match is None:
    vit = {
      "variant": tower, "res": res, "pool": "tok", "pos": "sincos2d_moco",
      "activation": "gelu",
    }  # fmt: skip
    # MoCo v3's ViT-S has twice the usual heads.
    more = {"heads": 12} if tower.startswith("S/") else {}
    return vit | more | PIXELS
  resnet = {"tower": "resnet", "depth": int(match[1]), "res": res}
  stem = "cifar" if res <= 64 else "imagenet"
  width = {"width": int(match[2])} if match[2] else {}
  return resnet | width | {"stem": stem, "zero_gain": True} | PIXELS
