"""SimCLR: views against all other views of the batch, without labels.

  python -m big_contrastive.train --workdir runs/simclr \\
    --config configs/simclr.py:data=folder:photos,eval_data=folder:labeled

arXiv:2002.05709, and 2006.10029 (version=2). Arguments: version (1, 2), tower
(resnet50, resnet50x2, resnet18, S/16, ...), res (224), batch (4096), epochs
(100), data and eval_data (TFDS names or sources: see siglip.py; eval_data with
labels, for k-NN), small (the recipe for CIFAR-10: resnet18 at 32 pixels, batch
512, 1000 epochs), quick (some minutes on a CPU: see quick.py), smoke.
Numbers: the official code, at 383d414.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {"epochs": 1000}, version=(1, 2), batch=4096, epochs=100
  )  # fmt: skip
  config = self_supervised.begin(arg)
  ops = augmentations.small if arg.small else augmentations.simclr
  config.views = {
    "view": {"ops": ops(32 if arg.smoke else arg.res), "count": 2}
  }
  # The official code does not normalize pixels.
  config.model.image.mean, config.model.image.std = (0, 0, 0), (1, 1, 1)
  config.model.heads = {
    "projector": {
      "name": "mlp", "depth": 3 if arg.version == 2 else 2, "out_dim": 128,
      "hidden_bias": False, "bias": False, "norm": True, "last_norm": "scale",
    }
  }  # fmt: skip
  config.objective = {
    "name": "simclr",
    "temperature": 0.2 if arg.quick else 0.5 if arg.small else 0.1,
  }  # fmt: skip
  lr = 1.0 if arg.small else 0.3
  config.optimizer = {
    "name": "lars", "variant": "simclr", "lr": lr * config.batch_size / 256,
    "weight_decay": 1e-4,
  }  # fmt: skip
  config.schedule = {
    "decay": "cosine", "warmup": "10 epochs", "warmup_includes": "start"
  }  # fmt: skip
  return self_supervised.finish(config, arg)
