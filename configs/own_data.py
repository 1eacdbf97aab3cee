"""Two small towers on your own images and captions.

  python -m big_contrastive.train --workdir runs/mine --config \\
    "configs/own_data.py:images=photos,captions=captions.tsv,image=path,caption=text"
  python -m big_contrastive.train --workdir runs/mine --config \\
    "configs/own_data.py:data=wds:shards/{000..012}.tar,eval_data=wds:val.tar"

Where the pairs are: images (folders or tars, with commas) and captions (JSONL,
CSV or TSV) with image (column of file names, or "{key}.png"), where
(column=value) and join (second table:column); or data (wds:TARS, parquet:FILES,
tfds:NAME, folder:PHOTOS, ..., other arguments of the source behind it). Of
both: caption (column, or what the source calls so), id (column whose equal
values are one concept), split. kind: "drawings", which have everything in its
place, or "photos", which show things from either side, anywhere, and are
evaluated on their middle, four fifths of each side. Sizes: res (a multiple of
8, of 16 for photos), width (of embeddings; layers are in proportion), depth (of
the last stage), length (tokens), steps, batch, lr. Retrieval on other pairs:
eval_images, eval_where, eval_data, eval_split. And smoke. The towers are small,
for thousands of pairs and ten minutes on two cores: convolutions learn from few
what a ViT does not.
"""

from ml_collections import ConfigDict

from configs import parsing, sources


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  defaults = dict(
    images="", captions="", data="", image="", caption="", id="", where="",
    join="", split="", res=32, width=128, depth=1, length=16, steps=2000,
    batch=128, lr=2e-3, kind=("drawings", "photos"), eval_images="",
    eval_where="", eval_data="", eval_split="", smoke=False,
  )  # fmt: skip
  arg = parsing.arguments(argument, **defaults)
  if photos := arg.kind == "photos":
    arg = parsing.arguments(argument, **defaults | {"res": 64})
  config = ConfigDict()
  config.seed = 0
  config.batch_size = arg.batch
  config.total = f"{arg.steps} steps"
  config.source = sources.pairs(arg, arg.data, arg.images, arg.where, arg.split)
  crop = {"size": arg.res, "area": (0.2 if photos else 0.7, 1.0)}
  # Captions of drawings may say left and right.
  mirror = [("flip_lr", {})] if photos else []
  strength = 0.3 if photos else 0.4
  colors = dict.fromkeys(("brightness", "contrast", "saturation"), strength)
  config.train_image = [
    ("random_resized_crop", crop), *mirror, ("color_jitter", colors),
  ]  # fmt: skip
  # What a photo shows is then as large as in the crops, about 4/5 of the side
  # (arXiv:1906.06423).
  middle = [
    ("resize_shortest", {"size": arg.res * 5 // 4}),
    ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.eval_image = middle if photos else [("resize", {"size": arg.res})]
  config.tokenizer = {"kind": "bpe", "vocab_size": 4096, "length": arg.length}
  # In sixteenths of the embedding's width.
  width, stages = arg.width, (3, 6, 12, 20) if photos else (4, 12, 24)
  config.model = {
    "image": {
      "tower": "convnet", "res": arg.res, "out_dim": width,
      "pool": "gap" if photos else "flat",
      "widths": [max(1, width * n // 16) for n in stages],
      "depths": [1] * (len(stages) - 1) + [arg.depth],
    },
    "text": {
      "variant": "mu", "pool": "mean", "out_dim": width, "width": width,
      "depth": 1, "mlp": 4 * width, "heads": max(1, width // 32),
    },
    "scale": 10.0,
  }  # fmt: skip
  # It learns faster from few pairs than sigmoid does.
  config.objective = {"name": "pairs", "loss": "softmax", "scale_max": 100.0}
  config.optimizer = {
    "name": "adamw", "lr": arg.lr, "b2": 0.95, "weight_decay": 0.1, "clip": 1.0
  }  # fmt: skip
  # Most tokens are rare, and seen in few steps.
  config.lr_mult = [("txt/embed/.*", 5.0), (".*", 1.0)]
  config.schedule = {"decay": "cosine", "warmup": "5%"}
  config.log_every = 50
  config.save_every = "500 steps"
  if arg.eval_images or arg.eval_where or arg.eval_data or arg.eval_split:
    source = sources.pairs(
      arg, arg.eval_data or arg.data, arg.eval_images or arg.images,
      arg.eval_where or arg.where, arg.eval_split,
    )  # fmt: skip
    config.evals = sources.retrieval(source)
    config.eval_every = "500 steps"
  if arg.smoke:
    config.batch_size, config.total = 16, "4 steps"
    config.log_every = 1
  return config
