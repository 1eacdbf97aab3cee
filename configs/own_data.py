"""SigLIP on your own images and captions: folders or tars, and a table.

  python -m big_contrastive.train --workdir runs/mine --config \\
    "configs/own_data.py:images=photos,captions=captions.tsv,image=path,caption=text"

Arguments, the first two required: images (folders or tars, with commas),
captions (JSONL, CSV or TSV), image (column of file names, or "{key}.png"),
caption (column), id (column whose equal values are one concept), where
(column=value), join (second table:column); res, patch, width, depth, length
(tokens), steps, batch, lr; eval_images, eval_where (retrieval on other images
or rows); smoke.
"""

import math

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = common.parse(
    argument, images="", captions="", image="image", caption="caption", id="",
    where="", join="", res=64, patch=8, width=128, depth=4, length=16,
    steps=1500, batch=128, lr=2e-3, eval_images="", eval_where="", smoke=False,
  )  # fmt: skip
  if not arg.images or not arg.captions:
    raise ValueError("Give images=FOLDER and captions=TABLE.")
  config = ConfigDict()
  config.seed = 0
  config.batch_size = arg.batch
  config.total = f"{arg.steps} steps"
  optional = {"id": arg.id, "where": arg.where, "join": arg.join}
  table = {
    "name": "table", "captions": arg.captions, "image": arg.image,
    "caption": arg.caption, **{k: v for k, v in optional.items() if v},
  }  # fmt: skip
  config.source = table | {"images": arg.images}
  config.train_image = [
    # Nothing is mirrored: captions may say left and right.
    (
      "random_resized_crop",
      {"size": arg.res, "area": (0.8, 1.0), "aspect": (0.9, 1.1)},
    ),
    ("color_jitter", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}),
  ]
  config.eval_image = [("resize", {"size": arg.res})]
  config.tokenizer = {"kind": "bpe", "vocab_size": 4096, "length": arg.length}
  heads = max(1, arg.width // 32)
  tower = {"width": arg.width, "mlp": 4 * arg.width, "heads": heads}
  config.model = {
    "image": {
      "variant": f"mu/{arg.patch}", "res": arg.res, "pool": "map",
      "depth": arg.depth, **tower,
    },
    "text": {
      "variant": "mu", "pool": "map", "out_dim": arg.width,
      "depth": max(1, arg.depth // 2), **tower,
    },
    "scale": 10.0,
    # The best constant logit for a pair in so many: -10 is right for 22,000.
    "bias": -math.log(arg.batch),
  }  # fmt: skip
  config.objective = {"name": "pairs", "loss": "sigmoid"}
  config.optimizer = {
    "name": "adamw", "lr": arg.lr, "b2": 0.95, "weight_decay": 0.05, "clip": 1.0
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "5%"}
  config.log_every = 50
  config.save_every = "500 steps"
  if arg.eval_images or arg.eval_where:
    other = {"images": arg.eval_images or arg.images}
    other |= {"where": arg.eval_where} if arg.eval_where else {}
    source = table | other
    config.evals = {"own": {"task": "retrieval", "source": source}}
    config.eval_every = "500 steps"
  if arg.smoke:
    config.batch_size, config.total = 16, "4 steps"
    config.log_every = 1
  return config
