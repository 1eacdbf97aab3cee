"""What the configs over views of images share."""

import re
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import common, sources

# Of ImageNet's pixels, scaled to [0, 1].
PIXELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ARGUMENTS = {
  "data": "", "eval_data": "", "tower": "resnet50", "res": 224, "small": False,
  "smoke": False,
}  # fmt: skip


def begin(arg: SimpleNamespace) -> ConfigDict:
  """Returns a config of images alone, without method, optimizer and views.

  Args:
    arg: has `ARGUMENTS`, and batch and epochs. The data are TFDS names or
      sources: see siglip.py. eval_data, with labels, asks for k-NN.
  """
  config = ConfigDict()
  config.seed = 0
  config.batch_size = arg.batch
  config.total = f"{arg.epochs} epochs"
  config.source = sources.source(arg.data or "imagenet2012", "train")
  config.loading = {"threads": 32}
  config.eval_image = [
    # 256 of 224, as for ImageNet.
    ("resize_shortest", {"size": round(arg.res * 8 / 7)}),
    ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.model = {"image": image(arg.tower, arg.res), "dtype": "bfloat16"}
  config.save_every = "1 epochs"
  if arg.eval_data:
    of_eval = sources.source(arg.eval_data, "validation")
    config.evals = knn(of_eval, config.source)
    config.eval_every = "10 epochs"
  return config


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


def knn(source: Any, train: Any = None) -> dict[str, Any]:
  """Returns config.evals with k-NN, where `train` votes, or the others do."""
  voters = {} if train is None else {"train": train}
  return {"knn": {"task": "knn", "source": source} | voters}


def finish(config: ConfigDict, arg: SimpleNamespace) -> ConfigDict:
  """Returns the config, made a matter of seconds on a CPU if `smoke` is set."""
  if not arg.smoke:
    return config
  if not arg.eval_data:
    # Larger than what it trains on: 81 pictures of ten colors.
    by_color = common.shapes("by_colour", smoke=True) | {"train_size": 4096}
    config.evals = knn(by_color)
  elif not arg.data:
    del config.evals.knn.train
  config.evals.knn.k = 5
  if not arg.data:
    config.source = common.shapes("train", smoke=True)
  config.eval_image = [("resize", {"size": 32})]
  config.batch_size, config.total = 16, "8 steps"
  config.schedule = {"decay": "cosine", "warmup": "2 steps"}
  config.log_every, config.save_every = 1, "4 steps"
  config.loading = {"threads": 2}
  config.model.dtype = "float32"
  config.model.image = {"variant": "mu/8", "res": 32, "pool": "gap"}
  for head in config.model.heads.values():
    head.update(hidden=32, out_dim=16)
  return config
