"""Formats of models: a file in this folder reads and writes one.

What a format's files have in common with others is in the folders beside.
"""

import pathlib
from typing import Protocol

from big_contrastive.config import registry
from big_contrastive.interop.bundle import ModelBundle


class Format(Protocol):
  """A file of this folder.

  Attributes:
    MAY_LACK: what a model in this format may be without: "text", its text
      tower; "tokenizer" and "preprocessing", which no file of it holds.
    SUFFIX: of its file; "" for a directory.
  """

  MAY_LACK: tuple[str, ...]
  SUFFIX: str

  def recognize(self, path: pathlib.Path) -> bool:
    """Returns whether a file or directory is in this format."""

  def read(self, path: pathlib.Path, where: str) -> ModelBundle:
    """Returns the model at a path.

    Args:
      path: where something is.
      where: the flag or field that has it, for errors.

    Raises:
      UserError: for files that are broken, or don't fit each other.
    """

  def write(self, bundle: ModelBundle, path: pathlib.Path) -> None:
    """Writes a model where nothing is yet.

    Raises:
      UserError: for a model that the format can't hold.
    """


def names() -> list[str]:
  """Returns the formats there are."""
  return registry.names("interop.formats")


def module(name: str, where: str = "--format") -> Format:
  """Returns the format of that name, or that of a file "mine.py"."""
  return registry.module("interop.formats", name, where)
