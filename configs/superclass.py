"""SuperClass: a caption's tokens are labels, rare ones weighing more.

  python -m big_contrastive.train --workdir runs/superclass \\
    --config configs/superclass.py:data=my_tfds_pairs

arXiv:2411.03313. Arguments: variant (B/16, L/16, L/14), res (224), data and
eval_data (TFDS names or sources: see siglip.py), vocab (CLIP's BPE), quick
(minutes on a CPU), smoke.
Numbers: the official code, superclass at 90b761f, 512M examples at 16k. Unlike
it: the classifier's kernel begins with zeros.
"""

from ml_collections import ConfigDict

from configs import captions_as_labels


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = captions_as_labels.arguments(
    argument, vocab="bpe_simple_vocab_16e6.txt.gz"
  )
  config = captions_as_labels.begin(arg, pool="gap")
  config.batch_size = 16_384
  config.total = "512M examples"
  config.tokenizer = {"kind": "clip_bpe", "path": arg.vocab, "length": 77}
  classes = 49_408
  if arg.quick and not arg.data:
    config.tokenizer = {"kind": "bpe", "vocab_size": 512, "length": 20}
    classes = 491
  if arg.smoke:
    config.tokenizer, classes = {"kind": "bytes", "length": 20}, 259
  config.model.heads = {
    "classifier": {"name": "classifier", "classes": classes, "norm": True}
  }
  config.objective = {"name": "superclass"}
  config.optimizer = {
    "name": "adamw", "lr": 1e-3, "b1": 0.9, "b2": 0.95, "weight_decay": 0.2,
    "clip": 1.0,
  }  # fmt: skip
  config.schedule = {"decay": "cosine", "warmup": "10000 steps"}
  return captions_as_labels.finish(config, arg, "logit")
