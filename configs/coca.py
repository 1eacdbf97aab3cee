"""CoCa: a pair loss, and captions, of one model (arXiv:2205.01917).

  python -m big_contrastive.train --workdir runs/coca \\
    --config configs/coca.py:data=my_tfds_pairs

Arguments: variant (L/14, B/32, B/16), res (224), data and eval_data (TFDS names
or sources: see siglip.py), vocab (CLIP's BPE), quick (minutes on a CPU), smoke.
The model is OpenCLIP's coca_ViT-*: it differs from the paper's in its poolers
and in its decoder, whose blocks for the image are whole ones, and its mask of
padding is the right one, not that of the published weights. [M]: known from the
paper, not in a public config.
"""

from ml_collections import ConfigDict

from configs import captioners, parsing

# Width of embeddings, width of the text tower and the decoder.
SIZES = {"L": (768, 768), "B": (512, 512)}


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="L/14", res=224, vocab="bpe_simple_vocab_16e6.txt.gz",
    **captioners.ARGUMENTS,
  )  # fmt: skip
  config = captioners.begin(arg)
  config.batch_size = 65_536  # [M]
  config.total = "500000 steps"  # [M]
  config.train_image = [
    ("random_resized_crop", {"size": arg.res, "area": (0.9, 1.0)}),
  ]  # fmt: skip
  config.eval_image = [
    ("resize_shortest", {"size": arg.res}), ("center_crop", {"size": arg.res}),
  ]  # fmt: skip
  config.tokenizer = {"kind": "clip_bpe", "path": arg.vocab, "length": 76}
  out, width = SIZES.get(arg.variant.partition("/")[0], (768, 768))
  text = {
    "variant": "B", "width": width, "mlp": 4 * width, "heads": width // 64,
    "depth": 12, "eps": 1e-5, "activation": "gelu",
  }  # fmt: skip
  config.model = {
    "image": {
      "variant": arg.variant, "res": arg.res, "pool": "queries", "queries": 255,
      "cls_pos": True, "pre_norm": True, "patch_bias": False, "out_dim": out,
      "eps": 1e-5, "activation": "gelu",
      "mean": (0.48145466, 0.4578275, 0.40821073),  # openai/CLIP.
      "std": (0.26862954, 0.26130258, 0.27577711),
    },
    "text": text | {
      "pool": "cls", "causal": True, "pad_id": 0, "out_dim": out,
      "out_bias": False,
    },
    "decoder": text | {
      "inputs": "text", "cross": "block", "logit_bias": False
    },
    "scale": 1 / 0.07,
    "dtype": "bfloat16",
  }  # fmt: skip
  config.objective = {"name": "coca", "loss": "softmax", "scale_max": 100.0}
  config.optimizer = {
    "name": "adafactor", "lr": 8e-4, "weight_decay": 0.01, "clip": 1.0,  # [M]
  }  # fmt: skip
  config.schedule = {"decay": "linear", "warmup": "2%"}  # [M]
  return captioners.finish(config, arg)
