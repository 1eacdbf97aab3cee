"""CPC: patches of one image, predicted from those above them, without labels.

  python -m big_contrastive.train --workdir runs/cpc \\
    --config configs/cpc.py:data=folder:photos,eval_data=folder:labeled

arXiv:1807.03748, and 1905.09272 (version=2: four directions, layer norms).
Arguments: version (1, 2), grid (7), tower (of a patch: resnet101, resnet50,
...), res (256), batch (512), epochs (200), data and eval_data (TFDS names or
sources: see siglip.py; eval_data with labels, for k-NN), small (CIFAR-10:
version 2, 5 x 5 patches of 10 in 30 pixels, batch 16, 500 epochs; resnet18 for
a wide ResNet-28-2), quick (some minutes on a CPU: see quick.py), smoke. STL-10:
tower=resnet50,res=64,batch=32,epochs=300.
No official code is public. The rate, and the numbers of small and STL-10, are
those of CPCV2-PyTorch, at c39c85a, and Greedy InfoMax, at 22d17e4; crops of 256
of 300 pixels, 7 x 7 patches and the batch v1's; the epochs a guess. version=2
drops colors and moves patches (but for small); its other augmentations of
single patches are left out, v1's gray images and moved patches, too.
"""

from ml_collections import ConfigDict

from configs import self_supervised

SMALL = {"version": 2, "grid": 5, "res": 30, "batch": 16, "epochs": 500}
# A convnet of four stages needs patches of 16 pixels, 5 x 5 in 48.
ON_CPU = {"grid": 5, "res": 48}
# The side of images of which a view is a crop, by that of the view.
_SIDES = {30: 32, 64: 96}


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, SMALL, ON_CPU, version=(1, 2), grid=7, tower="resnet101", res=256,
    batch=512, epochs=200,
  )  # fmt: skip
  if arg.smoke:  # Patches of 16 pixels, and one step: see quick.shrink.
    arg.res, arg.grid = 32, 3
  config = self_supervised.begin(arg)
  side = _SIDES.get(arg.res, round(arg.res * 300 / 256))
  whole = ("resize_shortest", {"size": side})
  crop = ("random_crop", {"size": arg.res, "padding": 2 if arg.small else 0})
  config.views = {"view": {"ops": [whole, crop, ("flip_lr", {})]}}
  config.eval_image = [whole, ("center_crop", {"size": arg.res})]
  config.model.heads = {}
  config.objective = {"name": "cpc"}
  config.optimizer = {
    "name": "adamw", "lr": 2e-4, "b2": 0.999, "weight_decay": 0.0
  }  # fmt: skip
  config.schedule = {"decay": "constant"}
  config = self_supervised.finish(config, arg)
  # Of the tower, which sees patches.
  patch = config.model.image.to_dict()
  patch.pop("res")
  if patch.get("tower") == "resnet":
    patch["stages"] = 3
    # Patches of 64 pixels are ImageNet's.
    patch["stem"] = "cifar" if arg.res <= 64 else "imagenet"
    patch["norm"] = "none" if arg.version == 1 else "layer"
  elif patch.get("tower") == "convnet":
    # As many channels as a CPU has time for.
    patch |= {"widths": [24, 48, 96, 192], "norm": "layer"}
  config.model.image = {
    "tower": "patches", "res": arg.res, "grid": arg.grid, "patch": patch
  }  # fmt: skip
  if arg.version == 2 and not arg.small:
    side = 2 * arg.res // (arg.grid + 1)
    config.model.image.update(drop_colors=1.0, jitter=round(side / 16))
  directions = 4 if arg.version == 2 else 1
  context = {"steps": arg.grid - 2, "directions": directions}
  if arg.quick or arg.smoke:
    context |= {"depth": 2, "hidden": 64}
  config.model.heads.context = {"name": "context", **context}
  return config
