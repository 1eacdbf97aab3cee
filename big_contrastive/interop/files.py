"""Reads and writes files of tensors and JSON; never executes their content."""

import importlib
import json
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from big_contrastive.config import errors


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a JSON file."""
  try:
    content = json.loads(path.read_text())
  except OSError as e:
    remedy = "Is the download complete?"
    raise errors.UserError("file", str(path), "a file", remedy) from e
  except ValueError as e:
    remedy = f"It can't be parsed: {e}."
    raise errors.UserError("file", str(path), "JSON", remedy) from e
  if not isinstance(content, dict):
    remedy = "Is it the right file?"
    raise errors.UserError("file", str(path), "a JSON object", remedy)
  return content


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a .safetensors file, by name."""
  if not path.is_file():
    allowed, remedy = "a file", "Only safetensors are read: convert .bin files."
    raise errors.UserError("weights", str(path), allowed, remedy)
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, KeyError) as e:
    allowed = "a complete .safetensors file"
    remedy = f"Download it again: {e}."
    raise errors.UserError("weights", str(path), allowed, remedy) from e


def write_safetensors(
  arrays: dict[str, np.ndarray],
  path: pathlib.Path,
  metadata: dict[str, str] | None = None,
) -> None:
  """Writes tensors with the metadata that PyTorch's readers expect.

  Args:
    arrays: by name.
    path: of the file.
    metadata: more of it.
  """
  contiguous = {
    k: np.ascontiguousarray(v) if v.ndim else np.asarray(v)
    for k, v in arrays.items()
  }
  about = {"format": "pt"} | (metadata or {})
  safetensors.numpy.save_file(contiguous, path, metadata=about)


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a .pt, .pth or .bin file, read with weights_only.

  Needs torch. Takes the "state_dict" or "model" of a training checkpoint, and
  drops the prefix "module." of data-parallel training.
  """
  try:
    torch = importlib.import_module("torch")
  except ImportError as e:
    allowed = "a .safetensors file where torch is not installed"
    remedy = "Install torch (CPU is enough), or save it as safetensors."
    raise errors.UserError("weights", str(path), allowed, remedy) from e
  try:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as e:  # torch raises many kinds, from pickle and zip.
    allowed = "a file with tensors only"
    first = str(e).strip().split("\n")[0][:200]
    remedy = f"It is broken, or holds code, which is never run: {first}"
    raise errors.UserError("weights", str(path), allowed, remedy) from e
  state = loaded if isinstance(loaded, dict) else {}
  state = next((state[k] for k in ("state_dict", "model") if k in state), state)
  return {
    k.removeprefix("module."): v.to(torch.float32).numpy()
    for k, v in state.items()
    if hasattr(v, "numpy")
  }
