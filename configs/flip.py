"""FLIP: CLIP on half of the patches, then a short stage on all of them.

  python -m big_contrastive.train --workdir runs/flip \\
    --config configs/flip.py:data=my_tfds_pairs,vocab=vocab.txt
  python -m big_contrastive.train --workdir runs/flip_unmasked \\
    --config configs/flip.py:init=runs/flip,data=my_tfds_pairs

arXiv:2212.00794. Arguments: variant (L/16), res (224), keep (0.5, the fraction
of patches that training sees), init (the masked stage's workdir: asks for the
unmasked stage), data and eval_data (TFDS names or sources: see siglip.py),
vocab (BERT's uncased vocab.txt), smoke.
Numbers: the official config, configs/default.py, unless marked.
"""

from ml_collections import ConfigDict

from configs import common, parsing, sources

IMAGENET = 1_281_167  # Their epochs are of so many examples.


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="L/16", res=224, keep=0.5, init="", data="",
    eval_data="", vocab="vocab.txt", smoke=False,
  )  # fmt: skip
  unmasked = bool(arg.init)
  size = arg.variant.partition("/")[0]
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 65_536
  config.total = f"{(100 if unmasked else 10_000) * IMAGENET} examples"
  sources.use_data(config, arg.data, arg.eval_data)
  config.loading = {"threads": 32}
  config.train_image = [
    ("random_resized_crop", {"size": arg.res, "area": (0.5, 1.0)}),
    ("flip_lr", {}),
  ]
  config.eval_image = [
    ("resize_shortest", {"size": arg.res}), ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.tokenizer = {"kind": "bert", "path": arg.vocab, "length": 32}
  config.model = {
    "image": {
      "variant": arg.variant, "res": arg.res, "pool": "gap",
      "pos": "sincos2d", "keep": 1.0 if unmasked else arg.keep,
      "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    },
    # No mask on the text; width 768 for L/16 [M].
    "text": {
      "variant": "B", "pool": "first", "out_dim": common.WIDTH.get(size, 0)
    },
    "scale": 1 / 0.07,
    "dtype": "bfloat16",
  }  # fmt: skip
  config.objective = {"name": "pairs", "loss": "softmax", "scale_max": 100.0}
  lr = 4e-8 if unmasked else 4e-6  # For a batch of 256.
  config.optimizer = {
    "name": "adamw", "lr": lr * config.batch_size / 256, "b1": 0.9,
    "b2": 0.95, "weight_decay": 0.2,
  }  # fmt: skip
  warmup = f"{(20 if unmasked else 40) * IMAGENET} examples"
  config.schedule = {"decay": "cosine", "warmup": warmup}
  config.decay = [(".*/kernel", 1.0), (".*", 0.0)]
  config.save_every = "1000 steps"
  config.eval_every = "5000 steps"
  if arg.smoke:
    common.use_smoke(config, arg.data, arg.eval_data)
    config.optimizer.lr = 1e-4 if unmasked else 1e-3
  if unmasked:
    config.init = arg.init
    config.tokenizer = {"kind": "init"}
  return config
