"""Where a recipe's pairs come from: data= and eval_data=."""

import importlib.util
import pathlib
from types import SimpleNamespace
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


def pairs(
  arg: SimpleNamespace, data: str, images: str, where: str, split: str
) -> Any:
  """Returns own_data's table and its images, or data with what else is known.

  Raises:
    ValueError: for both, or half of one.
  """
  given = {"image": arg.image, "caption": arg.caption, "id": arg.id}
  given["split"] = split
  if data:
    if arg.images or arg.captions or arg.where or arg.join:
      raise ValueError("data", data, "data or images, not both", "Drop one.")
    more = [f"{k}={v}" for k, v in given.items() if v]
    between = "," if ":" in data else ":"
    return between.join([data, ",".join(more)]) if more else data
  if not images or not arg.captions:
    lost = "captions" if images else "images"
    raise ValueError(lost, None, f"{lost}=PATH", "Or set data=SOURCE.")
  given |= {"where": where, "join": arg.join, "captions": arg.captions}
  return {"name": "table", "images": images} | {
    k: v for k, v in given.items() if v
  }
