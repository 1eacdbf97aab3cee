"""MoCo v1 and v2: a teacher's keys in a queue, without labels.

  python -m big_contrastive.train --workdir runs/moco \\
    --config configs/moco.py:data=folder:photos,eval_data=folder:labeled

arXiv:1911.05722, and 2003.04297 (version=2, the default). Arguments: version
(1, 2), tower (resnet50, resnet18, S/16, ...), res (224), batch (256), epochs
(200), data and eval_data (TFDS names or sources: see siglip.py; eval_data with
labels, for k-NN), small (the authors' notebook for CIFAR-10: resnet18 at 32
pixels, batch 512, 200 epochs, both views as queries), quick (some minutes on a
CPU: see quick.py), smoke.
Numbers: the official code, at 132aea9; of small, the notebook's at f736491. Its
k-NN top-1 is 85.3 %, not reproduced here: of the 128 outputs, where ours is of
the 512 features, and with each epoch's rate an epoch earlier.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {}, version=(2, 1), batch=256, epochs=200
  )
  config = self_supervised.begin(arg)
  first = arg.version == 1
  ops = augmentations.instdisc if first else augmentations.moco_v2
  ops = augmentations.small if arg.small else ops
  config.views = {
    "view": {"ops": ops(32 if arg.smoke else arg.res), "count": 2}
  }
  tower = config.model.image.get("tower")
  if tower in ("resnet", "convnet"):
    # Eight devices normalize each their own part of the batch.
    config.model.image.norm_group = arg.batch // 8
  if tower == "resnet":
    config.model.image.zero_gain = False
  linear = {"name": "mlp", "out_dim": 128, "depth": 1}
  config.model.heads = {
    "projector": linear if first or arg.small else linear | {"depth": 2}
  }
  config.objective = {
    "name": "moco", "temperature": 0.07 if first else 0.2, "queue": 65_536
  }  # fmt: skip
  config.optimizer = {
    "name": "sgd", "lr": 0.03 * config.batch_size / 256, "weight_decay": 1e-4
  }  # fmt: skip
  config.decay = [(".*", 1.0)]
  if first:
    milestones = [f"{arg.epochs * part // 5} epochs" for part in (3, 4)]
    config.schedule = {"decay": "steps", "milestones": milestones}
  else:
    config.schedule = {"decay": "cosine", "every": "1 epochs"}
  if arg.small:
    config.objective.update(
      temperature=0.1, queue=4096, momentum=0.99, symmetric=True
    )
    config.optimizer.weight_decay = 5e-4
    config.model.image.mean = (0.4914, 0.4822, 0.4465)
    config.model.image.std = (0.2023, 0.1994, 0.2010)
  if arg.quick:
    config.objective.update(queue=1280, momentum=0.99, symmetric=True)
  if arg.smoke:
    config.objective.queue = 64
  return self_supervised.finish(config, arg)
