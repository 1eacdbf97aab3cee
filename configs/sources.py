"""Where a recipe's pairs come from: data= and eval_data=."""

import importlib.util
import pathlib
from typing import Any


def is_source(value: str) -> bool:
  """Returns whether a value is SOURCE:..., SOURCE a file of data/sources."""
  name, colon, _ = value.partition(":")
  package = pathlib.Path(importlib.util.find_spec("big_contrastive").origin)
  file = package.parent / "data" / "sources" / f"{name}.py"
  return bool(colon) and (name == "wds" or file.is_file())


def use_data(config: Any, data: str, eval_data: str) -> None:
  """Sets where pairs come from: source strings, or TFDS names.

  Of a TFDS name the split "train"; for eval_data, of which retrieval is
  evaluated, "validation".
  """
  config.source = source(data or "pairs", "train")
  if eval_data:
    config.evals = retrieval(source(eval_data, "validation"))


def retrieval(pairs: Any) -> dict[str, Any]:
  """Returns config.evals of the user's own pairs."""
  return {"own": {"task": "retrieval", "source": pairs}}


def source(value: str, split: str) -> dict[str, Any] | str:
  """Returns a source string, or the split of a TFDS name."""
  tfds = {"name": "tfds", "dataset": value, "split": split}
  return value if is_source(value) else tfds
