"""BLIP: contrast, match and tell, of one model (arXiv:2201.12086).

  python -m big_contrastive.train --workdir runs/blip \\
    --config configs/blip.py:data=my_tfds_pairs,vocab=vocab.txt

Arguments: variant (B/16, L/16), res (224), data and eval_data (TFDS names or
sources: see siglip.py), vocab (BERT's vocab.txt), quick (minutes on a CPU),
smoke.
Numbers: the official code, blip_pretrain.py and pretrain.yaml, for 14M pairs.
Unlike it: negatives and contrast are those of the whole batch, not of one
device; log 1 / temperature is learned, not the temperature; the rate falls by
cosine, not by 0.9 an epoch; no RandAugment; weights begin at random, where its
image tower has DeiT's and its text tower BERT's.
"""

from ml_collections import ConfigDict

from configs import captioners, parsing

BERT = 30_522  # Ids of bert-base-uncased; [DEC] and [ENC] follow.


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, variant="B/16", res=224, vocab="vocab.txt",
    **captioners.ARGUMENTS,
  )  # fmt: skip
  config = captioners.begin(arg)
  config.batch_size = 2880  # 2400 for L/16.
  config.total = "20 epochs"
  config.train_image = [
    ("random_resized_crop", {"size": arg.res, "area": (0.2, 1.0)}),
    ("flip_lr", {}),
  ]  # fmt: skip
  config.eval_image = [("resize", {"size": arg.res})]
  config.tokenizer = {"kind": "bert", "path": arg.vocab, "length": 30}
  config.model = {
    "image": {
      "variant": arg.variant, "res": arg.res, "pool": "tok", "cls_pos": True,
      "out_dim": 256, "out_bias": True, "activation": "gelu",
      "mean": (0.48145466, 0.4578275, 0.40821073),  # openai/CLIP.
      "std": (0.26862954, 0.26130258, 0.27577711),
    },
    "text": {
      "tower": "blip", "variant": "B", "out_dim": 256, "pad_id": 0,
      "vocab_size": BERT + 2, "dec_id": BERT, "enc_id": BERT + 1,
      "positions": 512,
    },
    "scale": 1 / 0.07,
    "dtype": "bfloat16",
  }  # fmt: skip
  config.objective = {"name": "blip", "queue": 57_600}
  config.optimizer = {"name": "adamw", "lr": 3e-4, "weight_decay": 0.05}
  config.decay = [(".*", 1.0)]  # The official code decays all.
  config.schedule = {
    "decay": "cosine",
    "warmup": "3000 steps",
    "end": 1e-6 / 3e-4,
  }
  if not (arg.quick or arg.smoke):
    return config
  config = captioners.finish(config, arg)
  ids = 512 if arg.quick else 259  # The most that the tokenizer may have.
  config.model.text.update(vocab_size=ids + 2, dec_id=ids, enc_id=ids + 1)
  if "positions" in config.model.text:
    del config.model.text["positions"]
  # Of shapes, many captions of a batch mean the same.
  config.objective.update(queue=2 * config.batch_size, same=True)
  return config
