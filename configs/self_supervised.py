"""What the configs over views of images share."""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import common, parsing, quick, small, sources, towers

ARGUMENTS = {
  "data": "", "eval_data": "", "tower": "resnet50", "res": 224, "small": False,
  "quick": False, "smoke": False,
}  # fmt: skip


def arguments(
  argument: str | None, in_small: Any, on_cpu: Any = None, **recipe: Any
) -> Any:
  """Returns the values of an argument.

  Args:
    argument: what follows the colon.
    in_small, on_cpu: what differs in the recipes `small` and `quick`.
    recipe: defaults.

  Raises:
    ValueError: for a wrong argument, see parsing, or two recipes at once.
  """
  defaults = ARGUMENTS | recipe
  asked = parsing.arguments(argument, **defaults)
  if asked.small and asked.quick:
    raise ValueError("argument", argument, "small or quick", "Drop one.")
  if asked.small:
    defaults |= small.ARGUMENTS | in_small
  if asked.quick:
    defaults |= quick.ARGUMENTS | (on_cpu or {})
  return parsing.arguments(argument, **defaults)


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
  if arg.small:
    small.use(config, arg)
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
    quick.shrink(config)
  if not (arg.quick or arg.smoke):
    return config
  if not arg.data:
    split = "train" if arg.smoke else "train[:2560]"
    config.source = common.shapes(split, arg.smoke)
  if arg.eval_data and not arg.data:
    del config.evals.knn.train
  elif arg.smoke and not arg.eval_data:
    # Larger than what it trains on: 81 pictures of ten colors.
    by_color = common.shapes("by_colour", smoke=True) | {"train_size": 4096}
    config.evals = knn(by_color)
  elif not arg.data:
    config.evals = knn(common.shapes("heldout", smoke=False))
    config.eval_every = "10 epochs"
  if arg.smoke or not (arg.data or arg.eval_data):
    config.evals.knn.k = 5
  return config
