"""SwAV: views predict each other's cluster, with crops of two sizes.

  python -m big_contrastive.train --workdir runs/swav \\
    --config configs/swav.py:data=folder:photos,eval_data=folder:labeled

arXiv:2006.09882. Arguments: tower (resnet50, resnet50x2, resnet18, ...), res
(224), batch (4096; of up to 512 with a queue, as the paper's of 256), epochs
(400), local (6 crops of 3/7 of the side, 96 pixels, beside two of 224; 0 for
none), data and eval_data (TFDS names or sources: see siglip.py; eval_data with
labels, for k-NN), small (solo-learn's recipe for CIFAR-10: resnet18 at 32
pixels, batch 256, 1000 epochs), quick (some minutes on a CPU: see quick.py),
smoke.
Numbers: the official code, at 06b1b7c.
"""

from types import SimpleNamespace

from ml_collections import ConfigDict

from configs import augmentations, self_supervised, small


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  in_small = {"local": 0, "batch": 256, "epochs": 1000}
  arg = self_supervised.arguments(
    argument, in_small, {"local": 4}, batch=4096, epochs=400, local=6
  )
  config = self_supervised.begin(arg)
  size = 32 if arg.smoke else arg.res
  least = 0.14 if arg.local else 0.08
  config.views = {
    "global": {"ops": augmentations.swav(size, (least, 1.0)), "count": 2}
  }
  if arg.local:
    side = local_size(size)
    ops = augmentations.swav(side, (0.05, least))
    config.views.local = {"ops": ops, "count": arg.local}
  if arg.tower.startswith("resnet"):
    config.model.image.zero_gain = False
  if not arg.small:  # 0.228 is no slip here, but one of the official code.
    config.model.image.std = (0.228, 0.224, 0.225)
  config.model.heads = {
    "projector": {"name": "mlp", "hidden": 2048, "out_dim": 128, "norm": True},
    "prototypes": {"name": "prototypes", "on": "projector", "count": 3000},
  }  # fmt: skip
  config.objective = {"name": "swav"}
  queue = arg.batch <= 512  # Fewer images than prototypes.
  if queue:
    config.objective.queue = 3840 // arg.batch * arg.batch
    config.objective.queue_start = "50 epochs" if arg.small else "15 epochs"
  # Of ImageNet, 313 steps of 4096 or 5005 of 256.
  frozen = "2 epochs" if arg.small else "1 epochs"
  config.start = [("prototypes/.*", frozen), (".*", 0)]
  lr = 0.6 / 256 if queue else 4.8 / 4096
  config.optimizer = {
    "name": "lars", "variant": "solo" if arg.small else "larc",
    "lr": lr * config.batch_size, "weight_decay": 1e-6,
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "end": 1e-3}
  if arg.small:
    config.schedule = {"decay": "cosine"}
    config.views["global"].ops[0][1]["method"] = "bicubic"
    config.model.image.update(small.PIXELS)
  else:  # Also biases and norms.
    config.decay, config.adapt = [(".*", 1.0)], [(".*", True)]
  if arg.small or not queue:
    config.schedule.update(
      warmup="10 epochs", warmup_includes="both",
      warmup_from=5e-5 if arg.small else 0.3 / 4.8,
    )  # fmt: skip
  return finish(config, arg)


def local_size(size: int) -> int:
  """Returns the side of local crops beside those of a size: 96 of 224."""
  return max(16, round(size * 3 / 7 / 16) * 16)  # Whole squares of 16.


def finish(config: ConfigDict, arg: SimpleNamespace) -> ConfigDict:
  """Returns the config, for minutes or seconds on a CPU if that is asked."""
  config = self_supervised.finish(config, arg)
  if arg.quick:
    config.model.heads.prototypes.count = 128
    config.objective = {"name": "swav"}
  if arg.smoke:
    # The tower of other smokes takes images of one size.
    widths = {"widths": [16, 32], "depths": [0, 0]}
    config.model.image = {"tower": "convnet", "res": 32} | widths
    config.model.heads.prototypes.count = 24
    config.objective.queue, config.objective.queue_start = 32, "1 steps"
    config.start = [("prototypes/.*", "2 steps"), (".*", 0)]
  return config
