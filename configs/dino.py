"""DINO: a student follows its own average, with crops of two sizes.

  python -m big_contrastive.train --workdir runs/dino \\
    --config configs/dino.py:data=folder:photos,eval_data=folder:labeled

arXiv:2104.14294. Arguments: tower (S/16, B/16, resnet50, ...), res (224), batch
(512; the official code has 1024 for 300 epochs), epochs (100; from 300 on with
a teacher's temperature that rises), local (8 crops of 3/7 of the side, 96
pixels, beside two of 224; 0 for none), data and eval_data (TFDS names or
sources: see siglip.py; eval_data with labels, for k-NN), small (solo-learn's
recipe for CIFAR-10: resnet18 at 32 pixels, batch 256, 1000 epochs), quick (some
minutes on a CPU: see quick.py), smoke.
Numbers: the official code, at 7c446df; of small, solo-learn's at 07f8c3b.
"""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import augmentations, byol, self_supervised, small, swav


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  in_small = {"local": 0, "batch": 256, "epochs": 1000}
  arg = self_supervised.arguments(
    argument, in_small, {"local": 4}, tower="S/16", batch=512, epochs=100,
    local=8,
  )  # fmt: skip
  config = self_supervised.begin(arg)
  is_vit = not arg.tower.startswith(("resnet", "convnet"))
  config.views = views(arg, 0.4 if is_vit and arg.local else 0.14)
  head = {"name": "dino", "out_dim": 65_536, "hidden": 2048}
  config.model.heads = {"projector": head}
  config.objective = {
    "name": "dino", "momentum": 0.9995 if arg.batch <= 256 else 0.996,
  }  # fmt: skip
  if arg.epochs >= 300:
    config.objective.final_teacher_temperature = 0.07
    config.objective.temperature_warmup = f"{50 if arg.small else 30} epochs"
    config.model.heads.projector.gain = arg.tower.startswith("S/")
  lr = (0.3 if arg.small else 5e-4 if is_vit else 0.03) * arg.batch / 256
  config.schedule = {
    "decay": "cosine", "warmup": "10 epochs", "warmup_includes": "both",
    "end": 1e-6 / lr,
  }  # fmt: skip
  if arg.small:
    config.model.heads.projector.out_dim = 4096
    config.optimizer = {"name": "lars", "variant": "solo", "weight_decay": 1e-6}
    config.schedule.update(warmup_from=3e-5 / lr, end=0.0)
    config.model.image.update(small.PIXELS)
  elif is_vit:
    config.model.image.update(
      pos="learned", cls_pos=True, pos_resize="dino", init="trunc_normal",
      patch_init="torch", drop_path=0.1,
    )  # fmt: skip
    if arg.tower.startswith("S/"):
      config.model.image.heads = 6
    config.optimizer = {
      "name": "adamw", "b2": 0.999, "weight_decay": 0.04,
      "final_weight_decay": 0.4, "clip_each": 3.0,
    }  # fmt: skip
    # All that has two dimensions in the official code.
    wide = "(.*/(kernel|embedding)|img/(pos|cls)|projector/gain)"
    config.decay = [(wide, 1.0), (".*", 0.0)]
  else:
    config.optimizer = {"name": "sgd", "weight_decay": 1e-4, "clip_each": 3.0}
  if arg.tower.startswith("resnet"):
    config.model.image.zero_gain = False
  config.optimizer.lr = lr
  config.start = [("projector/(last|gain).*", "1 epochs"), (".*", 0)]
  return finish(config, arg)


def views(arg: SimpleNamespace, split: float) -> dict[str, Any]:
  """Returns config.views; split: between the areas of local and global."""
  size = 32 if arg.smoke else arg.res
  side = swav.local_size(size)
  *both, local = augmentations.dino(size, side, split)
  first, second = byol.on_cifar(size) if arg.small else both
  made = {"first": {"ops": first}, "second": {"ops": second}}
  if arg.local:
    made["local"] = {"ops": local, "count": arg.local}
  return made


def finish(config: ConfigDict, arg: SimpleNamespace) -> ConfigDict:
  """Returns the config, for minutes or seconds on a CPU if that is asked."""
  config = self_supervised.finish(config, arg)
  if arg.quick:
    config.model.heads.projector.update(out_dim=1024, bottleneck=64)
    config.objective.momentum = 0.97
  if arg.smoke:
    config.model.heads.projector.update(out_dim=24, bottleneck=8)
    config.start = [("projector/last.*", "2 steps"), (".*", 0)]
  return config
