"""Finds the checkpoints at a path, and checks that they are intact."""

import logging
import os
import pathlib
from typing import Any

from orbax.checkpoint import v1 as ocp

from big_contrastive.checkpoints import checksums
from big_contrastive.config import errors

FOLDER = "checkpoints"


def steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, ascending."""
  inside = folder.iterdir() if folder.is_dir() else []
  return sorted(int(d.name) for d in inside if d.name.isdigit())


def find(path: str, where: str) -> pathlib.Path:
  """Returns the directory of one checkpoint, its files checked.

  Args:
    path: a workdir or its folder "checkpoints" (the newest intact checkpoint
      is taken), or one checkpoint in it.
    where: the flag or config field, for the error.
  """
  directory, remedy = _look(path)
  if directory is None:
    allowed = "a workdir, or a checkpoint in its folder checkpoints/"
    raise errors.UserError(where, path, allowed, remedy)
  return directory


def search(path: str) -> pathlib.Path | None:
  """Returns what `find` does, or None if there is no checkpoint of ours."""
  return _look(path)[0]


def _look(path: str) -> tuple[pathlib.Path | None, str]:
  """The newest intact checkpoint, or None and the reason."""
  if not isinstance(path, str | os.PathLike) or not str(path):
    return None, "Give its path."
  root = pathlib.Path(path).resolve()
  reason = "holds no checkpoint" if root.exists() else "does not exist"
  remedy = f"{root} {reason}."
  for folder in (root, root / FOLDER):
    alone = [folder] if _is_complete(folder) else []
    inside = [folder / str(step) for step in reversed(steps(folder))]
    for directory in alone or inside:
      # The optimizer's state is most of the bytes, and is not needed here.
      wrong = damage(directory, skip="training/")
      if wrong is None:
        return directory, ""
      logging.warning("checkpoint %s is damaged: %s", directory, wrong)
      remedy = f"{directory} is damaged: {wrong}."
  return None, remedy


def damage(directory: pathlib.Path, *args: Any, **kwargs: Any) -> str | None:
  """Returns what is wrong with a checkpoint; see checksums.damage."""
  if not _is_complete(directory):
    return "it is not whole"
  return checksums.damage(directory, *args, **kwargs)


def _is_complete(directory: pathlib.Path) -> bool:
  return (directory / "params").is_dir() and ocp.is_orbax_checkpoint(directory)
