"""The memory of batches: used again, and never while somebody may use it."""

import multiprocessing
import os
import pickle
import threading
import time

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


def test_batches_of_workers_lie_in_few_places():
  places, order = set(), []
  for batch in training(workers=2, ahead=1).batches(0, 60):
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
    held = [next(batches) for _ in range(2)]
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


def test_host_arrays_are_valid_until_the_batch_after_the_next_is_asked_for():
  """However far those are ahead who write; also those that put returns."""
  same = lambda batch: batch  # noqa: E731
  for put, kwargs in (
    (None, {"workers": 2}), (same, {"workers": 2}), (same, {"reuse": True}),
  ):  # fmt: skip
    before = None
    for step, batch in enumerate(training(**kwargs).batches(0, 40, put)):
      if step % 10 == 5:
        time.sleep(0.3)  # The workers fill all that they may.
      assert whole(batch) and (before is None or whole(before))
      before = batch


def test_threads_write_again_where_a_batch_lay_that_is_on_devices():
  places, arrays = set(), []

  def put(batch):
    places.add(batch["image"].ctypes.data)
    return jax.device_put({k: v.copy() for k, v in batch.items()})

  arrays = list(training(reuse=True).batches(0, 60, put))
  assert 1 < len(places) < 12
  assert all(map(whole, arrays))


def test_a_place_is_not_written_before_its_batch_is_handed_back():
  shared = buffers.Shared(2, {"id": np.zeros((), np.int32)}, 3, first=5)
  worker = pickle.loads(pickle.dumps(shared))
  for step in (5, 6, 7):
    worker.at(step, {})["id"][:] = step
  reached = threading.Event()

  def ahead():
    worker.at(8, {})["id"][:] = 8
    reached.set()

  thread = threading.Thread(target=ahead)
  thread.start()
  batch = shared.take(5)
  assert not reached.wait(0.3) and batch["id"].tolist() == [5, 5]
  shared.release(4)
  assert not reached.wait(0.3) and batch["id"].tolist() == [5, 5]
  shared.release(5)
  assert reached.wait(30) and shared.take(8)["id"].tolist() == [8, 8]
  assert [shared.take(k)["id"][0] for k in (6, 7)] == [6, 7]
  thread.join()
  shared.end()
  with pytest.raises(RuntimeError, match="ended"):
    worker.at(9, {})
  shared.release(99)  # Too late: nobody may begin to write again.
  with pytest.raises(RuntimeError, match="ended"):
    worker.at(9, {})
  shared.close()


def test_else_threads_write_each_batch_to_memory_of_its_own():
  batches = list(training().batches(0, 20))
  assert len({batch["image"].ctypes.data for batch in batches}) == 20
  assert all(map(whole, batches))
