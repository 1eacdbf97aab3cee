"""What `quick` and `smoke` make of a recipe over views: for a CPU.

`quick` is for some thousand photos, at 32 pixels. The method stays; the tower,
the optimizer, the views and the sizes of heads are its own.
"""

from typing import Any

from configs import common

ARGUMENTS = {"tower": "convnet", "res": 32, "batch": 128, "epochs": 30}


def use(config: Any) -> None:
  """Makes a config a matter of minutes: all that each method has of it."""
  config.model.dtype = "float32"
  for head in config.model.heads.values():
    if "out_dim" in head:
      head.out_dim = 128
    if "hidden" in head:
      head.hidden = min(head.hidden, 256)
  res = config.model.image.res
  # The colors of groceries say much: no gray, and next to no other hue.
  colors = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.02}
  for name, view in config.views.items():
    crop = {"size": res, "area": (0.25, 1.0)}
    if name == "local":
      crop = {"size": res // 2, "area": (0.1, 0.25)}
    view.ops = [
      ("random_resized_crop", crop),
      ("flip_lr", {}),
      ("color_jitter", colors | {"p": 0.8}),
    ]
  config.eval_image = [("resize", {"size": res})]
  for field in ("decay", "adapt"):  # Of the optimizer that goes.
    if field in config:
      del config[field]
  # LARS moves a weight by a small part of its norm a step: too slow for this.
  config.optimizer = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
  config.schedule = {"decay": "cosine", "warmup": "10%"}
  config.loading = {"threads": 2}
  config.log_every, config.save_every = 20, "10 epochs"


def use_pairs(config: Any, data: str, eval_data: str) -> None:
  """Makes a config of views and captions a matter of minutes.

  Args:
    config: a recipe's, with a text tower.
    data, eval_data: its arguments; without them it has the embedded pictures.
  """
  use(config)
  res = config.model.image.res
  config.model.image.update(out_dim=96, pool="gap")
  config.model.text = {
    "variant": "mu", "pool": "mean", "out_dim": 96, "depth": 1, "width": 96,
    "mlp": 384, "heads": 3,
  }  # fmt: skip
  config.tokenizer = {"kind": "bpe", "vocab_size": 4096, "length": 20}
  crop = {"size": res, "area": (0.5, 1.0)}
  config.train_image = [("random_resized_crop", crop)]
  config.eval_every = "10 epochs"
  if not data:
    config.source = common.shapes("train[:2560]", smoke=False)
  if not (data or eval_data):
    held_out = common.shapes("heldout", smoke=False)
    config.evals = {
      "held_out": {"task": "zero_shot", "source": held_out},
      "neighbors": {"task": "knn", "source": held_out, "k": 5},
    }


def shrink(config: Any) -> None:
  """Makes a config a matter of seconds: a tiny tower, 8 steps."""
  config.eval_image = [("resize", {"size": 32})]
  config.batch_size, config.total = 16, "8 steps"
  config.schedule = {"decay": "cosine", "warmup": "2 steps"}
  config.log_every, config.save_every = 1, "4 steps"
  config.loading = {"threads": 2}
  config.model.dtype = "float32"
  config.model.image = {"variant": "mu/8", "res": 32, "pool": "gap"}
  for head in config.model.heads.values():
    if "out_dim" in head:
      head.update(hidden=32, out_dim=16)
