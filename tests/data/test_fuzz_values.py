"""Generated data of every kind: the right value or one line, seed by seed."""

import collections
import random

import fuzzing_pictures
import fuzzing_truth
import fuzzing_values
import pytest
from fuzzing_truth import Case, Row, truth

from big_contrastive.config import errors
from big_contrastive.data import source as contract


def assert_right(folder, first, count):
  """No case is wrong, and of each kind some were read and some refused."""
  seen, faults = collections.Counter(), []
  for seed in range(first, first + count):
    kind, refused, said = fuzzing_truth.run(fuzzing_values.MAKERS, folder, seed)
    seen[kind, refused] += 1
    faults += [said] if said else []
  assert not faults, "\n".join(faults[:5])
  for kind in fuzzing_values.MAKERS:
    assert min(seen[kind, False], seen[kind, True]) >= count // 50, seen


def assert_embedded(folder, model, first, count):
  for seed in range(first, first + count):
    said = fuzzing_pictures.fault(random.Random(seed), folder, model)
    said = said or fuzzing_pictures.fault_of_texts(random.Random(seed), model)
    assert not said, f"seed {seed}: {said}"


def test_some_data_give_the_right_value_or_one_line(tmp_path):
  assert_right(tmp_path, 0, 160)


@pytest.mark.slow
def test_many_data_give_the_right_value_or_one_line(tmp_path):
  assert_right(tmp_path, 10_000, 1600)


def test_some_pictures_and_texts_have_the_right_embedding(tmp_path, loaded):
  assert_embedded(tmp_path, loaded, 0, 40)


@pytest.mark.slow
def test_many_pictures_and_texts_have_the_right_embedding(tmp_path, loaded):
  assert_embedded(tmp_path, loaded, 10_000, 600)


class Source(contract.Source):
  """Records, and how many were left out."""

  def __init__(self, records, skipped=0, classes=None):
    self.records = records
    self.skipped, self.classes = {"x": skipped}, classes

  def __len__(self):
    return len(self.records)

  def __getitem__(self, i):
    return self.records[i]


def record(image, text, ident, label=None):
  found = {"image": image, "text": text, "id": ident}
  return found if label is None else found | {"label": label}


ROWS = [
  Row(b"1", ["a"], 7, 0), Row(b"2", ["b", "c"], 7, 1), Row(b"3", ["d"], 8, 1),
  Row(None, ["e"], 8, 1),
]  # fmt: skip
GOOD = [record(b"1", "a", 5, 0), record(b"2", ["b", "c"], 5, 1),
        record(b"3", "d", 6, 1)]  # fmt: skip


def fault(read, wrong=False, named=()):
  return fuzzing_truth.fault(Case("", read, [truth(ROWS)], wrong, named))


def test_the_right_values_are_no_fault():
  assert not fault(lambda: Source(GOOD, 1))
  assert not fault(lambda: Source(GOOD[::-1], 1))


@pytest.mark.parametrize(
  "source, said",
  [
    (Source(GOOD, 0), "not 1 left out"),
    (Source(GOOD, 2), "not 1 left out"),
    (Source(GOOD[1:], 2), "lost"),
    (Source([*GOOD, GOOD[0]], 1), "never written"),
    (Source([record(b"1", "z", 5, 0), *GOOD[1:]], 1), "never written"),
    (Source([record(b"9", "a", 5, 0), *GOOD[1:]], 1), "never written"),
    (Source([record(b"1", "a", 5, 1), *GOOD[1:]], 1), "never written"),
    (Source([record(b"1", "a", 5), *GOOD[1:]], 1), "never written"),
    (Source([record(b"1", "a", 4, 0), *GOOD[1:]], 1), "ids"),
    (Source([record(b"1", "a", 6, 0), *GOOD[1:]], 1), "ids"),
  ],
)
def test_every_wrong_value_is_a_fault(source, said):
  """The judge is judged: one value is changed at a time."""
  assert said in fault(lambda: source)


def test_errors_are_faults_unless_something_is_wrong_and_named():
  def refuse():
    raise errors.UserError("t.csv:3", "x", "y", "Mend it.")

  assert "an error" in fault(refuse)
  assert not fault(refuse, wrong=True, named=("t.csv:3",))
  assert "not named" in fault(refuse, wrong=True, named=("t.csv:4",))
  assert "ZeroDivision" in fault(lambda: 1 // 0, wrong=True)
