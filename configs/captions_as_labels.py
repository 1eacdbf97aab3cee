"""What CatLIP and SuperClass share: a classifier instead of a text tower."""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import common, demo, parsing, sources

ARGUMENTS = {
  "variant": "B/16", "res": 224, "data": "", "eval_data": "", "quick": False,
  "smoke": False,
}  # fmt: skip


def arguments(argument: str | None, **recipe: Any) -> SimpleNamespace:
  """Returns the values of an argument; recipe: a recipe's own."""
  return parsing.arguments(argument, **ARGUMENTS, **recipe)


def begin(arg: SimpleNamespace, pool: str) -> ConfigDict:
  """Returns a config without tokenizer, objective and optimizer.

  Args:
    arg: has `ARGUMENTS`. The data are TFDS names or sources: see siglip.py; of
      eval_data the labels are evaluated.
    pool: of the image tower.
  """
  parsing.refuse(arg, "quick", parsing.SIZES)
  config = ConfigDict()
  config.seed = 0
  sources.use_data(config, arg.data, "")
  config.loading = {"threads": 32}
  config.train_image = [
    ("random_resized_crop", {"size": arg.res}), ("flip_lr", {}),
  ]  # fmt: skip
  config.eval_image = [
    ("resize_shortest", {"size": round(arg.res * 8 / 7)}),
    ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.model = {
    "image": {"variant": arg.variant, "res": arg.res, "pool": pool},
    "dtype": "bfloat16",
  }
  config.decay = [(".*/(kernel|embedding)", 1.0), (".*", 0.0)]
  config.save_every = "1000 steps"
  config.eval_every = "5000 steps"
  if arg.eval_data:
    config.evals = evals(sources.source(arg.eval_data, "validation"))
  return config


def evals(pairs: Any) -> dict[str, Any]:
  """Returns config.evals of pairs."""
  return {"labels": {"task": "labels", "source": pairs}}


def finish(config: ConfigDict, arg: SimpleNamespace, by: str) -> ConfigDict:
  """Returns the config, for minutes or seconds on a CPU if that is asked.

  Args:
    config: a recipe's.
    arg: as in `begin`.
    by: the score of zero_shot_labels.
  """
  if not (arg.quick or arg.smoke):
    return config
  small = demo.get_config("smoke" if arg.smoke else None)
  for name in (
    "batch_size", "total", "eval_image", "loading", "log_every", "eval_every",
    "save_every", "schedule",
  ):  # fmt: skip
    if name in small:
      config[name] = small[name]
  # Without mirrored pictures: captions say what is left and right.
  config.train_image = small.train_image
  config.model = {"image": small.model.image, "heads": config.model.heads}
  config.optimizer = small.optimizer
  config.ema = None  # Which would be of the first weights.
  if not arg.data:
    config.source = small.source
  if not arg.eval_data:
    val = common.shapes("heldout" if arg.smoke else "val", arg.smoke)
    held_out = common.shapes("heldout", arg.smoke)
    config.evals = evals(val) | {
      "held_out": {"task": "zero_shot_labels", "source": held_out, "by": by}
    }
  return config
