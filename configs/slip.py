"""SLIP: CLIP, and SimCLR on two more views of each image.

  python -m big_contrastive.train --workdir runs/slip \\
    --config configs/slip.py:data=my_pairs,vocab=bpe_simple_vocab_16e6.txt.gz

arXiv:2112.12750. Arguments: tower (B/16, S/16, L/16), res (224), batch (4096),
epochs (25), data and eval_data (TFDS names or sources: see siglip.py), vocab
(CLIP's BPE file), quick (some minutes on a CPU: see quick.py), smoke.
`--config.objective.parts.simclr.weight=0` is CLIP alone, on the same batches.
Numbers: the official code, facebookresearch/SLIP at c6faf5d. Unlike it, exp(t)
has no lower bound.
"""

from ml_collections import ConfigDict

from configs import augmentations, common, parsing, quick, sources, towers


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  defaults = dict(
    tower="B/16", res=224, batch=4096, epochs=25, data="", eval_data="",
    vocab="bpe_simple_vocab_16e6.txt.gz", quick=False, smoke=False,
  )  # fmt: skip
  arg = parsing.arguments(argument, **defaults)
  if arg.quick:
    arg = parsing.arguments(argument, **defaults | quick.ARGUMENTS)
  config = ConfigDict()
  config.seed = 0
  config.batch_size = arg.batch
  config.total = f"{arg.epochs} epochs"
  sources.use_data(config, arg.data, arg.eval_data)
  config.loading = {"threads": 32}
  crop = {"size": arg.res, "area": (0.5, 1.0), "as_torchvision": True}
  config.train_image = [("random_resized_crop", crop)]
  config.eval_image = [
    ("resize_shortest", {"size": arg.res}), ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  size = 32 if arg.smoke else arg.res
  config.views = {
    "view": {"ops": augmentations.moco_v2(size, least=0.08), "count": 2}
  }
  config.tokenizer = {"kind": "clip_bpe", "path": arg.vocab, "length": 77}
  config.model = {
    "image": towers.image(arg.tower, arg.res) | {"out_dim": 512},
    "text": {
      "variant": "B", "width": 512, "mlp": 2048, "heads": 8, "depth": 12,
      "pool": "eos", "causal": True, "out_dim": 512, "out_bias": False,
      "eps": 1e-5, "activation": "quick_gelu",
    },
    "heads": {
      "projector": {
        "name": "mlp", "on": "pooled", "depth": 3, "hidden": 4096,
        "out_dim": 256, "norm": True,
      },
    },
    "scale": 1 / 0.07,
    "dtype": "bfloat16",
  }  # fmt: skip
  if config.model.image.get("pool") == "tok":
    config.model.image.update(pos="learned", cls_pos=True)
  config.objective = {
    "name": "mixture",
    "parts": {
      "clip": {"name": "pairs", "loss": "softmax", "scale_max": 100.0},
      # Of the sum of both directions; in SLIP 1 of their mean.
      "simclr": {
        "name": "simclr", "temperature": 0.2 if arg.quick else 0.1,
        "joint": False, "weight": 0.5,
      },
    },
  }  # fmt: skip
  config.optimizer = {
    "name": "adamw", "lr": 3e-3, "b1": 0.9, "b2": 0.98, "eps": 1e-8,
    "weight_decay": 0.1,
  }  # fmt: skip
  config.schedule = {
    "decay": "cosine", "warmup": "1 epochs", "warmup_from": 1e-6 / 3e-3,
    "warmup_includes": "both", "end": 1e-5 / 3e-3,
  }  # fmt: skip
  config.decay = [(".*/(scale|bias)|[tb]", 0.0), (".*", 1.0)]
  config.save_every = "1 epochs"
  config.eval_every = "1 epochs"
  if arg.quick:
    quick.use_pairs(config, arg.data, arg.eval_data)
  if arg.smoke:
    common.use_smoke(config, arg.data, arg.eval_data)
    config.model.image = {"variant": "mu/8", "res": 32, "out_dim": 32}
    config.model.text.update(width=32, mlp=128, heads=2, depth=1)
    config.model.heads.projector.update(hidden=32, out_dim=16)
    config.schedule = {"decay": "cosine", "warmup": "2 steps"}
    config.model.dtype = "float32"
  return config
