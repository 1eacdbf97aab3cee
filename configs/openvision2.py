"""OpenVision 2: captions alone, told from a third of an image's tokens.

  python -m big_contrastive.train --workdir runs/openvision2 \\
    --config configs/openvision2.py:data=my_tfds_pairs,vocab=vocab.txt

arXiv:2509.01644. Arguments: variant (L/14), res (84; then 224 or 336), data and
eval_data (TFDS names or sources: see siglip.py), vocab (BERT's vocab.txt),
quick (minutes on a CPU), smoke.
Numbers: the official code, OpenVision's configs/openvision2.py. Unlike it:
logits begin with zeros, and in evaluation the decoder sees all of the tokens,
where theirs are drawn, too.
"""

from ml_collections import ConfigDict

from configs import captioners, parsing

# Its decoders' names, by the image tower's: their L is B elsewhere.
DECODERS = {"L": "B", "H": "L", "B": "M", "S": "S"}


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="L/14", res=84, vocab="vocab.txt", **captioners.ARGUMENTS
  )
  size = arg.variant.partition("/")[0]
  config = captioners.begin(arg)
  config.batch_size = 32_768
  config.total = "12.8B examples"  # 10,000 epochs of ImageNet's size.
  jitter = {"brightness": 0.32, "contrast": 0.32, "saturation": 0.32}
  config.train_image = [
    ("random_resized_crop", {"size": arg.res, "area": (0.4, 1.0)}),
    ("color_jitter", jitter | {"hue": 0.08, "p": 0.8}),
    ("grayscale", {"p": 0.2}),
  ]  # fmt: skip
  config.eval_image = [("resize", {"size": arg.res})]
  config.tokenizer = {"kind": "bert", "path": arg.vocab, "length": 128}
  config.model = {
    "image": {
      "variant": arg.variant, "res": arg.res, "pool": "gap", "pos": "sincos2d"
    },
    "decoder": {
      "variant": DECODERS.get(size, "B"), "depth": 12, "cross": "prefix",
      "positions": False, "logit_bias": False, "embed_std": 0.02,
    },
    "dtype": "bfloat16",
  }  # fmt: skip
  config.objective = {"name": "captions", "keep": 0.35}
  config.optimizer = {
    "name": "adamw", "lr": 8e-6 * 64 * 2, "b1": 0.9, "b2": 0.95,
    "weight_decay": 0.2,
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "51200000 examples"}
  return captioners.finish(config, arg)
