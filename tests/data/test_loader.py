"""The stream of examples: order, restart, processes, bad records."""

import itertools

import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data import source as contract
from big_contrastive.data.loader import (
  evaluation,
  examples,
)
from big_contrastive.data.loader import (
  training as training_loader,
)
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer

WORDS = build_tokenizer("bytes", 12)


class Source(contract.Source):
  """Twenty records whose image says who they are; some may be broken."""

  def __init__(self, size=20, broken=(), captions=1):
    self.size, self.broken, self.captions = size, set(broken), captions

  def __len__(self):
    return self.size

  def __getitem__(self, i):
    if i in self.broken:
      raise OSError("truncated")
    several = [f"{i} {k}" for k in range(self.captions)]
    caption = several if self.captions > 1 else several[0]
    image = np.full((4, 4, 3), i, np.uint8)
    return {"image": image, "text": caption, "id": i, "label": i % 3}


def image(pixels, rng):
  """A "crop" that is random: the last pixel is drawn."""
  pixels = pixels.copy()
  if rng is not None:
    pixels[-1, -1, -1] = rng.integers(256)
  return pixels


def training(source, batch=8, rows=None, seed=0, **kwargs):
  made = examples.Examples(source, image, WORDS)
  rows = np.arange(batch) if rows is None else np.asarray(rows)
  defaults = {"max_bad": 0, "bad_floor": 0, "threads": 2}
  return training_loader.Training(made, batch, rows, seed, **defaults | kwargs)


def ids(batches):
  return np.concatenate([b["id"] for b in batches])


def same(a, b):
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def test_padding_is_not_read_again_and_again():
  class Counting(Source):
    reads: list = []

    def __getitem__(self, i):
      self.reads.append(i)
      return super().__getitem__(i)

  batches = evaluation.evaluation(
    Counting(size=5), image, 64, np.arange(64), threads=2
  )
  ((batch, real),) = batches
  assert real == 5 and batch["id"].tolist() == [0, 1, 2, 3] + [4] * 60
  assert len(Counting.reads) <= 4 + 2  # Two threads may both make the last.


def test_every_epoch_has_every_record_once_in_another_order():
  order = ids(training(Source()).batches(0, 5))
  first, second = order[:20], order[20:40]
  assert sorted(first) == sorted(second) == list(range(20))
  assert first.tolist() != second.tolist() != list(range(20))


def test_a_restart_goes_on_with_the_very_next_example():
  whole = list(training(Source(captions=3)).batches(0, 7))
  rest = list(training(Source(captions=3)).batches(3, 7))
  assert len(rest) == 4
  for a, b in zip(whole[3:], rest, strict=True):
    same(a, b)  # Crops and choice of captions included.


def test_processes_share_the_batch_that_one_process_has():
  whole = list(training(Source()).batches(0, 4))
  for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 5]):
    part = training(Source(), rows=rows).batches(0, 4)
    for a, b in zip(whole, part, strict=True):
      same({k: v[rows] for k, v in a.items()}, b)


def test_the_seed_changes_the_order():
  a = ids(training(Source(), seed=0).batches(0, 2))
  b = ids(training(Source(), seed=1).batches(0, 2))
  assert a.tolist() != b.tolist()


def test_worker_processes_change_nothing():
  plain = list(training(Source()).batches(1, 4))
  workers = training(Source(), workers=1).batches(1, 4)
  for a, b in zip(plain, workers, strict=True):
    same(a, b)


@pytest.mark.parametrize("other", [(1, 1, 3), (4, 5, 3), float])
def test_images_of_several_kinds_are_no_batch(other):
  def uneven(pixels, rng):
    if pixels[0, 0, 0] != 3:
      return pixels
    return pixels.astype(float) if other is float else np.zeros(other, np.uint8)

  run = training(Source())
  run.examples.image = uneven
  with pytest.raises(ValueError, match="images of kinds .* in a batch"):
    list(run.batches(0, 3))


def test_crops_differ_between_epochs():
  seen: dict[int, set] = {}
  for batch in training(Source()).batches(0, 10):
    for i, pixels in zip(batch["id"], batch["image"], strict=True):
      seen.setdefault(int(i), set()).add(int(pixels[-1, -1, -1]))
  assert all(len(v) > 1 for v in seen.values())


def test_each_of_several_captions_is_drawn():
  seen = set()
  for batch in training(Source(size=1, captions=3)).batches(0, 8):
    seen |= {WORDS.decode(t) for t in batch["text"]}
  assert seen == {"0 0", "0 1", "0 2"}


def test_a_bad_record_is_replaced_by_the_next_and_counted():
  whole = training(Source(broken=[4, 5]), max_bad=1)
  order = ids(whole.batches(0, 5))[:20]
  assert sorted(order) == sorted([*range(4), 6, 6, *range(6, 20)])
  # Two epochs, in which 4 tries 5, too: 3 each.
  assert whole.counts(5) == {"read": 6}


def test_counts_are_those_of_the_steps_asked_for_however_far_one_has_read():
  """So that metrics and checkpoints agree, whenever they are written."""
  by_step = []
  for stop in range(1, 6):
    run = training(Source(broken=[4, 5]), max_bad=1)
    list(run.batches(0, stop))
    by_step.append(run.counts(stop).get("read", 0))
  whole = training(Source(broken=[4, 5]), max_bad=1)
  list(whole.batches(0, 5))
  assert [whole.counts(s).get("read", 0) for s in range(1, 6)] == by_step
  half = training(Source(broken=[4, 5]), max_bad=1)
  half.restore({"read": by_step[1]})
  list(half.batches(2, 5))
  assert half.counts(5) == {"read": 6}


def test_counts_of_checkpoints_without_kinds_are_kept():
  run = training(Source())
  run.restore(3)
  run.restore({"image": 2, "a kind of the future": 1})
  assert run.counts(0) == {"other": 4, "image": 2}


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_records_stop_the_run(workers):
  run = training(Source(broken=[4]), max_bad=0.01, workers=workers)
  with pytest.raises(errors.UserError, match=r"max_bad = 0.01.*record 4"):
    list(run.batches(0, 20))


def test_a_few_bad_records_of_few_never_stop_a_run():
  run = training(Source(broken=[4]), max_bad=0.0, bad_floor=1)
  assert len(list(run.batches(0, 2))) == 2
  with pytest.raises(errors.UserError, match="bad records among.*= 2"):
    list(run.batches(2, 8))


def test_the_first_few_bad_records_are_named_with_the_reason(caplog):
  run = training(Source(broken=range(1, 10)), bad_floor=10**6)
  list(run.batches(0, 20))
  said = [r.getMessage() for r in caplog.records]
  assert len(said) == 5 and run.counts(20)["read"] > 50
  assert all("(read): record" in s and "truncated" in s for s in said)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_are_all_bad_stop_at_once(workers):
  run = training(Source(size=30, broken=range(30)), max_bad=1, workers=workers)
  with pytest.raises(errors.UserError, match="unreadable.*truncated"):
    list(run.batches(0, 1))


def test_evaluation_has_every_record_once_in_order_and_pads():
  found = list(
    evaluation.evaluation(Source(), image, 8, np.arange(8), threads=2)
  )
  real = np.concatenate([b["id"][:n] for b, n in found])
  assert real.tolist() == list(range(20))
  assert [n for _, n in found] == [8, 8, 4]
  assert found[-1][0]["id"].tolist() == [16, 17, 18, 19, 19, 19, 19, 19]


def test_a_bad_record_in_evaluation_is_an_error():
  run = evaluation.evaluation(Source(broken=[3]), image, 8, np.arange(8), 2)
  with pytest.raises(errors.UserError, match="record 3"):
    list(itertools.islice(run, 1))


def test_captions_are_lists():
  assert next(iter(evaluation.captions(Source()))) == ["0 0"]
  assert next(iter(evaluation.captions(Source(captions=2)))) == ["0 0", "0 1"]
