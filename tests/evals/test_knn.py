"""k-NN against all distances in float64, and by hand where classes tie."""

import numpy as np
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.evals import _cosines, knn

TRAIN = planted.clusters(101, spread=2.0, seed=1)
TEST = planted.clusters(43, spread=2.0, seed=2)


def brute(test, train, k, T, own=False):
  """Top-1 and top-5 by a loop over the queries, in float64."""
  q, bank = (planted.unit(s.x.astype(np.float64)) for s in (test, train))
  ranks = []
  for i, y in enumerate(test.label):
    cosine = bank @ q[i]
    if own:
      cosine[i] = -np.inf
    votes = np.zeros(7)
    for j in sorted(range(len(bank)), key=lambda j: -cosine[j])[:k]:
      votes[train.label[j]] += np.exp(cosine[j] / T)
    ranks.append(np.sum(votes >= votes[y]) - 1)
  return [np.mean(np.array(ranks) < n) for n in (1, 5)]


@pytest.mark.parametrize("devices", [1, 8])
def test_the_figures_are_those_of_all_distances_in_float64(
  devices, monkeypatch
):
  """In chunks, over a bank that 8 devices cannot split evenly."""
  monkeypatch.setattr(_cosines, "_CHUNK", 16)
  monkeypatch.setattr(knn, "_CHUNK", 10)
  embed = planted.model(devices)
  run = knn.prepare(TEST, train=TRAIN, k=[1, 9, 101], T=0.2)
  found = dict(run(embed))
  assert list(found) == [
    "top1_k1", "top5_k1", "top1_k9", "top5_k9", "top1_k101", "top5_k101",
    "T", "chance", "chance_top5",
  ]  # fmt: skip
  for k in (1, 9, 101):
    top1, top5 = brute(TEST, TRAIN, k, 0.2)
    assert found[f"top1_k{k}"] == top1 and found[f"top5_k{k}"] == top5
  assert 0.2 < found["top1_k9"] < 0.95
  alone = dict(knn.prepare(TEST, train=TRAIN, k=9, T=0.2)(embed))
  assert alone == {
    "top1": found["top1_k9"], "top5": found["top5_k9"], "k": 9, "T": 0.2,
    "chance": 1 / 7, "chance_top5": 5 / 7,
  }  # fmt: skip


@pytest.mark.parametrize("train", [None, TRAIN])
@pytest.mark.parametrize("devices", [1, 8])
def test_a_record_is_no_neighbor_of_its_own(train, devices):
  found = dict(knn.prepare(TRAIN, train=train, k=5)(planted.model(devices)))
  top1, _ = brute(TRAIN, TRAIN, 5, 0.07, own=True)
  assert found["top1"] == top1 < 1
  # A copy is other data: then each record finds itself.
  copy = planted.Data(TRAIN.x, TRAIN.label)
  found = dict(knn.prepare(TRAIN, train=copy, k=1)(planted.model(devices)))
  assert found["top1"] == 1


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 2, 20, 60])
def test_a_model_that_makes_all_alike_is_never_right(k, devices):
  """Whatever the order of the training rows, whose classes are sorted."""
  same = planted.unit(np.ones((84, 3)))
  train = planted.Data(same, np.arange(84) // 12)
  test = planted.Data(same[:7], np.arange(7))
  run = knn.prepare(test, train=train, k=k)
  assert dict(run(planted.model(devices)))["top1"] == 0


def test_classes_with_as_many_votes_count_against():
  """By hand: two neighbors of each class at the same two angles."""
  train = planted.Data(
    [[4, 3], [4, -3], [3, 4], [3, -4], [-1, 0]], [0, 1, 1, 0, 2]
  )
  for label, right in ((0, 0.0), (1, 0.0), (2, 0.0)):
    test = planted.Data([[1, 0]], [label])
    found = dict(knn.prepare(test, train=train, k=4)(planted.model()))
    assert found["top1"] == right
  # A hair nearer to [4, 3], of class 0, than to [4, -3].
  test = planted.Data([[1, 1e-3]], [0])
  assert dict(knn.prepare(test, train=train, k=2)(planted.model()))["top1"] == 1
  test = planted.Data([[1, 1e-3]], [1])
  assert dict(knn.prepare(test, train=train, k=2)(planted.model()))["top1"] == 0


def test_rows_as_near_at_the_last_place_count_against():
  """k = 2 of three rows, of which two are equal: a 1, a 0."""
  train = planted.Data([[1, 0], [0, 1], [0, 1]], [0, 0, 1])
  test = planted.Data([[0.6, 0.8]] * 2, [0, 1])
  # For a 0: the equal rows are ahead; of these the 1 is taken, and the 0.
  embed = planted.model()
  found = dict(knn.prepare(test, train=train, k=1)(embed))
  assert found["top1"] == 0
  # With all three, class 0 has two of them.
  found = dict(knn.prepare(test, train=train, k=3)(embed))
  assert found["top1"] == 0.5


def test_a_small_temperature_makes_the_nearest_decide():
  small = dict(knn.prepare(TEST, train=TRAIN, k=50, T=1e-5)(planted.model()))
  first = dict(knn.prepare(TEST, train=TRAIN, k=1)(planted.model()))
  assert small["top1"] == first["top1"]


def test_classes_are_the_sources_and_are_matched_by_name():
  names = [*"abcdefgh"]
  train = planted.Data(TRAIN.x, TRAIN.label, names)
  # The same rows, whose source sorts its classes the other way round.
  other = planted.Data(TEST.x, 7 - TEST.label, names[::-1])
  found = dict(knn.prepare(other, train=train)(planted.model()))
  top1, top5 = brute(TEST, TRAIN, 20, 0.07)
  assert (found["top1"], found["top5"]) == (top1, top5)
  # Of which some occur nowhere.
  assert found["chance"] == 1 / 8
  few = planted.Data(TEST.x[:5], TEST.label[:5] % 2)
  assert dict(knn.prepare(few, train=TRAIN)(planted.model()))["chance"] == 1 / 7


def test_embeddings_and_features_are_two_things():
  embed = planted.model(project=lambda x: np.abs(x[:, :2]) + 0.1)
  on = [dict(knn.prepare(TEST, train=TRAIN, on=o)(embed))["top1"]
        for o in ("features", "embeddings")]  # fmt: skip
  folded = [planted.Data(np.abs(s.x[:, :2]) + 0.1, s.label)
            for s in (TEST, TRAIN)]  # fmt: skip
  assert on == [brute(TEST, TRAIN, 20, 0.07)[0], brute(*folded, 20, 0.07)[0]]
  assert on[0] > on[1]


def test_records_without_a_label_are_left_out_and_counted():
  label = TRAIN.label.copy()
  label[::4] = -1
  train = planted.Data(TRAIN.x, label)
  test = planted.Data(TEST.x, np.where(np.arange(43) < 3, -1, TEST.label))
  found = dict(knn.prepare(test, train=train)(planted.model()))
  assert found["unlabeled"] == 3 and found["unlabeled_train"] == 26
  clean = [planted.Data(s.x[s.label >= 0], s.label[s.label >= 0])
           for s in (test, train)]  # fmt: skip
  assert found["top1"] == brute(*clean, 20, 0.07)[0]
  own = dict(knn.prepare(train)(planted.model()))
  assert own["unlabeled"] == 26 and "unlabeled_train" not in own
  for source, bank, said in (
    (planted.Data(TEST.x), TRAIN, "labels of source = 'none'"),
    (TEST, planted.Data(TRAIN.x), "labels of train = 'none'"),
  ):
    with pytest.raises(errors.UserError, match=said):
      dict(knn.prepare(source, train=bank)(planted.model()))


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"k": 0}, "k = 0; expected a whole number"),
    ({"k": []}, "k = "),
    ({"k": [1, 2.5]}, "k = "),
    ({"k": [5, 5]}, "each number once"),
    ({"T": 0.0}, "T = 0.0; expected a number above 0"),
    ({"T": float("nan")}, "T = nan"),
    ({"on": "tokens"}, "on = 'tokens'; expected one of embeddings"),
  ],
)
def test_wrong_arguments_are_named(kwargs, said):
  with pytest.raises(errors.UserError, match=said):
    knn.prepare(TEST, **kwargs)


def test_more_neighbors_than_rows_and_labels_without_a_class_are_errors():
  embed = planted.model()
  with pytest.raises(errors.UserError, match="k = 102; expected at most 101"):
    knn.prepare(TEST, train=TRAIN, k=[1, 102])
  with pytest.raises(errors.UserError, match="k = 101; expected at most 100"):
    knn.prepare(TRAIN, k=101)
  some = np.where(np.arange(101) < 60, -1, TRAIN.label)
  train = planted.Data(TRAIN.x, some)
  with pytest.raises(errors.UserError, match="k = 42; expected at most 41"):
    dict(knn.prepare(TEST, train=train, k=42)(embed))
  beyond = planted.Data(TEST.x, TEST.label + 1)
  with pytest.raises(errors.UserError, match="source = '1 to 7'; .* 0 to 6"):
    dict(knn.prepare(beyond, train=TRAIN)(embed))
  names = planted.Data(TRAIN.x, TRAIN.label, ["cat", "dog"])
  with pytest.raises(
    errors.UserError, match="train = '0 to 6'; expected 0 to 1"
  ):
    dict(knn.prepare(TEST, train=names)(embed))


def test_a_class_without_a_training_row_is_told(caplog):
  train = planted.Data(TRAIN.x, TRAIN.label, [*"abcdefgh"])
  dict(knn.prepare(TEST, train=train)(planted.model()))
  assert "no row of train is of the classes 'h'" in caplog.text


def test_features_of_zeros_name_their_record():
  test = planted.Data(np.zeros((2, 16)), [0, 1])
  with pytest.raises(errors.RunError, match="2 of 2 images.*record 0"):
    dict(knn.prepare(test, train=TRAIN)(planted.model()))


def test_it_can_be_stopped_between_chunks(monkeypatch):
  monkeypatch.setattr(_cosines, "_CHUNK", 16)
  calls = []
  run = knn.prepare(TEST, train=TRAIN)
  dict(run(planted.model(check=lambda: calls.append(1))))
  assert len(calls) == 3
