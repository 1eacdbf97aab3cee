"""MoCo v3: a teacher's keys of the whole batch, without labels.

  python -m big_contrastive.train --workdir runs/moco_v3 \\
    --config configs/moco_v3.py:data=folder:photos,eval_data=folder:labeled

arXiv:2104.02057. Arguments: tower (S/16, B/16, resnet50, ...), res (224), batch
(4096), epochs (300), data and eval_data (TFDS names or sources: see siglip.py;
eval_data with labels, for k-NN), small (resnet18 at 32 pixels, batch 512),
quick (some minutes on a CPU: see quick.py), smoke. The patch embedding of a ViT
is frozen.
Numbers: the official code, at c349e6e; of small, a guess.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {}, tower="S/16", batch=4096, epochs=300
  )
  config = self_supervised.begin(arg)
  is_vit = not arg.tower.startswith(("resnet", "convnet"))
  least = 0.08 if is_vit or arg.small else 0.2
  size = 32 if arg.smoke else arg.res
  if arg.small:
    views = [augmentations.small(size)] * 2
  else:
    views = augmentations.moco_v3(size, least)
  config.views = {
    name: {"ops": ops}
    for name, ops in zip(("first", "second"), views, strict=True)
  }
  linear = {
    "name": "mlp", "hidden": 4096, "out_dim": 256, "norm": True,
    "hidden_bias": False, "bias": False,
  }  # fmt: skip
  plain = {"last_norm": "plain"}
  config.model.heads = {
    "projector": linear | plain | {"depth": 3 if is_vit else 2},
    "predictor": linear | {"on": "projector"} | (plain if is_vit else {}),
  }
  config.objective = {
    "name": "moco_v3", "temperature": 0.2 if is_vit or arg.quick else 1.0,
    "momentum": 0.996 if not is_vit and arg.epochs >= 1000 else 0.99,
  }  # fmt: skip
  if is_vit:
    lr, warmup = 1.5e-4, "40 epochs"
    config.optimizer = {"name": "adamw", "b2": 0.999, "weight_decay": 0.1}
    config.decay = [(".*", 1.0)]
    config.freeze = [("img/embed/.*", True), (".*", False)]
    config.model.image.patch_init = "xavier_uniform"
  else:
    lr, warmup = 0.6 if arg.epochs <= 100 else 0.3, "10 epochs"
    decay = 1.5e-6 if arg.epochs >= 1000 else 1e-6
    config.optimizer = {"name": "lars", "weight_decay": decay}
  config.optimizer.lr = lr * config.batch_size / 256
  config.schedule = {
    "decay": "cosine", "warmup": warmup, "warmup_includes": "start"
  }  # fmt: skip
  return self_supervised.finish(config, arg)
