"""SimSiam: predicts the projection of the other view, nothing else.

  python -m big_contrastive.train --workdir runs/simsiam \\
    --config configs/simsiam.py:data=folder:photos,eval_data=folder:labeled

arXiv:2011.10566. Arguments: tower (resnet50, resnet18, S/16, ...), res (224),
batch (512), epochs (100), data and eval_data (TFDS names or sources: see
siglip.py; eval_data with labels, for k-NN), small (the paper's recipe for
CIFAR-10 [M]: resnet18 at 32 pixels, 800 epochs), quick (some minutes on a CPU:
see quick.py), smoke.
Numbers: the official code, at a7bc177, unless marked.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {"epochs": 800}, batch=512, epochs=100
  )
  config = self_supervised.begin(arg)
  ops = augmentations.small if arg.small else augmentations.moco_v2
  config.views = {
    "view": {"ops": ops(32 if arg.smoke else arg.res), "count": 2}
  }
  head = {"name": "mlp", "out_dim": 2048, "norm": True, "hidden_bias": False}
  config.model.heads = {
    "projector": head | {
      "hidden": 2048, "depth": 2 if arg.small else 3, "bias": False,
      "last_norm": "plain",
    },
    "predictor": head | {
      "on": "projector", "hidden": 64 if arg.quick else 512,
    },
  }  # fmt: skip
  config.objective = {"name": "simsiam"}
  lr, decay = (0.03, 5e-4) if arg.small else (0.05, 1e-4)
  config.optimizer = {
    "name": "sgd", "lr": lr * config.batch_size / 256, "weight_decay": decay
  }  # fmt: skip
  config.decay = [(".*", 1.0)]
  config.schedule = {"decay": "cosine", "every": "1 epochs"}
  config.schedules = [("predictor/.*", {"decay": "constant"}), (".*", None)]
  return self_supervised.finish(config, arg)
