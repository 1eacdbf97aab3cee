"""State dicts of an image tower alone: torchvision's and timm's.

What a state dict lacks, the fields of the tower and the preprocessing, lies in
the metadata of our files, which other projects don't read.
"""

import json
import logging
import pathlib
import re
from typing import Any

import numpy as np
import safetensors

from big_contrastive.config import errors, rules, schema
from big_contrastive.interop import files, sections
from big_contrastive.interop.bundle import ModelBundle

SUFFIX = ".safetensors"
_OURS = "big_contrastive"  # Our entry in a file's metadata.


def holds(path: pathlib.Path, name: re.Pattern[bytes]) -> bool:
  """Whether it is a file of tensors with a name, as it stands in the file.

  Files of safetensors and of torch begin with the names: they are not read.
  """
  if not path.is_file() or path.suffix not in (SUFFIX, ".pth", ".pt"):
    return False
  with path.open("rb") as file:
    return bool(name.search(file.read(2**20)))


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns the tensors of a file, and what we noted, {} in a file of others.

  The latter are "image", config.model.image, and perhaps "eval_image".
  """
  if path.suffix != SUFFIX:
    return files.read_torch(path), {}
  stored = files.read_safetensors(path)
  with safetensors.safe_open(path, "numpy") as file:
    about = (file.metadata() or {}).get(_OURS, "{}")
  stored = {k.removeprefix("module."): v for k, v in stored.items()}
  where = f"metadata of {path}"
  try:
    held = json.loads(about)
  except ValueError as e:
    allowed, remedy = "JSON, as we write it", "Write the file anew."
    raise errors.UserError(where, about, allowed, remedy) from e
  return stored, schema.section(held, where)


def without(
  prefix: str, stored: dict[str, np.ndarray], path: pathlib.Path
) -> dict[str, np.ndarray]:
  """Returns the tensors but for a classifier's, of which a line is logged."""
  kept = {k: v for k, v in stored.items() if not k.startswith(f"{prefix}.")}
  if len(kept) < len(stored):
    logging.warning("%s: its classifier, %s, is left out", path, prefix)
  return kept


def check(model: ModelBundle, path: pathlib.Path) -> None:
  """Raises UserError for a model with texts, and another kind of file."""
  sections.no_decoder(model)
  if model.has_text:
    thing, allowed = "config.model.text", "no text tower in this format"
    value = model.model["text"].get("variant", "a tower")
    raise errors.UserError(thing, value, allowed, sections.ANOTHER)
  if path.suffix != SUFFIX:
    allowed = f"a path that ends with {SUFFIX}, in this format"
    remedy = "safetensors.torch.load_file reads it into torch."
    raise errors.UserError("--to", path.name, allowed, remedy)


def tower(model: ModelBundle, name: str) -> dict[str, np.ndarray]:
  """Returns the image tower's parameters; a line is logged of other parts.

  Args:
    model: with an image tower.
    name: of the file, for the log.
  """
  if heads := sorted(model.params.keys() - {"img"}):
    message = "%s: the image tower alone; left out: %s"
    logging.warning(message, name, ", ".join(heads))
  return rules.flatten({"img": model.params["img"]})


def write(
  arrays: dict[str, np.ndarray], path: pathlib.Path, model: ModelBundle
) -> None:
  """Writes tensors, and in the metadata what they lack of the model.

  A classifier without a bias gets one of zeros: fc or head.
  """
  for head in ("fc", "head"):
    if f"{head}.weight" in arrays and f"{head}.bias" not in arrays:
      zeros = np.zeros(len(arrays[f"{head}.weight"]), np.float32)
      arrays = arrays | {f"{head}.bias": zeros}
  about = {"image": model.model["image"]}
  if model.image:
    about["eval_image"] = model.image
  notes = {_OURS: json.dumps(schema.plain(about))}
  files.write_safetensors(arrays, path, notes)
