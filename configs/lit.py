"""LiT: a pretrained image tower, locked; BERT learns to read it.

  python -m big_contrastive.train --workdir runs/lit \\
    --config configs/lit.py:init=B_16.npz,data=my_tfds_pairs,vocab=vocab.txt

arXiv:2111.07991. Arguments: variant (B/16), res (224), init (a big_vision
.npz, or a checkpoint of ours, with the image tower), pool (tok, as the AugReg
ViTs have it), data and eval_data (TFDS names or sources: see siglip.py), vocab
(BERT's uncased vocab.txt), cached and width (a folder of embed, and the width
of its vectors, by default the variant's: no image is read), smoke.
The paper's BERT is pretrained; --config.init.txt takes that of a LiT-*.npz.
[M]: known from the paper; [R]: big_vision's configs/proj/image_text.
"""

from ml_collections import ConfigDict

from configs import common, parsing, sources


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="B/16", res=224, init="", pool="tok", data="",
    eval_data="", vocab="vocab.txt", cached="", width=1, smoke=False,
  )  # fmt: skip
  size = arg.variant.partition("/")[0]
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 16_384  # [M]
  config.total = "900M examples"  # [M]
  sources.use_data(config, arg.data, arg.eval_data)
  config.loading = {"threads": 32}
  config.train_image = [("resize", {"size": arg.res}), ("flip_lr", {})]
  config.eval_image = [("resize", {"size": arg.res})]
  config.tokenizer = {  # [R]
    "kind": "bert", "path": arg.vocab, "length": 16, "eos": False
  }  # fmt: skip
  config.model = {
    "image": {"variant": arg.variant, "res": arg.res, "pool": arg.pool},
    "text": {
      "variant": "B", "out_dim": common.WIDTH.get(size, 0),
      "norm": "post", "segments": 2, "pad_id": 0, "eps": 1e-12, "pool": "first",
    },
    "scale": 10.0,  # [R]
    "dtype": "bfloat16",
  }  # fmt: skip
  config.init = {"img": arg.init}
  # No gradient, no optimizer state, no dropout, bits unchanged.
  config.freeze = [("img/.*", True), (".*", False)]
  config.objective = {"name": "pairs", "loss": "softmax"}
  config.optimizer = {
    "name": "adafactor", "lr": 1e-3,  # [M]
    "weight_decay": 0.1,  # The paper's 1e-4 isn't times lr: 1e-4 / 1e-3.
    "clip": 1.0,
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "10000 steps"}  # [M]
  config.save_every = "1000 steps"
  config.eval_every = "5000 steps"
  if arg.smoke:
    common.use_smoke(config, arg.data or arg.cached, arg.eval_data)
    config.init = {"img": arg.init} if arg.init else {}
  if arg.cached:
    width = arg.width if arg.width > 1 else config.model.text.out_dim
    use_cached(config, arg.cached, width)
  return config


def use_cached(config: ConfigDict, parts: str, width: int) -> None:
  """Puts vectors that embed has made in the place of the image tower."""
  if (
    not isinstance(config.get("evals"), ConfigDict) or "shapes" in config.evals
  ):
    config.evals = {}  # Of images, which there are none of.
  config.source = {"name": "cached", "parts": parts}
  config.train_image = config.eval_image = [("vectors", {"size": width})]
  config.model.image = {"tower": "vectors", "width": width}
  config.model.text.out_dim = width
  config.init, config.freeze = {}, [(".*", False)]
