"""SigLIP: sigmoid loss, from scratch (arXiv:2303.15343).

  python -m big_contrastive.train --workdir runs/siglip \\
    --config configs/siglip.py:data=my_tfds_pairs,vocab=c4_en.model
  python -m big_contrastive.train --workdir runs/siglip --config \\
    "configs/siglip.py:data=wds:shards/{000..127}.tar,caption=json:text,vocab=c4_en.model"

Arguments: variant (B/16), res (224), data (a TFDS name, or SOURCE:... with the
source's arguments behind it), eval_data (the same; retrieval is evaluated on
it), vocab (SentencePiece model of 32k c4_en), smoke. [M]: known from the paper,
not in a public config; [D]: derived.
"""

from ml_collections import ConfigDict

from configs import common, parsing, sources


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="B/16", res=224, data="", eval_data="",
    vocab="c4_en.model", smoke=False,
  )  # fmt: skip
  size = arg.variant.partition("/")[0]
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 32_768  # Abstract: 32k is enough.
  config.total = "9B examples"  # [M]
  sources.use_data(config, arg.data, arg.eval_data)
  config.loading = {"threads": 32}
  # Squashed, in training as in evaluation: 74.4 against 76.2 when it's wrong.
  config.train_image = [("resize", {"size": arg.res})]
  config.eval_image = [("resize", {"size": arg.res})]
  config.tokenizer = {
    "kind": "sentencepiece", "path": arg.vocab, "length": 64,
    "lower": True, "canonicalize": True,
  }  # fmt: skip
  config.model = {
    "image": {"variant": arg.variant, "res": arg.res, "pool": "map"},
    "text": {
      "variant": size, "pool": "last", "out_dim": common.WIDTH.get(size, 0)
    },
    "scale": 10.0,  # t' = log 10, b = -10: paper, section 3.2.
    "bias": -10.0,
    "dtype": "bfloat16",
  }  # fmt: skip
  config.objective = {"name": "pairs", "loss": "sigmoid"}
  config.optimizer = {
    "name": "adamw", "lr": 1e-3, "b1": 0.9,
    "b2": 0.95,  # Paper: against spikes at large batches.
    "weight_decay": 0.1,  # [D] The paper's 1e-4 isn't times lr: 1e-4 / 1e-3.
    "clip": 1.0,
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "20000 steps"}  # [M]
  config.decay = [(".*/(kernel|embedding)", 1.0), (".*", 0.0)]
  config.mesh = {"fsdp": 1, "tensor": 1}
  config.save_every = "1000 steps"
  config.eval_every = "5000 steps"
  if arg.smoke:
    common.use_smoke(config, arg.data, arg.eval_data)
  return config
