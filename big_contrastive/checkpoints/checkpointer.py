"""Checkpoints: state, data position, config, tokenizer, preprocessing.

A checkpoint is a directory DIR/checkpoints/STEP that somebody else can
evaluate without knowing how it was made. Orbax writes it in the background,
sharded, as STEP.saving; when all of it is on disk, checksums included, it is
renamed to STEP, and only then older ones are removed. So every directory whose
name is a number is complete, and what a killed run leaves has another name. Of
buckets see folders.py.
"""

import concurrent.futures
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from big_contrastive.checkpoints import compare, find, folders
from big_contrastive.config import errors, finite, rules
from big_contrastive.models import lora
from big_contrastive.parallel import multihost
from big_contrastive.storage import paths, urls
from big_contrastive.storage.paths import Path


class Checkpoints:
  """The checkpoints of a workdir.

  Args:
    workdir: checkpoints are in its folder "checkpoints".
    keep: how many of the newest to keep; with 2 there is one to fall back to.
    keep_every: also keep those whose step is a multiple of this; 0 for none.
  """

  def __init__(
    self, workdir: str | pathlib.Path, *, keep: int = 2, keep_every: int = 0
  ):
    self.folder = paths.absolute(workdir, "--workdir") / find.FOLDER
    self._inside = folders.of(self.folder)
    self._keep, self._keep_every = keep, keep_every
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._saving: tuple[int, concurrent.futures.Future] | None = None
    if jax.process_index() == 0:
      self._inside.prepare()

  def newest(self) -> int | None:
    """Returns the newest intact step, None if there is no checkpoint at all.

    Every process checks its share of the files. A damaged checkpoint is logged
    and renamed to STEP.damaged, and the previous one is checked.

    Raises:
      UserError: if all are damaged; a fresh start would bury them.
    """
    damaged = []
    for step in reversed(multihost.of_first(find.steps(self.folder))):
      part = jax.process_index(), jax.process_count()
      wrong = find.damage(self.folder / str(step), part)
      if not multihost.on_any(wrong is not None):
        return step
      wrong = wrong or "another process found a file damaged"
      logging.warning("checkpoint %d is damaged: %s", step, wrong)
      damaged.append(step)
      if jax.process_index() == 0:
        self._inside.set_damaged(step, wrong)
    if damaged:
      raise errors.UserError(
        f"checkpoints in {self.folder}",
        f"all damaged: {damaged}",
        "one that is as it was written",
        "Copy one back from elsewhere, or begin in another workdir.",
      )
    return None

  def save(
    self, step: int, items: dict[str, Any], meta: dict[str, Any], blob: bytes
  ) -> None:
    """Saves in the background; waits only for a save that still runs.

    Args:
      step: its number.
      items: trees of arrays by name: "params", "training", "extra". They may
        be donated to the next step as soon as this returns.
      meta: JSON: config, tokenizer, preprocessing, data position.
      blob: the tokenizer's vocabulary file.

    Raises:
      UserError: if the previous save could not be written, or meta is not
        valid JSON (NaN and infinity are not).
    """
    self.wait()
    _check_json(meta)
    # Orbax can't store an empty array: add a byte, which reading drops.
    tokenizer = {"blob": np.frombuffer(blob + b"\0", np.uint8)}
    items = items | {"tokenizer": tokenizer}
    path = self._inside.writing(step)
    try:
      if jax.process_index() == 0:
        self._inside.begin(step)
      with _context(path):
        writing = ocp.save_checkpointables_async(
          path, items, custom_metadata=meta
        )
    except Exception as e:  # Of a bucket, each library has its own.
      raise self._not_written(step, e) from e
    self._saving = step, self._thread.submit(self._finish, step, writing)

  def check(self) -> None:
    """Raises UserError if a save has failed; doesn't wait."""
    if self._saving and self._saving[1].done():
      self.wait()

  def wait(self) -> None:
    """Returns when everything that was saved is on disk.

    Raises:
      UserError: if it could not be written.
    """
    if self._saving is None:
      return
    (step, done), self._saving = self._saving, None
    try:
      done.result()
    except Exception as e:  # TensorStore raises its own for a full disk.
      raise self._not_written(step, e) from e

  def close(self) -> None:
    """Waits for the save in progress, and ends the thread."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def _finish(self, step: int, writing: Any) -> None:
    """Waits for Orbax, then renames the folder; in the background."""
    writing.result()
    if jax.process_index():
      return
    self._inside.finish(step)
    every = self._keep_every
    for old in self._inside.steps()[: -self._keep]:
      if not every or old % every:
        self._inside.remove(old)

  def _not_written(self, step: int, cause: Exception) -> errors.UserError:
    if jax.process_index() == 0:
      self._inside.abandon(step)
    sound = self._sound()
    rest = f"{sound[-1]} and those before are" if sound else "nothing else was"
    first = next(iter(str(cause).strip().splitlines()), "")
    return errors.UserError(
      f"checkpoint {step} in {self.folder}",
      f"not written: {type(cause).__name__}: {first[:300]}",
      "a disk or bucket with room for it that can be written to",
      f"Mend that and run again; {rest} intact.",
    )

  def _sound(self) -> list[int]:
    """The steps that are there; none if that can't be seen."""
    try:
      return self._inside.steps()
    except Exception:  # Each library has kinds of its own.
      return []

  def restore(
    self, step: int, abstract: dict[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Returns the items of a step, with abstract's shardings; meta; blob.

    Raises:
      UserError: if the checkpoint's shapes are not the model's.
      RunError: if it contains values that are not finite.
    """
    directory = self.folder / str(step)
    compare.items(directory, abstract)
    loaded = ocp.load_checkpointables(directory, abstract)
    remedy = "Move it away: the run goes on from the one before."
    finite.arrays(loaded, f"checkpoint {directory}", remedy)
    return loaded, read_meta(directory), read_blob(directory)


def _context(path: Path) -> ocp.Context:
  """Of saves. Replicas share the writing of large arrays only.

  Each shape that they share is a program to compile.
  """
  context = ocp.Context()
  if urls.remote(path):  # Where a rename is a copy.
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
  context.array.saving.min_slice_bytes_for_replica_parallel = 2**16
  return context


def _check_json(meta: dict[str, Any]) -> None:
  """Raises UserError for metadata that other JSON readers would refuse."""
  try:
    json.dumps(meta, allow_nan=False)
  except (TypeError, ValueError) as e:
    allowed = "JSON, whose numbers are finite"
    remedy = "A field of the config has a value that JSON can't store."
    raise errors.UserError("metadata", str(e), allowed, remedy) from e


def read_meta(directory: Path) -> dict[str, Any]:
  """Returns the config, tokenizer, preprocessing and data position."""
  return ocp.checkpointables_metadata(directory).custom_metadata


def read_blob(directory: Path) -> bytes:
  """Returns the tokenizer's vocabulary file."""
  return _read_host(directory, "tokenizer")["blob"].tobytes()[:-1]


def read_params(directory: Path, abstract: dict[str, Any]) -> dict[str, Any]:
  """Returns only the parameters, with abstract's shardings."""
  compare.params(directory, abstract)
  loaded = ocp.load_checkpointables(directory, {"params": abstract})
  return loaded["params"]


def read_exported(directory: Path) -> dict[str, Any]:
  """Returns the weights to use, nested, as numpy arrays.

  They are what the method exports, such as an average: meta["exported"], see
  training.state.exported. Without that entry they are the parameters. Adapters
  are folded in, by meta["lora"].
  """
  meta = read_meta(directory)
  return lora.fold(_exported(directory, meta), meta.get("lora", {}))


def _exported(directory: Path, meta: dict[str, Any]) -> dict[str, Any]:
  sources = meta.get("exported")
  if sources is None:
    return _read_host(directory, "params")
  items = sorted({source.partition("/")[0] for source in sources.values()})
  leaves = {item: _read_host(directory, item) for item in items}
  flat = rules.flatten(leaves)
  return rules.unflatten({k: flat[source] for k, source in sources.items()})


def _read_host(directory: Path, item: str) -> dict[str, Any]:
  """One item of a checkpoint as numpy arrays, however it was sharded."""
  stored = ocp.checkpointables_metadata(directory).metadata[item]
  abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), stored)
  return ocp.load_checkpointables(directory, {item: abstract})[item]
