"""What CapPa, CoCa and OpenVision 2 share: data, sizes, quick runs."""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from configs import common, demo, parsing, sources

ARGUMENTS = {"data": "", "eval_data": "", "quick": False, "smoke": False}


def begin(arg: SimpleNamespace) -> ConfigDict:
  """Returns a config without tokenizer, model, objective and optimizer.

  Args:
    arg: has `ARGUMENTS`. The data are TFDS names or sources: see siglip.py; the
      images of eval_data are captioned.
  """
  parsing.refuse(arg, "quick", parsing.SIZES)
  config = ConfigDict()
  config.seed = 0
  sources.use_data(config, arg.data, "")
  config.loading = {"threads": 32}
  config.decay = [(".*/(kernel|embedding)", 1.0), (".*", 0.0)]
  config.save_every = "1000 steps"
  config.eval_every = "5000 steps"
  if arg.eval_data:
    config.evals = evals(sources.source(arg.eval_data, "validation"))
  return config


def evals(pairs: Any) -> dict[str, Any]:
  """Returns config.evals of pairs."""
  return {"captions": {"task": "captioning", "source": pairs}}


def finish(config: ConfigDict, arg: SimpleNamespace) -> ConfigDict:
  """Returns the config, for minutes or seconds on a CPU if that is asked."""
  if not (arg.quick or arg.smoke):
    return config
  small = demo.get_config("smoke" if arg.smoke else None)
  for name in (
    "batch_size", "total", "train_image", "eval_image", "loading", "log_every",
    "eval_every", "save_every", "schedule",
  ):  # fmt: skip
    if name in small:
      config[name] = small[name]
  if not arg.data:
    config.source = small.source
  config.optimizer = small.optimizer
  # With BOS, as CLIP's; one of 512 ids is enough for shapes.
  kind = {"kind": "bpe", "vocab_size": 512, "bos": True}
  config.tokenizer = kind | {"length": 24}
  if arg.smoke:
    config.tokenizer = {"kind": "bytes", "length": 16, "bos": True}
  res = config.eval_image[0][1]["size"]
  size = {"width": 96, "mlp": 384, "heads": 3, "depth": 3}
  if arg.smoke:
    size = {"width": 32, "mlp": 64, "heads": 2, "depth": 1}
  model = config.model
  model.dtype = "float32"
  if arg.smoke and "text" in model:
    model.image.update(variant="mu/8", res=res, **size)
  else:  # It learns faster than a ViT; CoCa's decoder sees its whole grid.
    model.image = small.model.image
  less = size | {"variant": "mu", "depth": min(2, size["depth"])}
  for part in {"text", "decoder"} & set(model):
    model[part].update(less)
  if "text" in model:
    model.image.out_dim = model.text.out_dim = size["width"]
  if model.image.get("pool") == "queries":
    model.image.update(pool_heads=2, queries=16)
  if not arg.eval_data:
    held_out = common.shapes("heldout", arg.smoke)
    config.evals = evals(common.shapes("val", arg.smoke)) | {
      "held_out": {"task": "captioning", "source": held_out}
    }
    task = "zero_shot" if "text" in model else "zero_shot_captions"
    config.evals["classes"] = {"task": task, "source": held_out}
  return config
