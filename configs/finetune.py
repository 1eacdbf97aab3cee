"""Fine-tunes a whole pretrained model: SigLIP, SigLIP 2, CLIP, or one of ours.

  python -m big_contrastive.train --workdir runs/finetune \\
    --config configs/finetune.py:init=siglip2-base-patch16-224,data=my_pairs

Arguments: init (a checkpoint of ours, a Hugging Face or OpenCLIP directory,
or a big_vision .npz), res (224; positions are resampled to it), loss
(sigmoid; softmax for CLIP), crop (resize the shorter side and crop, as CLIP
wants it, in place of squashing), unlock (of the image tower, train the last so
many blocks and what follows them), lora (train adapters of this rank alone, on
queries and values), data and eval_data (TFDS names or sources: see siglip.py),
smoke.

No weight decay: with it pretrained weights lose what they learned, says the
SigLIP paper (arXiv:2303.15343). Where one tower only is pretrained, with
config.init = {"img": PATH}, the other may have it:
[("img/.*", 0.0), (".*/(kernel|embedding)", 1.0), (".*", 0.0)].
[D]: ours, as the papers' own fine-tuning runs are not public.
"""

from ml_collections import ConfigDict

from configs import common, parsing, sources


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, (), init="", res=224, loss="sigmoid", crop=False, unlock=0,
    lora=0, data="", eval_data="", smoke=False,
  )  # fmt: skip
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 4096  # [D]
  config.total = "5000 steps"  # [D]
  sources.use_data(config, arg.data, arg.eval_data)
  config.loading = {"threads": 32}
  resize = [("resize", {"size": arg.res})]
  if arg.crop:
    size = {"size": arg.res}
    resize = [("resize_shortest", size), ("center_crop", size)]
  config.train_image = config.eval_image = resize
  config.init = arg.init
  # Only what is to differ: the rest is the pretrained model's own.
  config.tokenizer = {"kind": "init"}
  config.model = {
    "image": {"res": arg.res},
    "text": {},
    "dtype": "bfloat16",
  }
  config.objective = {"name": "pairs", "loss": arg.loss}
  if arg.loss == "softmax":
    config.objective["scale_max"] = 100.0
  config.optimizer = {
    "name": "adamw", "lr": 1e-5, "b1": 0.9, "b2": 0.95,  # [D]
    "weight_decay": 0.0, "clip": 1.0,
  }  # fmt: skip
  config.decay = [(".*", 0.0)]
  if arg.unlock and arg.lora:
    remedy = "Adapters are all that is trained."
    raise ValueError("unlock", arg.unlock, "none beside lora", remedy)
  if arg.unlock:
    locked = f"encoder/blocks[:-{arg.unlock}]/.*|embed/.*|pos|cls|pre_norm/.*"
    config.freeze = [(f"img/({locked})", True), (".*", False)]
  if arg.lora:
    adapter = {"rank": arg.lora, "alpha": 2.0 * arg.lora}
    config.lora = [(".*/(query|value)/kernel", adapter), (".*", None)]
    config.freeze = [("lora/.*|[tb]", False), (".*", True)]
    config.optimizer["lr"] = 1e-4  # [D]
  config.schedule = {"decay": "cosine", "warmup": "10%"}
  config.save_every = "1000 steps"
  config.eval_every = "1000 steps"
  if arg.smoke:
    _use_smoke(config, arg)
  return config


def _use_smoke(config: ConfigDict, arg) -> None:
  """Seconds on a CPU: our own pairs, and without init a tiny new model."""
  model, tokenizer = config.model.to_dict(), config.tokenizer
  images = config.train_image
  common.use_smoke(config, arg.data, arg.eval_data)
  if arg.init:
    config.model, config.tokenizer = model, tokenizer
    config.train_image = config.eval_image = images
  else:
    parsing.refuse(arg, "smoke", parsing.SIZES)  # Of a new model.
    del config.init
    config.model = config.model.to_dict() | {"scale": 10.0}
    if arg.loss == "sigmoid":
      config.model["bias"] = -10.0
