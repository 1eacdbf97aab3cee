"""MAE: a ViT that sees a quarter of the patches, without labels.

  python -m big_contrastive.train --workdir runs/mae \\
    --config configs/mae.py:data=folder:photos,eval_data=folder:labeled

arXiv:2111.06377. Arguments: tower (B/16, L/16, ...), res (224), batch (4096),
epochs (800), data and eval_data (TFDS names or sources: see siglip.py;
eval_data with labels, for k-NN and pictures), quick (some minutes on a CPU: see
quick.py), smoke.
Numbers: the official code, at efb2a80.
"""

from ml_collections import ConfigDict

from configs import augmentations, self_supervised


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = self_supervised.arguments(
    argument, {}, {"tower": "Ti/4"}, tower="B/16", batch=4096, epochs=800
  )
  if arg.small:
    remedy = "quick is for images of 32 pixels."
    raise ValueError("argument", "small", "quick or smoke", remedy)
  config = self_supervised.begin(arg)
  if "tower" in config.model.image:
    remedy = "MAE leaves patches out."
    raise ValueError("tower", arg.tower, "a ViT like B/16", remedy)
  if "heads" in config.model.image:  # Those of MoCo v3's S/16.
    del config.model.image.heads
  size = 32 if arg.smoke else arg.res
  config.views = {"view": {"ops": augmentations.mae(size)}}
  config.model.image.pos = "sincos2d_mae"
  config.model.image.patch_init = "xavier_uniform"
  config.model.heads = {"decoder": {"name": "patch_decoder"}}
  config.objective = {"name": "mae", "mask": 0.75}
  config.optimizer = {
    "name": "adamw", "b2": 0.95, "weight_decay": 0.05,
    "lr": 1.5e-4 * config.batch_size / 256,
  }  # fmt: skip
  # As timm: all but vectors, of which class and mask token are none there.
  config.decay = [(".*/kernel|img/cls|decoder/mask_token", 1.0), (".*", 0.0)]
  config.schedule = {
    "decay": "cosine", "warmup": "40 epochs", "warmup_includes": "start"
  }  # fmt: skip
  config = self_supervised.finish(config, arg)
  if arg.quick or arg.smoke:
    _use_cpu(config, arg.smoke)
  if "evals" in config:
    source = config.evals.knn.source
    config.evals.pictures = {"task": "reconstruction", "source": source}
  return config


def _use_cpu(config: ConfigDict, smoke: bool) -> None:
  """Makes tower and decoder small; the views stay without other colors."""
  config.views.view.ops = config.views.view.ops[:2]
  small = {"width": 32, "depth": 1} if smoke else {"width": 64, "depth": 2}
  config.model.heads.decoder = {"name": "patch_decoder", "heads": 2} | small
  image = config.model.image
  image.update(pool="tok", pos="sincos2d_mae", patch_init="xavier_uniform")
  if not smoke:
    image.update(width=128, depth=6, mlp=512, heads=4)
