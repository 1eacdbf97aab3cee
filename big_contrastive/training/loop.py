"""The loop: evaluate, save, next batch, step, log the step before."""

import contextlib
import json
import logging
import pathlib
from typing import Any

import jax

from big_contrastive.checkpoints import checkpointer
from big_contrastive.checkpoints.checkpointer import Checkpoints
from big_contrastive.config import errors
from big_contrastive.data.loader import fingerprint
from big_contrastive.parallel import multihost
from big_contrastive.storage import mirror, paths
from big_contrastive.training import metrics, workdir_lock
from big_contrastive.training.experiment import Begin, Experiment
from big_contrastive.training.hooks import Run
from big_contrastive.training.state import State, from_items


def fit(
  experiment: Experiment,
  workdir: str | pathlib.Path,
  strict_data: bool = False,
) -> dict[str, Any]:
  """Trains to the end, from the newest checkpoint in workdir if there is one.

  Each iteration evaluates, saves, takes the next batch and runs the step, so a
  checkpoint and the position in the data agree. A step's metrics are read one
  step later, while the device runs the next: it never waits for the host.

  On SIGTERM or SIGINT the loop finishes the step that is running, or the next
  one, or the current batch of an evaluation; then it saves and stops.

  Args:
    experiment: from experiment.build.
    workdir: for checkpoints/, metrics.jsonl, pictures/, profile/ and what the
      sinks write; a path, or gs://... or s3://...
    strict_data: whether data that are not those that the run began with, or
      not the same on all processes, are an error instead of a warning.

  Returns:
    The last metrics by name, those of the last evaluation included.

  Raises:
    UserError: if the workdir is in use, has another experiment, or is full.
    RunError: for numbers that are not finite, and after a signal.
  """
  home, every = paths.at(workdir, "--workdir"), experiment.intervals
  with contextlib.ExitStack() as stack:
    stack.enter_context(workdir_lock.held(home))
    files = stack.enter_context(
      contextlib.closing(mirror.of(home, metrics.CONTINUED))
    )
    # However the run ends, a checkpoint that is being written is finished.
    checkpoints = Checkpoints(
      home, keep=every.keep, keep_every=every.keep_every
    )
    stack.callback(checkpoints.close)
    state, begin = _begin(experiment, checkpoints, strict_data)
    _check_total(every.total, begin.step)
    run = Run(experiment, files, begin)
    stack.callback(run.watch.close)
    stack.enter_context(run.listening())
    batches = experiment.training.batches(begin.step, every.total, run.place)
    stack.enter_context(contextlib.closing(batches))
    for done in range(begin.step, every.total):
      run.between(done, state, checkpoints)
      with run.watch.clock.waiting():
        local, batch = next(batches)
      # Starting workers may have taken long; compiling may take longer.
      if done == begin.step and run.requests.stop():
        run.stop(done, checkpoints)
      with run.watch.stepping(done + 1):
        state, values = experiment.placed.at(done)(state, batch)
      run.log(done + 1, values, local)
    if begin.step < every.total or not begin.evaluated:
      run.between(every.total, state, checkpoints)
    run.finish(checkpoints)
  return run.watch.latest


def _begin(
  experiment: Experiment, checkpoints: Checkpoints, strict_data: bool
) -> tuple[State, Begin]:
  """Returns the state to begin with, and its step."""
  newest = checkpoints.newest()
  if newest is None:
    check_data(experiment, {}, strict_data)
    return experiment.first(), Begin(0)
  directory = checkpoints.folder / str(newest)
  # Before the arrays: other captions mean other shapes, too.
  meta = checkpointer.read_meta(directory)
  check_resume(experiment, meta, checkpointer.read_blob(directory))
  check_data(experiment, meta.get("data", {}), strict_data)
  abstract = experiment.placed.abstract.items()
  items, meta, _ = checkpoints.restore(newest, abstract)
  experiment.training.restore(meta["position"]["bad"])
  if jax.process_index() == 0:
    logging.warning("resumed from step %d", newest)
  return from_items(items), Begin(newest, **meta.get("run", {}))


def _check_total(total: int, done: int) -> None:
  if total < done:
    raise errors.UserError(
      "config.total",
      total,
      f"at least {done}, the steps of the newest checkpoint in this workdir",
      "Raise it, or begin in another workdir.",
    )


def check_data(
  experiment: Experiment, before: dict[str, Any], strict: bool
) -> None:
  """Warns of data that differ from `before`, or between processes.

  Args:
    experiment: with the current data.
    before: from fingerprint.fingerprint; {} for none.
    strict: whether to raise a UserError instead.

  Raises:
    UserError: also for another number of records where the state has rows by
      a record's number, as a bank has: they would be those of others.
  """
  now = experiment.training.data
  difference = fingerprint.changed(before, now)
  by_record = "record" in experiment.objective.fields
  rows = before.get("records", now["records"])
  if by_record and multihost.on_any(rows != now["records"]):
    raise errors.UserError(
      "the records of config.source",
      now["records"],
      f"{rows}: the bank of the checkpoint in this workdir has a row for each",
      "Put the data back, or begin in another workdir with config.init = this "
      "one: that keeps the weights, and begins a new bank.",
    )
  if by_record and difference:
    difference += "; a row of the bank stays with its record's number"
  if not multihost.all_have(json.dumps(now)):
    difference = "other records for some processes than for process 0"
  if multihost.on_any(difference is not None):
    difference = difference or "other records for another process"
    if strict:
      remedy = "Put them back, or go on without --strict_data."
      allowed = "the records that the run began with, the same everywhere"
      raise errors.UserError("config.source", difference, allowed, remedy)
    if jax.process_index() == 0:
      logging.warning(
        "config.source: %s. --strict_data refuses that.", difference
      )


def check_resume(
  experiment: Experiment, meta: dict[str, Any], blob: bytes
) -> None:
  """Raises UserError where resuming would change the experiment.

  Args:
    experiment: of the current config.
    meta: of the checkpoint.
    blob: its tokenizer's vocabulary file.
  """
  if blob != experiment.blob:
    raise errors.UserError(
      "config.tokenizer",
      "another vocabulary",
      "that of the checkpoint in this workdir",
      "Did the captions change that it was trained on? Put them back, set "
      'it to {"kind": "checkpoint", "path": WORKDIR}, or begin in another.',
    )
  now = experiment.meta(0)
  if meta["config"].get("source") != now["config"].get("source"):
    logging.warning(
      "config.source is not that of the checkpoint: the run goes on at the "
      "same position of other data"
    )
  changes = {
    "config.tokenizer": (meta["tokenizer"], now["tokenizer"]),
    "config.batch_size": (
      meta["config"]["batch_size"],
      now["config"]["batch_size"],
    ),
    "config.seed": (
      meta["config"].get("seed", 0),
      now["config"].get("seed", 0),
    ),
    "alpha / rank of config.lora": (meta.get("lora"), now.get("lora")),
  }
  for name, (before, after) in changes.items():
    if before != after:
      allowed = f"{before!r}, as in the checkpoint in this workdir"
      remedy = "Change it back, or begin in another workdir."
      raise errors.UserError(name, after, allowed, remedy)
