"""Finds the checkpoints at a path, and checks that they are intact."""

import logging
import os
from typing import Any

from orbax.checkpoint import v1 as ocp

from big_contrastive.checkpoints import checksums, folders, objects, orbax_s3
from big_contrastive.config import errors
from big_contrastive.storage import paths, urls
from big_contrastive.storage.paths import Path

FOLDER = "checkpoints"

orbax_s3.install()


def steps(folder: Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, ascending."""
  return folders.of(folder).steps()


def find(path: str, where: str) -> Path:
  """Returns the directory of one checkpoint, its files checked.

  Args:
    path: a workdir or its folder "checkpoints" (the newest intact checkpoint
      is taken), or one checkpoint in it.
    where: the flag or config field, for the error.
  """
  with urls.reached(where, path):
    directory, remedy = _look(path, where)
  if directory is None:
    allowed = "a workdir, or a checkpoint in its folder checkpoints/"
    raise errors.UserError(where, path, allowed, remedy)
  return directory


def _look(path: str, where: str) -> tuple[Path | None, str]:
  """The newest intact checkpoint, or None and the reason."""
  if not isinstance(path, str | os.PathLike) or not str(path):
    return None, "Give its path."
  root = paths.absolute(path, where)
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


def damage(directory: Path, *args: Any, **kwargs: Any) -> str | None:
  """Returns what is wrong with a checkpoint; see checksums.damage."""
  if not _is_complete(directory):
    return "it is not whole"
  if urls.remote(directory):
    return objects.damage(directory, kwargs.get("skip", ""))
  return checksums.damage(directory, *args, **kwargs)


def _is_complete(directory: Path) -> bool:
  if not (directory / "params").is_dir():
    return False
  inside = folders.of(directory.parent)
  if isinstance(inside, folders.Bucket) and inside.is_marked(directory.name):
    return False
  return ocp.is_orbax_checkpoint(directory)
