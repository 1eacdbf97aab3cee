"""big_vision's .npz files: the image tower's parameters.

Names as in big_vision's models/vit.py; blocks are numbered (encoderblock_0,
...) or stacked (encoderblock).
"""

import pathlib
import re
from typing import Any

import numpy as np

from big_contrastive import errors, tree

# Ours -> theirs.
_BLOCK = {
  "norm1": "LayerNorm_0",
  "attention": "MultiHeadDotProductAttention_0",
  "norm2": "LayerNorm_1",
  "mlp/fc1": "MlpBlock_0/Dense_0",
  "mlp/fc2": "MlpBlock_0/Dense_1",
}
_IMAGE = {
  "pos": "pos_embedding",
  "cls": "cls",
  "embed": "embedding",
  "encoder/norm": "Transformer/encoder_norm",
  "head/probe": "MAPHead_0/probe",
  "head/norm": "MAPHead_0/LayerNorm_0",
  "head/attention": "MAPHead_0/MultiHeadDotProductAttention_0",
  "head/mlp/fc1": "MAPHead_0/MlpBlock_0/Dense_0",
  "head/mlp/fc2": "MAPHead_0/MlpBlock_0/Dense_1",
  "project": "head",
}


def read_image_tower(
  path: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
  """Returns the image tower of an .npz file, a nested dict of float32 arrays.

  Args:
    path: a two-tower file ("params/img/..." or "img/...") or that of a ViT
      alone; its classifier is not read unless the tower has a projection.
    shapes: the tower's own, by flat name without "img/": arrays are brought
      into these where only axes of size 1 or a patch's rows differ.

  Raises:
    UserError: for a parameter that the file lacks or has in another size.
  """
  stored = _read(path)
  flat = {}
  for name, shape in shapes.items():
    array = _find(name, stored)
    if array is None:
      allowed = "an image tower like config.model.image"
      remedy = "Choose the variant and the pool that the file was made with."
      raise errors.UserError(f"{path}: img/{name}", "missing", allowed, remedy)
    if array.size != np.prod(shape):
      remedy = "Choose the variant, res and pool that the file was made with."
      raise errors.UserError(
        f"{path}: img/{name}", array.shape, f"{shape}", remedy
      )
    flat[name] = array.reshape(shape).astype(np.float32)
  return tree.unflatten(flat)


def _read(path: str) -> dict[str, np.ndarray]:
  """The arrays of the image tower, by big_vision's names."""
  if not pathlib.Path(path).is_file():
    remedy = "Give a big_vision .npz file."
    raise errors.UserError("config.init.img", path, "a file", remedy)
  with np.load(path) as file:
    arrays = {k.removeprefix("params/"): file[k] for k in file.files}
  towers = {k[4:]: v for k, v in arrays.items() if k.startswith("img/")}
  return towers or arrays


def _find(name: str, stored: dict[str, np.ndarray]) -> np.ndarray | None:
  """Our parameter's content under their name, blocks stacked."""
  if not name.startswith("encoder/blocks/"):
    return stored.get(_translate(name, _IMAGE))
  inner = _translate(name.removeprefix("encoder/blocks/"), _BLOCK)
  stacked = stored.get(f"Transformer/encoderblock/{inner}")
  if stacked is not None:
    return stacked
  pattern = re.compile(r"Transformer/encoderblock_(\d+)/" + re.escape(inner))
  found = {int(m[1]): k for k in stored if (m := pattern.fullmatch(k))}
  if not found:
    return None
  return np.stack([stored[found[i]] for i in sorted(found)])


def _translate(name: str, table: dict[str, str]) -> str:
  prefix = max((p for p in table if _under(name, p)), key=len, default=None)
  return name if prefix is None else table[prefix] + name[len(prefix) :]


def _under(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(prefix + "/")
