"""BYOL: predicts a teacher's projection of the other view, without labels.

  python -m big_contrastive.train --workdir runs/byol \\
    --config configs/byol.py:data=folder:photos,eval_data=folder:labeled

arXiv:2006.07733. Arguments: tower (resnet50, resnet50x2, S/16, ...), res (224),
batch (4096), epochs (300), data and eval_data (TFDS names or sources: see
siglip.py; eval_data with labels, for k-NN), small (solo-learn's recipe for
CIFAR-10: resnet18 at 32 pixels, batch 256, 1000 epochs), quick (some minutes on
a CPU: see quick.py), smoke.
Numbers: the official code, at d8df415; of small, solo-learn's at 9187ea3. Its
linear probe has 92.58 %, not reproduced here; its first convolution pads by 2.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised, small


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {"batch": 256, "epochs": 1000}, batch=4096, epochs=300
  )
  config = self_supervised.begin(arg)
  size = 32 if arg.smoke else arg.res
  views = (on_cifar if arg.small else augmentations.byol)(size)
  config.views = {
    name: {"ops": ops}
    for name, ops in zip(("first", "second"), views, strict=True)
  }
  # Hidden layers have a bias, which the norm after them takes away.
  head = {
    "name": "mlp", "hidden": 4096, "out_dim": 256, "norm": True,
    "bias": arg.small,
  }  # fmt: skip
  config.model.heads = {
    "projector": head, "predictor": head | {"on": "projector"},
  }  # fmt: skip
  # By epochs, up to: lr for a batch of 256, momentum, decay.
  recipes = {
    40: (0.45, 0.97, 1e-6), 100: (0.45, 0.99, 1e-6), 300: (0.3, 0.99, 1e-6),
  }  # fmt: skip
  longest = (0.2, 0.996, 1.5e-6)
  fits = (of for limit, of in recipes.items() if arg.epochs <= limit)
  lr, momentum, decay = next(fits, longest)
  config.objective = {"name": "byol", "momentum": momentum}
  config.optimizer = {
    "name": "lars", "lr": lr * config.batch_size / 256, "weight_decay": decay
  }  # fmt: skip
  config.schedule = {
    "decay": "cosine", "warmup": "10 epochs", "warmup_includes": "start"
  }  # fmt: skip
  if arg.small:
    lr = config.batch_size / 256
    config.optimizer.update(variant="solo", lr=lr, weight_decay=1e-5)
    config.objective.update(momentum=0.99, teacher="copy")
    config.schedule.update(warmup_includes="both", warmup_from=3e-5 / lr)
    config.model.image.update(small.PIXELS)
    if arg.tower.startswith("resnet"):
      config.model.image.zero_gain = False
  return self_supervised.finish(config, arg)


def on_cifar(size: int = 32, method: str = "bicubic") -> tuple[list, list]:
  """Returns solo-learn's two views, which lightly interpolates bilinearly."""
  crop, flip, jitter, gray = augmentations.small(size)
  crop, jitter = [(name, dict(kwargs)) for name, kwargs in (crop, jitter)]
  crop[1]["method"], jitter[1]["saturation"] = method, 0.2
  first = [crop, flip, jitter, gray]
  return first, [*first, ("solarize", {"p": 0.2, "threshold": 128})]
