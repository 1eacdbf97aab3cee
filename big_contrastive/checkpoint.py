"""Checkpoints: state, data position, config, tokenizer, preprocessing.

A checkpoint is a directory DIR/checkpoints/STEP that somebody else can
evaluate without knowing how it was made. Orbax writes it in the background,
sharded, under a temporary name that becomes the real one when all is there.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from big_contrastive import errors, tree
from big_contrastive.step import State

_FOLDER = "checkpoints"


class Checkpoints:
  """The checkpoints of a workdir.

  Args:
    workdir: checkpoints lie in its folder "checkpoints".
    keep: the newest so many are kept.
    keep_every: and those whose step is a multiple of this; 0 for none.
  """

  def __init__(
    self, workdir: str | pathlib.Path, *, keep: int = 1, keep_every: int = 0
  ):
    policies = ocp.training.preservation_policies
    kept = [policies.LatestN(keep)]
    if keep_every:
      kept.append(policies.EveryNSteps(keep_every))
    self._checkpointer = ocp.training.Checkpointer(
      pathlib.Path(workdir).resolve() / _FOLDER,
      save_decision_policy=_always(),
      preservation_policy=policies.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )

  def newest(self) -> int | None:
    """Returns the newest step that is complete, None if there is none."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  def save(
    self, step: int, state: State, meta: dict[str, Any], blob: bytes
  ) -> None:
    """Saves in the background; waits only for a save that still runs.

    Args:
      step: its number.
      state: may be donated to the next step as soon as this returns.
      meta: JSON: config, tokenizer, preprocessing, data position.
      blob: the tokenizer's vocabulary file.
    """
    self._checkpointer.save_checkpointables_async(
      step,
      {
        "params": state.params,
        "training": _training(state),
        # Orbax stores no empty array: a byte more, which reading drops.
        "tokenizer": {"blob": np.frombuffer(blob + b"\0", np.uint8)},
      },
      custom_metadata=meta,
    )

  def restore(
    self, step: int, abstract: State
  ) -> tuple[State, dict[str, Any], bytes]:
    """Returns the state of a step, on abstract's shardings; meta; blob.

    Raises:
      UserError: where the checkpoint's shapes are not the model's.
    """
    directory = self._checkpointer.directory / str(step)
    check_shapes(directory, abstract.params)
    parts = {"params": abstract.params, "training": _training(abstract)}
    loaded = self._checkpointer.load_checkpointables(step, parts)
    training = {"extra": {}} | loaded["training"]
    state = State(params=loaded["params"], **training)
    return state, read_meta(directory), read_blob(directory)

  def wait(self) -> None:
    """Returns when everything that was saved is on disk."""
    self._checkpointer.wait()

  def close(self) -> None:
    """Waits for what is being saved, and ends."""
    self._checkpointer.close()


def _always():
  # The loop decides when to save.
  return ocp.training.save_decision_policies.FixedIntervalPolicy(1)


def _training(state: State) -> dict[str, Any]:
  parts = {"step": state.step, "opt": state.opt}
  return parts | ({"extra": state.extra} if state.extra else {})


def find(path: str, where: str) -> pathlib.Path:
  """Returns the directory of one checkpoint.

  Args:
    path: a workdir, its folder "checkpoints" (the newest is taken), or one
      checkpoint in it.
    where: the flag or config field, for the error.
  """
  given = pathlib.Path(path).resolve()
  for folder in (given, given / _FOLDER):
    if _is_complete(folder):
      return folder
    inside = folder.iterdir() if folder.is_dir() else []
    steps = [d for d in inside if d.name.isdigit() and _is_complete(d)]
    if steps:
      return max(steps, key=lambda d: int(d.name))
  allowed = "a workdir, or a checkpoint in its folder checkpoints/"
  there = "holds no checkpoint" if given.exists() else "does not exist"
  raise errors.UserError(where, path, allowed, f"{given} {there}.")


def _is_complete(directory: pathlib.Path) -> bool:
  # Orbax renames a checkpoint to its number when all of it is written.
  return (directory / "params").is_dir() and ocp.is_orbax_checkpoint(directory)


def read_meta(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the config, tokenizer, preprocessing and data position."""
  return ocp.checkpointables_metadata(directory).custom_metadata


def read_blob(directory: pathlib.Path) -> bytes:
  """Returns the tokenizer's vocabulary file."""
  return _read_host(directory, "tokenizer")["blob"].tobytes()[:-1]


def read_params(
  directory: pathlib.Path, abstract: dict[str, Any]
) -> dict[str, Any]:
  """Returns the parameters alone, on abstract's shardings."""
  check_shapes(directory, abstract)
  loaded = ocp.load_checkpointables(directory, {"params": abstract})
  return loaded["params"]


def read_tower(directory: pathlib.Path, tower: str) -> dict[str, Any]:
  """Returns one tower's parameters ("img", "txt") as numpy arrays."""
  return read_arrays(directory)[tower]


def read_arrays(directory: pathlib.Path) -> dict[str, Any]:
  """Returns all parameters as numpy arrays."""
  return _read_host(directory, "params")


def _read_host(directory: pathlib.Path, part: str) -> dict[str, Any]:
  """One part of a checkpoint as numpy arrays, whatever wrote it."""
  stored = ocp.checkpointables_metadata(directory).metadata[part]
  abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), stored)
  return ocp.load_checkpointables(directory, {part: abstract})[part]


def check_shapes(directory: pathlib.Path, abstract: dict[str, Any]) -> None:
  """Raises UserError where a checkpoint's parameters are not the model's."""
  stored = ocp.checkpointables_metadata(directory).metadata["params"]
  stored, wanted = tree.shapes(dict(stored)), tree.shapes(abstract)
  compare_shapes(str(directory), stored, wanted)


def compare_shapes(
  source: str,
  stored: dict[str, tuple[int, ...]],
  wanted: dict[str, tuple[int, ...]],
) -> None:
  """Raises UserError naming the first parameter that is not the same."""
  for name in sorted(stored.keys() | wanted.keys()):
    if stored.get(name) != wanted.get(name):
      raise errors.UserError(
        f"parameter {name} of {source}",
        stored.get(name, "missing"),
        f"{wanted.get(name, 'no such parameter')}, as config.model asks",
        "Change config.model, or begin in another workdir.",
      )
