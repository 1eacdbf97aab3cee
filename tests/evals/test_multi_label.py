"""Images with several labels, and classes that are some of a list."""

import numpy as np
import pytest
import stand_ins

from big_contrastive.config import errors
from big_contrastive.data.source import Records
from big_contrastive.evals import zero_shot, zero_shot_multi_label

NAMES = [f"c {i}" for i in range(6)]


def test_a_prediction_is_right_if_it_is_among_the_labels():
  r = np.random.default_rng(0)
  score, truth = r.normal(size=(200, 6)), r.random((200, 6)) < 0.4
  truth[~truth.any(1), 0] = True
  right = zero_shot_multi_label.right(score, truth, NAMES)
  assert right.tolist() == [bool(t[s.argmax()]) for s, t in zip(score, truth)]
  assert 0 < right.mean() < 1


@pytest.mark.parametrize(
  ("score", "labels", "right"),
  [
    ([1, 1, 0], [0], False),  # A tie with what is wrong.
    ([1, 1, 0], [0, 1], True),  # A tie of two labels is none.
    ([1, 0, 1], [0], True),  # Of equal names the first is taken,
    ([1, 0, 1], [2], False),  # and so the last one is not.
    ([np.nan, 0, 0], [0], False),
    ([np.nan, 1, 0], [1], False),
  ],
)
def test_ties_and_what_is_not_finite(score, labels, right):
  truth = np.isin(range(3), labels)[None]
  score = np.array([score], np.float32)
  names = ["crane", "bird", "crane"]
  found = zero_shot_multi_label.right(score, truth, names)
  assert found.tolist() == [right]


def source(*labels, key="labels"):
  return Records(
    [
      {"image": b"class %d" % i, "id": i, key: label}
      for i, label in enumerate(labels)
    ]
  )


def run(task, records, **kwargs):
  return dict(
    task.prepare(records, classes=NAMES, **kwargs)(stand_ins.Knowing(6).embed())
  )


def test_one_label_each_is_zero_shot():
  labels = [0, 2, 2, 3]
  one = run(zero_shot, source(*labels, key="label"), match="number")
  for records in (
    source(*labels, key="label"), source(*[[k] for k in labels])
  ):  # fmt: skip
    found = run(zero_shot_multi_label, records)
    assert found["top1"] == one["top1"] == 3 / 4
    assert found["chance"] == pytest.approx(one["chance"])


@pytest.mark.parametrize(
  ("labels", "said"),
  [([[], []], "labels of source = 'none'"), ([[0], [6]], "'6 to 6'.* 0 to 5")],
)
def test_labels_that_do_not_fit_are_one_line(labels, said):
  with pytest.raises(errors.UserError, match=said):
    run(zero_shot_multi_label, source(*labels))


def test_only_leaves_the_other_classes_out():
  """As if list and labels were written anew, of these classes alone."""
  labels, kept = [3, 1, 4], [1, 3, 4]
  found = run(
    zero_shot, source(*labels, key="label"), match="number", only=kept
  )
  assert found["chance"] == 1 / 3
  # Record 1 shows its class; 0 and 2 show what is left out: ties of all three.
  assert found["top1"] == 1 / 3 and found["top5"] == 1


@pytest.mark.parametrize("only", [[1, 0], [0, 0], [6], [-1], ["1"], [True]])
def test_only_is_of_places_in_the_list(only):
  with pytest.raises(errors.UserError, match="only = .* 0 to 5, ascending"):
    run(zero_shot, source(0, key="label"), only=only)


def test_a_label_that_is_left_out_is_one_line():
  with pytest.raises(
    errors.UserError, match="data = 2; expected the 2 classes"
  ):
    run(zero_shot, source(0, 2, key="label"), match="number", only=[0, 1])
