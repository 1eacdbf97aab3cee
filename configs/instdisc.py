"""InstDisc: each image against a memory bank of all, without labels.

  python -m big_contrastive.train --workdir runs/instdisc \\
    --config configs/instdisc.py:data=folder:photos,eval_data=folder:labeled

arXiv:1805.01978. Arguments: tower (resnet50, resnet18, S/16, ...), res (224),
batch (256), epochs (200), data and eval_data (TFDS names or sources: see
siglip.py; eval_data with labels, for k-NN), negatives (rows of the bank that
are drawn for an image; 0, the default, for all), loss (softmax or nce), small
(the recipe for CIFAR-10: resnet18 at 32 pixels, batch 128), quick (some minutes
on a CPU: see quick.py), smoke.
Numbers: the official code, at f7cfe29. The paper: loss=nce,negatives=4096.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {"batch": 128}, batch=256, epochs=200, loss="softmax",
    negatives=0,
  )  # fmt: skip
  config = self_supervised.begin(arg)
  ops = augmentations.instdisc(32 if arg.smoke else arg.res)
  if arg.small:
    crop, gray, jitter, _ = ops
    ops = [crop, jitter, gray]
  config.views = {"view": {"ops": ops}}
  if config.model.image.get("tower") == "resnet":
    config.model.image.zero_gain = False
  config.model.heads = {
    "projector": {"name": "mlp", "out_dim": 128, "depth": 1}
  }
  config.objective = {
    "name": "instdisc", "loss": arg.loss,
    "temperature": 0.1 if arg.small or arg.quick else 0.07,
  }  # fmt: skip
  if arg.negatives:
    config.objective.negatives = arg.negatives
  config.optimizer = {
    "name": "sgd", "lr": 0.03 * config.batch_size / (128 if arg.small else 256),
    "weight_decay": 5e-4 if arg.small else 1e-4,
  }  # fmt: skip
  config.decay = [(".*", 1.0)]
  milestones = [f"{arg.epochs * part // 5} epochs" for part in (3, 4)]
  config.schedule = {"decay": "steps", "milestones": milestones}
  return self_supervised.finish(config, arg)
