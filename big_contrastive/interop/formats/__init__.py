"""Formats of models: each file in this folder reads and writes one.

Code for a format's configs and weights is in the folders beside this one.
"""

import pathlib
from typing import Any, Protocol

from big_contrastive.config import registry
from big_contrastive.interop.bundle import ModelBundle


class Format(Protocol):
  """A file of this folder.

  Attributes:
    MAY_LACK: what a model in this format may lack: "text", the text tower;
      "tokenizer" and "preprocessing", which files of the format never contain.
    SUFFIX: of its file; "" for a directory.
  """

  MAY_LACK: tuple[str, ...]
  SUFFIX: str

  def recognize(self, path: Any) -> bool:
    """Returns whether a file or directory of this machine is in this format.

    Of checkpoints of ours also one in a bucket.
    """

  def read(self, path: Any, where: str) -> ModelBundle:
    """Returns the model at a path.

    Args:
      path: it exists.
      where: the flag or field that holds it, for errors.

    Raises:
      UserError: for files that are broken, or don't fit together.
    """

  def write(self, bundle: ModelBundle, path: pathlib.Path) -> None:
    """Writes a model to a path that doesn't exist yet.

    Raises:
      UserError: for a model that the format can't store.
    """


def names() -> list[str]:
  """Returns the names of all formats."""
  return registry.names("interop.formats")


def module(name: str, where: str = "--format") -> Format:
  """Returns the format of that name, or the one in a file "mine.py"."""
  return registry.module("interop.formats", name, where)
