"""The memory of batches: used again, and never while somebody has it."""

import multiprocessing
import os
import weakref

import jax
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data import source as contract
from big_contrastive.data.loader import buffers
from big_contrastive.data.loader.examples import Examples
from big_contrastive.data.loader.training import Training
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer


class Source(contract.Source):
  """A thousand records whose images say who they are."""

  def __len__(self):
    return 1000

  def __getitem__(self, i):
    image = np.full((32, 32, 3), i % 256, np.uint8)
    return {"image": image, "text": f"{i}", "id": i}


def image(pixels, rng):
  return pixels


def training(**kwargs):
  examples = Examples(Source(), image, build_tokenizer("bytes", 8))
  return Training(examples, 70, np.arange(70), 0, threads=3, **kwargs)


def whole(batch):
  """Whether the rows are those of their ids."""
  images = np.asarray(batch["image"])
  ids = np.asarray(batch["id"])
  assert images.shape == (70, 32, 32, 3)
  return (images == (ids % 256).astype(np.uint8)[:, None, None, None]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_somebody_has_of_a_batch_is_not_written_over(workers):
  """Batches, parts of them, and what is on a device; and there is no wait."""
  batches = training(workers=workers).batches(0, 60, jax.device_put)
  held, parts, arrays = [], [], []
  for step, batch in enumerate(batches):
    assert whole(batch)
    if step % 3 == 0:
      held.append(batch)
    elif step % 3 == 1:
      parts.append((batch["image"][5:7], np.asarray(batch["id"][5:7]).copy()))
    else:
      local = {k: np.asarray(v) for k, v in batch.items()}
      arrays.append((local["image"][9], int(local["id"][9])))
  assert len(held) == len(parts) == len(arrays) == 20
  assert all(map(whole, held))
  for rows, ids in parts:
    assert (np.asarray(rows)[:, 0, 0, 0] == ids % 256).all()
  for pixels, number in arrays:
    assert (pixels == number % 256).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_nobody_has_any_more_leave_their_memory(workers):
  places, order = set(), []
  for batch in training(workers=workers, ahead=1).batches(0, 60):
    places.add(batch["image"].ctypes.data)
    order.append(batch["id"].copy())
    assert whole(batch)
  assert 1 < len(places) < 12
  plain = training().batches(0, 60)
  assert all((a == b["id"]).all() for a, b in zip(order, plain, strict=True))


def test_a_stream_that_is_left_leaves_no_descriptor():
  """Also where its workers wait for a place."""
  before = len(os.listdir("/proc/self/fd"))
  for _ in range(2):
    batches = training(workers=1).batches(0, 10**6)
    held = [next(batches) for _ in range(3)]
    batches.close()
    assert all(map(whole, held))
    after = len(os.listdir("/proc/self/fd"))
  again = training(workers=1).batches(0, 10**6)
  next(again)
  again.close()
  # The first time, Python opens what its tracker of resources needs.
  assert before <= after == len(os.listdir("/proc/self/fd"))


class Failing(Source):
  """Fails at one record, in a worker."""

  def __init__(self, error):
    self.error = error

  def __getitem__(self, i):
    if i == 333 and multiprocessing.parent_process():
      raise self.error
    return super().__getitem__(i)


@pytest.mark.parametrize(
  "error, told",
  [
    (errors.UserError("x", 1, "2", "y"), "x = 1"),
    (SystemExit(3), "terminated unexpectedly"),
  ],
)
def test_an_error_in_a_worker_ends_the_stream(error, told):
  """Of any kind, while other threads of the worker wait for a place."""
  examples = Examples(Failing(error), image, build_tokenizer("bytes", 8))
  data = Training(examples, 70, np.arange(70), 0, threads=2, workers=2)
  children = set(multiprocessing.active_children())
  with pytest.raises(Exception, match=told):
    list(data.batches(0, 100))
  assert not set(multiprocessing.active_children()) - children


def test_batches_that_were_kept_once_are_not_kept_for_ever():
  own = buffers.Own(2)
  like = {"id": np.int32(0)}
  held = []
  for step in range(100):
    own.at(step, like)
    held.append(own.taken(step))
  watched = [weakref.ref(batch["id"]) for batch in held]
  del held
  for step in range(100, 104):
    own.at(step, like)
    own.taken(step)
  assert sum(ref() is not None for ref in watched) <= 3


@pytest.mark.parametrize(
  "part",
  [
    lambda batch: batch["id"],
    lambda batch: batch["image"][1:],
    lambda batch: batch["image"].reshape(-1)[3:].view("u1"),
    lambda batch: memoryview(batch["id"]),
    lambda batch: dict(batch),
  ],
)
def test_an_array_is_unused_when_nothing_refers_to_it(part):
  batch = {"image": np.zeros((4, 2)), "id": np.zeros(4)}
  assert buffers.unused(batch)
  held = part(batch)
  assert not buffers.unused(batch)
  del held
  assert buffers.unused(batch)
