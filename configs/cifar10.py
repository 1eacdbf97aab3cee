"""lightly's benchmark: methods alike on CIFAR-10, in some hours on a GPU.

  python -m big_contrastive.train --workdir runs/cifar10 \\
    --config configs/cifar10.py:method=simclr

Arguments: method (byol, moco, simclr, simsiam), batch (128), epochs (200), data
and eval_data (TFDS names or sources, the latter with labels; without both,
CIFAR-10's), smoke.
Numbers: lightly at e8d317f, benchmarks/cifar10_benchmark.py of its docs. There,
k-NN top-1 in percent, the best of all epochs; none was reproduced here, where
the last epoch's counts:

  epochs, batch  byol  moco  simclr  simsiam
  200, 128       86.9  83.8    84.7     81.9
  200, 512       86.8  84.7    84.8     76.4
  800, 512       91.0  89.9    87.9     90.4

MoCo's second direction has no keys of the first's in the same step, as theirs.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import augmentations, byol, parsing, self_supervised, small


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, method=tuple(METHODS), batch=128, epochs=200, data="",
    eval_data="", smoke=False,
  )  # fmt: skip
  vars(arg).update(small.ARGUMENTS | vars(arg), small=True, quick=False)
  config = self_supervised.begin(arg)
  config.model.image.zero_gain = False
  config.views = {"view": {"ops": augmentations.small(), "count": 2}}
  loss = METHODS[arg.method](config)
  # Their losses are means of both directions. SGD takes the same steps of a
  # loss so much larger with a rate as much smaller and a decay as much larger.
  scale = 1 if arg.method == "simsiam" else arg.batch / 128
  config.optimizer = {
    "name": "sgd", "lr": 0.06 * scale / loss, "weight_decay": 5e-4 * loss
  }  # fmt: skip
  config.decay = [(".*", 1.0)]
  config.schedule = {"decay": "cosine", "every": "1 epochs"}
  return self_supervised.finish(config, arg)


# Each sets what the method is, and returns our loss over theirs.
def _byol(config: Any) -> int:
  first, second = byol.on_cifar(method="bilinear")
  config.views = {"first": {"ops": first}, "second": {"ops": second}}
  head = NORMED | {"hidden": 1024, "out_dim": 256}
  predictor = head | {"on": "projector"}
  config.model.heads = {"projector": head, "predictor": predictor}
  config.objective = {
    "name": "byol", "momentum": 0.99, "schedule": "constant", "teacher": "copy"
  }  # fmt: skip
  return 4  # 4 - 2 cos - 2 cos for -(cos + cos) / 2.


def _moco(config: Any) -> int:
  config.model.image.norm_group = config.batch_size // 8
  projector = {"name": "mlp", "hidden": 512, "out_dim": 128}
  config.model.heads = {"projector": projector}
  config.objective = {
    "name": "moco", "temperature": 0.1, "momentum": 0.99, "symmetric": True,
    "queue": 8192 if config.batch_size > 128 else 4096,
  }  # fmt: skip
  return 2


def _simclr(config: Any) -> int:
  head = {"hidden": 512, "out_dim": 128, "bias": False, "last_norm": "batch"}
  config.model.heads = {"projector": NORMED | head}
  config.objective = {"name": "simclr", "temperature": 0.5}
  return 2


def _simsiam(config: Any) -> int:
  config.views.view.ops = augmentations.small(least=0.2)
  head = NORMED | {"out_dim": 2048}
  last = {"hidden": 2048, "bias": False, "last_norm": "batch"}
  predictor = head | {"on": "projector", "hidden": 512}
  config.model.heads = {"projector": head | last, "predictor": predictor}
  config.objective = {"name": "simsiam"}
  return 1


NORMED = {"name": "mlp", "norm": True, "hidden_bias": False}
METHODS = {
  "simclr": _simclr, "byol": _byol, "moco": _moco, "simsiam": _simsiam
}  # fmt: skip
