"""Cap and CapPa: an image tower learns by telling its captions.

  python -m big_contrastive.train --workdir runs/cappa \\
    --config configs/cappa.py:data=my_tfds_pairs,vocab=c4_en.model

arXiv:2306.07915. Arguments: variant (B/16), res (224), parallel (0.75: CapPa;
0: Cap), data and eval_data (TFDS names or sources: see siglip.py), vocab
(SentencePiece model of 32k c4_en), quick (minutes on a CPU), smoke.
Numbers: big_vision's configs/proj/cappa/pretrain.py, which says that it was
never run in full.
"""

from ml_collections import ConfigDict

from configs import captioners, parsing


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="B/16", res=224, parallel=0.75, vocab="c4_en.model",
    **captioners.ARGUMENTS,
  )  # fmt: skip
  config = captioners.begin(arg)
  config.batch_size = 8192
  config.total = "366500 steps"
  config.train_image = config.eval_image = [("resize", {"size": arg.res})]
  config.tokenizer = {
    "kind": "sentencepiece", "path": arg.vocab, "length": 64, "lower": False,
    "pad": "pad",
  }  # fmt: skip
  config.model = {
    "image": {"variant": arg.variant, "res": arg.res, "pool": "gap"},
    "decoder": {
      "variant": arg.variant.partition("/")[0], "depth": 6, "bias": False,
      "parallel": arg.parallel > 0,
    },
    "dtype": "bfloat16",
  }  # fmt: skip
  config.objective = {
    "name": "captions",
    "parallel": arg.parallel,
    "weigh": "caption",
  }
  config.optimizer = {
    "name": "adafactor", "lr": 1e-3, "b2_cap": 0.999, "clip": 1.0,
    "weight_decay": 0.1,  # Its 1e-4 isn't times lr: 1e-4 / 1e-3.
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "10000 steps"}
  return captioners.finish(config, arg)
