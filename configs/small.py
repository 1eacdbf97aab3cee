"""What `small` makes of a recipe over views: CIFAR-10, for hours on a GPU.

Each method has its own optimizer, heads and views there.
"""

from types import SimpleNamespace
from typing import Any

from configs import sources

ARGUMENTS = {"tower": "resnet18", "res": 32, "batch": 512}
# CIFAR-10's, as solo-learn has them.
PIXELS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def use(config: Any, arg: SimpleNamespace) -> None:
  """Sets the data, if none are given, and how they are evaluated.

  Pictures are not cropped then, and 200 neighbors vote with a temperature of
  0.1, as in MoCo's notebook and lightly's benchmark.
  """
  config.eval_image = [("resize", {"size": arg.res})]
  config.model.dtype = "float32"
  if not arg.data:
    config.source = sources.source("cifar10", "train")
  if not (arg.data or arg.eval_data):
    test = sources.source("cifar10", "test")
    config.evals = {
      "knn": {"task": "knn", "source": test, "train": config.source}
    }
    config.eval_every = "10 epochs"
  if "evals" in config:
    config.evals.knn.update(train=config.source, k=200, T=0.1)
