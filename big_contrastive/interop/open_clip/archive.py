"""Reads tensors of PyTorch's zip files, TorchScript too; runs none of its code.

OpenAI published CLIP as TorchScript, whose modules are pickled objects. Here an
object of any class but a tensor becomes an inert record of its attributes.
"""

import collections
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from big_contrastive.config import errors

_DTYPES = {
  "Half": "float16", "BFloat16": ml_dtypes.bfloat16, "Float": "float32",
  "Double": "float64", "Char": "int8", "Byte": "uint8", "Short": "int16",
  "Int": "int32", "Long": "int64", "Bool": "bool",
}  # fmt: skip


def mentions(path: pathlib.Path, name: str) -> bool:
  """Whether it is a zip file of PyTorch's, a tensor of which has this name."""
  if not path.is_file() or not zipfile.is_zipfile(path):
    return False
  try:
    with zipfile.ZipFile(path) as file:
      return name.encode() in file.read(_pickled(file))
  except (OSError, zipfile.BadZipFile, IndexError):
    return False


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a module or of a state dict, by name.

  Raises:
    UserError: for a broken file.
  """
  try:
    with zipfile.ZipFile(path) as file:
      content = _Unpickler(file, _pickled(file)).load()
  except Exception as e:  # Bytes of anyone's may fail in many ways.
    allowed = "a complete file of tensors"
    remedy = f"Download it again: {type(e).__name__}: {e}."
    raise errors.UserError("weights", str(path), allowed, remedy) from e
  if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
    content = content["state_dict"]
  found: dict[str, np.ndarray] = {}
  _collect(content, "", found)
  return found


def _pickled(file: zipfile.ZipFile) -> str:
  """The name of the entry that holds all but the tensors' values."""
  return [n for n in file.namelist() if n.endswith("/data.pkl")][0]


class _Record:
  """In place of an object of any class, and of a call of any function."""

  def __new__(cls, *args: Any, **kwargs: Any) -> "_Record":
    return super().__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any):
    self.attributes: Any = {}

  def __setstate__(self, state: Any) -> None:
    self.attributes = state


class _Unpickler(pickle.Unpickler):
  """Knows tensors and their storages; imports nothing."""

  def __init__(self, archive: zipfile.ZipFile, name: str):
    super().__init__(archive.open(name))
    self._archive = archive
    self._folder = name.removesuffix("data.pkl") + "data/"
    self._storages: dict[str, np.ndarray] = {}

  def find_class(self, module: str, name: str) -> Any:
    known = {
      ("collections", "OrderedDict"): collections.OrderedDict,
      ("torch._utils", "_rebuild_tensor_v2"): _tensor,
      ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
    }
    if module == "torch" and name.endswith("Storage"):
      return name
    return known.get((module, name), _Record)

  def persistent_load(self, pid: Any) -> np.ndarray:
    _, kind, key, *_ = pid
    if key not in self._storages:
      dtype = np.dtype(_DTYPES[kind.removesuffix("Storage")])
      data = self._archive.read(f"{self._folder}{key}")
      self._storages[key] = np.frombuffer(data, dtype.newbyteorder("<"))
    return self._storages[key]


def _tensor(
  storage: np.ndarray, offset: int, size: tuple, stride: tuple, *rest: Any
) -> np.ndarray:
  """Returns a view of a storage; raises ValueError if it leads outside."""
  last = offset + sum(
    (n - 1) * step for n, step in zip(size, stride, strict=True)
  )
  values = [offset, *stride, *(n - 1 for n in size)]
  if 0 in size:
    return np.empty(size, storage.dtype)
  if min(values) < 0 or last >= len(storage):
    raise ValueError("a tensor is larger than its storage")
  width = storage.dtype.itemsize
  strides = tuple(step * width for step in stride)
  return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def _collect(content: Any, name: str, found: dict[str, np.ndarray]) -> None:
  """Adds the tensors of a module and of those inside it."""
  if isinstance(content, np.ndarray):
    found[name] = content
  if isinstance(content, _Record):
    content = content.attributes
  if isinstance(content, dict):
    for key, value in content.items():
      _collect(value, f"{name}.{key}" if name else str(key), found)
