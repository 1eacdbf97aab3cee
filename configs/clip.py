"""CLIP: softmax loss, from scratch (arXiv:2103.00020).

  python -m big_contrastive.train --workdir runs/clip \\
    --config configs/clip.py:data=my_pairs,vocab=bpe_simple_vocab_16e6.txt.gz

Arguments: variant (B/16, ..., or CLIP's ResNets: RN50, RN101, RN50x4, RN50x16,
RN50x64), res (224, or the ResNet's), data and eval_data (TFDS names or sources:
see siglip.py), vocab (CLIP's BPE file), smoke. Numbers: the paper's tables 19
and 20 unless marked; [M] known from the paper's text.
"""

from ml_collections import ConfigDict

from configs import common, parsing, sources

# By ResNet: its res, the width of embeddings, and that of the text tower.
RESNETS = {
  "RN50": (224, 1024, 512), "RN101": (224, 512, 512),
  "RN50x4": (288, 640, 640), "RN50x16": (384, 768, 768),
  "RN50x64": (448, 1024, 1024),
}  # fmt: skip


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="B/16", res=0, data="", eval_data="",
    vocab="bpe_simple_vocab_16e6.txt.gz", smoke=False,
  )  # fmt: skip
  res, out_dim, width = RESNETS.get(arg.variant, (224, 512, 512))
  arg.res = arg.res or res
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 32_768
  config.total = "12.8B examples"  # 32 epochs of 400M.
  sources.use_data(config, arg.data, arg.eval_data)
  config.loading = {"threads": 32}
  config.train_image = [  # "A random square crop from resized images".
    ("resize_shortest", {"size": arg.res}), ("random_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.eval_image = [
    ("resize_shortest", {"size": arg.res}), ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.tokenizer = {"kind": "clip_bpe", "path": arg.vocab, "length": 77}
  tower = {"eps": 1e-5, "activation": "quick_gelu", "out_dim": out_dim}
  config.model = {
    "image": {
      "variant": arg.variant, "res": arg.res, "pool": "tok",
      "patch_bias": False, "pre_norm": True,
      "mean": (0.48145466, 0.4578275, 0.40821073),  # openai/CLIP.
      "std": (0.26862954, 0.26130258, 0.27577711),
      **tower,
    },
    "text": {
      "variant": "B", "width": width, "mlp": 4 * width, "heads": width // 64,
      "depth": 12,
      "pool": "eos", "causal": True, "out_bias": False, **tower,
    },
    "scale": 1 / 0.07,
    "dtype": "bfloat16",
  }  # fmt: skip
  if arg.variant in RESNETS and not arg.smoke:
    config.model.image = {
      "tower": "clip_resnet", "variant": arg.variant, "res": arg.res
    }  # fmt: skip
  config.objective = {"name": "pairs", "loss": "softmax", "scale_max": 100.0}
  config.optimizer = {
    "name": "adamw", "lr": 5e-4, "b1": 0.9, "b2": 0.98, "eps": 1e-6,
    "weight_decay": 0.2,
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "2000 steps"}
  # "All weights that are not gains or biases."
  config.decay = [(".*/(scale|bias)|[tb]", 0.0), (".*", 1.0)]
  config.save_every = "1000 steps"
  config.eval_every = "5000 steps"
  if arg.smoke:
    common.use_smoke(config, arg.data, arg.eval_data)
    config.model.text.width = common.WIDTH["mu"]
    config.model.text.update(mlp=128, heads=2, depth=1)
  return config
