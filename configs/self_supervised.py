"""What the configs over views of images share."""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import common, quick, sources, towers

ARGUMENTS = {
  "data": "", "eval_data": "", "tower": "resnet50", "res": 224, "small": False,
  "quick": False, "smoke": False,
}  # fmt: skip


def arguments(argument: str | None, small: Any, **recipe: Any) -> Any:
  """Returns the values of an argument; small: what differs in that recipe.

  Raises:
    ValueError: for a wrong argument, see common.parse, or two recipes at once.
  """
  asked, defaults = (argument or "").split(","), ARGUMENTS | recipe
  if {"small", "quick"} <= {*asked}:
    raise ValueError("argument", argument, "small or quick", "Drop one.")
  if "small" in asked:
    defaults |= {"tower": "resnet18", "res": 32, "batch": 512} | small
  if "quick" in asked:
    defaults |= quick.ARGUMENTS
  return common.parse(argument, **defaults)


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
  config.model = {
    "image": towers.image(arg.tower, arg.res),
    "dtype": "bfloat16",
  }
  config.save_every = "1 epochs"
  if arg.eval_data:
    of_eval = sources.source(arg.eval_data, "validation")
    config.evals = knn(of_eval, config.source)
    config.eval_every = "10 epochs"
  return config


def knn(source: Any, train: Any = None) -> dict[str, Any]:
  """Returns config.evals with k-NN, where `train` votes, or the others do."""
  voters = {} if train is None else {"train": train}
  return {"knn": {"task": "knn", "source": source} | voters}


def finish(config: ConfigDict, arg: SimpleNamespace) -> ConfigDict:
  """Returns the config, for minutes or seconds on a CPU if that is asked."""
  if arg.quick:
    quick.use(config)
  if arg.smoke:
    _shrink(config)
  if (arg.quick or arg.smoke) and not arg.data:
    split = "train" if arg.smoke else "train[:2560]"
    config.source = common.shapes(split, arg.smoke)
    if arg.eval_data:
      del config.evals.knn.train
  if not arg.eval_data and (arg.smoke or arg.quick and not arg.data):
    # In seconds: 81 pictures of ten colors, of a larger set than it trains on.
    split, size = ("by_colour", 4096) if arg.smoke else ("heldout", 20_000)
    pictures = common.shapes(split, arg.smoke) | {"train_size": size}
    config.evals, config.eval_every = knn(pictures), "10 epochs"
    config.evals.knn.k = 5
  if arg.smoke:
    config.evals.knn.k = 5
  return config


def _shrink(config: ConfigDict) -> None:
  """Makes a config a matter of seconds on a CPU: a tiny tower, 8 steps."""
  config.eval_image = [("resize", {"size": 32})]
  config.batch_size, config.total = 16, "8 steps"
  config.schedule = {"decay": "cosine", "warmup": "2 steps"}
  config.log_every, config.save_every = 1, "4 steps"
  config.loading = {"threads": 2}
  config.model.dtype = "float32"
  config.model.image = {"variant": "mu/8", "res": 32, "pool": "gap"}
  for head in config.model.heads.values():
    head.update(hidden=32, out_dim=16)
