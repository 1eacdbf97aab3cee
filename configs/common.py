"""What the configs share: repeated parts."""

from typing import Any

WIDTH = {
  "mu": 32, "Ti": 192, "S": 384, "M": 512, "B": 768, "L": 1024,
  "So400m": 1152, "H": 1280, "g": 1408, "G": 1664,
}  # fmt: skip


def shapes(split: str, smoke: bool) -> dict[str, Any]:
  """Returns the embedded data set, tiny for smoke tests."""
  if not smoke:
    return {"name": "shapes", "split": split}
  return {"name": "shapes", "split": split, "train_size": 512, "size": 32}


def use_smoke(config: Any, data: str = "", eval_data: str = "") -> None:
  """Makes a config a matter of seconds on a CPU: tiny towers, 8 steps."""
  if not data:
    config.source = shapes("train", smoke=True)
  config.train_image = config.eval_image = [("resize", {"size": 32})]
  config.tokenizer = {"kind": "bytes", "length": 32}
  config.batch_size = 16
  config.total = "8 steps"
  config.schedule.warmup = "2 steps"
  config.log_every = 1
  config.save_every = "4 steps"
  config.loading = {"threads": 2}
  config.model.image.variant = "mu/8"
  config.model.image.res = 32
  config.model.text.variant = "mu"
  config.model.text.out_dim = WIDTH["mu"]
  if "out_dim" in config.model.image:
    config.model.image.out_dim = WIDTH["mu"]
  if not eval_data:
    config.evals = {
      "shapes": {"task": "retrieval", "source": shapes("heldout", smoke=True)}
    }
