"""The demo: two small towers on the embedded data set `shapes`, in minutes.

  make demo

Compositions of color and shape that training never sees are classified among
all compositions. Arguments: short (a minute, for CI), smoke.
"""

from ml_collections import ConfigDict

from configs import common, parsing

PROMPTS = ["{c}", "a {c}", "a picture of a {c}"]


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(argument, short=False, smoke=False)
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 128
  config.total = "150 steps" if arg.short else "900 steps"
  config.source = common.shapes("train", smoke=False)
  config.train_image = [
    ("resize", {"size": 48}), ("random_crop", {"size": 48, "padding": 3}),
  ]  # fmt: skip
  config.eval_image = [("resize", {"size": 48})]
  config.tokenizer = {"kind": "bpe", "vocab_size": 512, "length": 20}
  config.model = {
    "image": {
      "tower": "convnet", "res": 48, "out_dim": 96,
      "widths": [32, 64, 128, 160], "depths": [1, 1, 1, 1],
    },
    "text": {
      "variant": "mu", "pool": "mean", "out_dim": 96, "depth": 1,
      "width": 96, "mlp": 384, "heads": 3,
    },
    "scale": 10.0,
  }  # fmt: skip
  # It learns faster from few pairs than sigmoid does.
  config.objective = {"name": "pairs", "loss": "softmax", "scale_max": 100.0}
  config.optimizer = {
    "name": "adamw", "lr": 3e-3, "b2": 0.95, "weight_decay": 0.05, "clip": 1.0
  }  # fmt: skip
  # Most tokens are rare, and seen in few steps.
  config.lr_mult = [("txt/embed/.*", 5.0), (".*", 1.0)]
  config.schedule = {"decay": "cosine", "warmup": "5%"}
  config.log_every = 50
  config.eval_every = "450 steps"
  config.save_every = "150 steps"
  held_out = common.shapes("heldout", smoke=False)
  config.evals = {
    "held_out": {"task": "zero_shot", "source": held_out, "templates": PROMPTS},
    "val": {"task": "retrieval", "source": common.shapes("val", smoke=False)},
    "held_out_pictures": {
      "task": "gallery", "source": held_out, "texts": "classes"
    },
  }  # fmt: skip
  if arg.smoke:
    common.use_smoke(config)
    config.model.image = {
      "tower": "convnet", "res": 32, "out_dim": 32, "widths": [8, 16],
      "depths": [1, 1],
    }  # fmt: skip
    config.model.text.update(width=32, depth=1, mlp=128, heads=2)
  return config
