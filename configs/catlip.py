"""CatLIP: a caption's nouns are labels, of thousands of classes.

  python -m big_contrastive.train --workdir runs/catlip \\
    --config configs/catlip.py:data=my_tfds_pairs,classes=9000

arXiv:2404.15653. Arguments: variant (B/16, L/16, H/16), res (224), data and
eval_data (TFDS names or sources: see siglip.py), vocab (of
big_contrastive.synsets, which prints the number of classes; "shapes" is that
of the embedded data), classes, quick (minutes on a CPU), smoke.
Numbers: the official code, corenet at 1aa3acd. Unlike it: the bias begins with
the classes' log-odds and the kernel with zeros, where it has 0 and a normal
distribution; one resolution, where it mixes batches of 128 to 320 pixels; no
RangeAugment.
"""

from ml_collections import ConfigDict

from configs import captions_as_labels

RATES = {"B": 1e-3, "L": 6e-4, "H": 4e-4}


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = captions_as_labels.arguments(
    argument, vocab="vocabulary.json", classes=24_320
  )
  config = captions_as_labels.begin(arg, pool="tok")
  lr = RATES.get(arg.variant.partition("/")[0], 1e-3)
  config.batch_size = 65_536
  config.total = "200000 steps"
  vocab, classes = arg.vocab, arg.classes
  if arg.smoke or (arg.quick and not arg.data):
    vocab, classes = "shapes", 48
  # Further labels of a caption than these are left out.
  config.tokenizer = {"kind": "synsets", "path": vocab, "length": 64}
  config.model.heads = {
    "classifier": {"name": "classifier", "classes": classes}
  }
  config.objective = {"name": "catlip"}
  config.optimizer = {
    "name": "adamw", "lr": lr, "b1": 0.9, "b2": 0.999, "weight_decay": 0.2,
    "clip": 1.0,
  }  # fmt: skip
  config.schedule = {
    "decay": "cosine", "warmup": "10000 steps", "warmup_from": 1e-3, "end": 0.01
  }  # fmt: skip
  config.ema = 0.9995
  return captions_as_labels.finish(config, arg, "probability")
