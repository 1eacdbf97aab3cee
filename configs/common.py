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

  A piece that is neither a flag nor name=value continues the value before it,
  so that a list of files may have commas. After a source string such as
  "data=wds:a.tar", so does KEY=VALUE whose KEY is not in defaults: in
  "data=wds:a.tar,caption=txt,vocab=v.model" vocab is the config's own.

  Raises:
    ValueError: (thing, value, expected, remedy), as of an errors.UserError, for
      a name that is not in defaults, or a value of another type.
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
      listed = "one of " + ", ".join(defaults)
      raise ValueError("argument", piece, listed, hint)
  return SimpleNamespace(**values)


def _goes_on(name: str, value: Any, keyed: bool) -> bool:
  """Whether a value takes another piece, KEY=VALUE or not."""
  of_source = name.endswith("data") and sources.is_source(value)
  return isinstance(value, str) and (of_source or not keyed)


def _typed(name: str, value: str, default: Any) -> Any:
  kind = type(default)
  if kind is bool:
    if value.lower() not in ("true", "false"):
      raise ValueError(name, value, "true or false", "Choose one of them.")
    return value.lower() == "true"
  # Sizes and counts: 0 of anything trains nothing, but local crops may lack.
  least = 0 if name == "local" else 1
  expected = {int: f"an integer from {least}", float: "a number"}.get(kind)
  try:
    typed = kind(value)
  except ValueError:
    typed = None
  if typed is None or (kind is int and typed < least):
    remedy = f"The default is {default}."
    raise ValueError(name, value, expected, remedy)
  return typed


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
