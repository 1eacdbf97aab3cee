"""The picture of nearest images: who is shown beside whom, in which color."""

import numpy as np
import PIL.Image
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.evals import neighbors

TRAIN = planted.clusters(29, spread=2.0, seed=1)
TEST = planted.clusters(9, spread=2.0, seed=2)


def shown(monkeypatch, *args, **kwargs):
  """By row: (image's number, lines below it, color), the query first."""
  cells = {}

  def cell(sheet, row, column, record, text, color):
    cells.setdefault(row, []).append((record["id"], text, color))

  monkeypatch.setattr(neighbors, "_cell", cell)
  list(neighbors.prepare(*args, **kwargs)(planted.model(2)))
  return [*cells.values()]


def nearest(query, bank, k, own=None):
  cosine = planted.unit(bank.x.astype(float)) @ planted.unit(query[None])[0]
  if own is not None:
    cosine[own] = -2
  order = np.argsort(-cosine)[:k]
  return order.tolist(), cosine[order]


def test_each_row_shows_the_nearest_of_another_source(monkeypatch):
  rows = shown(monkeypatch, TEST, train=TRAIN, rows=5, k=3)
  assert len(rows) == 5 and len({row[0][0] for row in rows}) == 5
  colors = set()
  for (i, name, frame), *others in rows:
    assert name == f"class {TEST.label[i]}" and frame == "white"
    near, cosine = nearest(TEST.x[i], TRAIN, 3)
    assert [j for j, *_ in others] == near
    for (j, text, color), c in zip(others, cosine, strict=True):
      same = TEST.label[i] == TRAIN.label[j]
      assert text == f"{c:.3f}\nclass {TRAIN.label[j]}"
      assert color == ("green" if same else "red")
      colors.add(color)
  assert colors == {"green", "red"}


@pytest.mark.parametrize("train", [None, TRAIN])
def test_no_image_is_shown_beside_itself(train, monkeypatch):
  """Nor where copies of it are as near as it is."""
  for (i, *_), *others in shown(monkeypatch, TRAIN, train=train, rows=29, k=4):
    assert [j for j, *_ in others] == nearest(TRAIN.x[i], TRAIN, 4, own=i)[0]
  same = planted.Data(np.ones((9, 3)), np.zeros(9))
  rows = shown(monkeypatch, same, rows=9, k=2)
  assert all(len(row) == 3 for row in rows)
  assert all(row[0][0] not in [j for j, *_ in row[1:]] for row in rows)


def test_classes_are_matched_by_name_and_what_has_no_label_is_gray(monkeypatch):
  train = planted.Data([[1, 0], [0.9, 0.1], [0.8, 0.2]], [0, 1, -1], ["b", "a"])
  test = planted.Data([[1, 0]], [1], ["a", "b"])
  ((query, *others),) = shown(monkeypatch, test, train=train, k=3)
  assert query[1] == "b"
  assert [(text.split("\n")[1], color) for _, text, color in others] == [
    ("b", "green"), ("a", "red"), ("no label", "gray")
  ]  # fmt: skip
  ((query, *others),) = shown(
    monkeypatch, planted.Data([[1, 0]]), train=train, k=3
  )
  assert query[1] == "no label" and {c for *_, c in others} == {"gray"}


def test_it_is_a_picture_with_green_and_red_frames():
  run = neighbors.prepare(TEST, train=TRAIN, rows=4, k=5)
  ((name, sheet),) = run(planted.model())
  assert name == "nearest_images" and isinstance(sheet, PIL.Image.Image)
  pixels = np.asarray(sheet)
  colors = {tuple(c) for c in np.unique(pixels.reshape(-1, 3), axis=0)}
  assert {(0, 128, 0), (255, 0, 0)} <= colors
  assert sheet.width > 6 * 96 and sheet.height > 4 * 96
  ((_, again),) = run(planted.model(8))
  np.testing.assert_array_equal(pixels, np.asarray(again))


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"k": 0}, "k = 0; expected a whole number"),
    ({"rows": 0}, "rows = 0; expected a whole number"),
    ({"k": 9}, "k = 9; expected at most 8"),
    ({"k": 30, "train": TRAIN}, "k = 30; expected at most 29"),
    ({"on": "tokens"}, "on = 'tokens'"),
  ],
)
def test_wrong_arguments_are_named(kwargs, said):
  with pytest.raises(errors.UserError, match=said):
    neighbors.prepare(TEST, **kwargs)
