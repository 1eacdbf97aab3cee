"""CMC: an image's lightness against its color, without labels.

  python -m big_contrastive.train --workdir runs/cmc \\
    --config configs/cmc.py:data=folder:photos,eval_data=folder:labeled

arXiv:1906.05849. Arguments: tower (resnet50, resnet50x1, resnet18, convnet;
without a factor of half the width), space (lab, ycbcr, ydbdr), res (224), batch
(128), epochs (240), data and eval_data (TFDS names or sources: see siglip.py;
eval_data with labels, for k-NN), bank (compares with banks, as the paper does,
and not with the batch), small (resnet18 at 32 pixels), quick (some minutes on a
CPU: see quick.py), smoke.
Numbers: the official code, at 7b227be; of small, a guess. Its loss against
banks: bank --config.objective.loss=nce --config.objective.negatives=16384.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {}, batch=128, epochs=240, bank=False, space="lab"
  )
  config = self_supervised.begin(arg)
  crop, flip, *_ = augmentations.small(32 if arg.smoke else arg.res)
  config.views = {"view": {"ops": [crop, flip]}}
  config.model.heads = {}
  config.objective = {"name": "cmc", "temperature": 0.07, "bank": arg.bank}
  config.optimizer = {
    "name": "sgd", "lr": 0.03 * config.batch_size / 128, "weight_decay": 1e-4
  }  # fmt: skip
  config.decay = [(".*", 1.0)]
  milestones = [f"{arg.epochs * part // 6} epochs" for part in (3, 4, 5)]
  config.schedule = {"decay": "steps", "milestones": milestones}
  each = dict(config.model.image)
  config = self_supervised.finish(config, arg)
  if arg.smoke:
    each = {"tower": "convnet", "res": 32, "widths": [16, 32], "depths": [0, 1]}
  config.model.image = {
    "tower": "two_colors", "res": each.pop("res"), "space": arg.space,
    "each": _half(each) | {"out_dim": 16 if arg.smoke else 128},
  }  # fmt: skip
  return config


def _half(each: dict) -> dict:
  """Returns the fields of one of two towers."""
  # It sees colors that are normalized already.
  each = {k: v for k, v in each.items() if k not in ("mean", "std")}
  each.setdefault("tower", "vit")
  if each["tower"] == "convnet":
    return each | {"widths": [width // 2 for width in each["widths"]]}
  if each["tower"] != "resnet":
    return each
  # CMC's ResNets have a linear layer with a bias, and 64 features in the stem.
  own = {"stem_width": 64, "out_bias": True, "zero_gain": False}
  return {"width": 0.5} | each | own
