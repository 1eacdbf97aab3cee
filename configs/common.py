"""What the configs share: the argument after the colon, and repeated parts."""

import difflib
from types import SimpleNamespace
from typing import Any

from configs import sources

WIDTH = {
  "mu": 32, "Ti": 192, "S": 384, "M": 512, "B": 768, "L": 1024,
  "So400m": 1152, "H": 1280, "g": 1408, "G": 1664,
}  # fmt: skip


def parse(argument: str | None, **defaults: Any) -> SimpleNamespace:
  """Returns the values of "name=value,flag", typed like the defaults.

  A piece that is neither a flag nor name=value goes on with the value before
  it, so that a list of files may have commas. Behind a source string,
  "data=wds:a.tar", so does KEY=VALUE whose KEY is not in defaults: in
  "data=wds:a.tar,caption=txt,vocab=v.model" vocab is the config's own.

  Raises:
    ValueError: for what is not a name in defaults, or another type.
  """
  values, last = dict(defaults), None
  for piece in (argument or "").split(",") if argument else []:
    name, equals, value = piece.partition("=")
    keyed = bool(equals) and name.isidentifier()
    if equals and name in defaults:
      values[name], last = _typed(name, value, defaults[name]), name
    elif not equals and isinstance(defaults.get(name), bool):
      values[name], last = True, None
    elif last and _goes_on(last, values[last], keyed):
      values[last] += "," + piece
    else:
      near = difflib.get_close_matches(name, defaults, n=1)
      hint = f"Did you mean {near[0]!r}?" if near else "Drop it."
      listed = ", ".join(defaults)
      raise ValueError(f"{piece!r} is none of {listed}. {hint}")
  return SimpleNamespace(**values)


def _goes_on(name: str, value: Any, keyed: bool) -> bool:
  """Whether a value takes another piece, KEY=VALUE or not."""
  of_source = name.endswith("data") and sources.is_source(value)
  return isinstance(value, str) and (of_source or not keyed)


def _typed(name: str, value: str, default: Any) -> Any:
  kind = type(default)
  if kind is bool:
    if value.lower() not in ("true", "false"):
      raise ValueError(f"{name}={value!r}: write true or false.")
    return value.lower() == "true"
  try:
    return kind(value)
  except ValueError:
    raise ValueError(f"{name}={value!r} is no {kind.__name__}.") from None


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
