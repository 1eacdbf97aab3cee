"""Evaluators against figures worked out by hand."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest

from big_contrastive.config import errors, registry
from big_contrastive.data import source as contract
from big_contrastive.evals import (
  Embed,
  Embedded,
  gallery,
  retrieval,
  zero_shot,
)


@dataclasses.dataclass
class Source(contract.Source):
  """Records without pictures: embeddings are given by the test."""

  texts: list
  ids: list
  labels: list | None = None
  classes: list | None = None

  def __len__(self):
    return len(self.texts)

  def __getitem__(self, i):
    image = np.full((8, 8, 3), 40 * i, np.uint8)
    return {"image": image, "text": self.texts[i], "id": self.ids[i]}


def embed_images(zimg, source):
  labels = source.labels or [-1] * len(source)
  fixed = np.asarray(zimg, np.float32)
  data = Embedded(fixed, np.array(labels), np.array(source.ids))
  return lambda _: data


def embed_texts(table):
  return lambda texts: np.array([table[t] for t in texts], np.float32)


def model(images, texts):
  """What an evaluator gets, of such functions."""
  return Embed(images=images, features=None, texts=texts, mesh=None)


def test_every_evaluator_has_a_prepare():
  for name in registry.names("evals"):
    assert callable(registry.module("evals", name, "").prepare)


def test_recalls_are_those_worked_out_by_hand():
  source = Source(["a", "b", "c"], [0, 1, 2])
  zimg = [[1, 0], [0, 1], [0.6, 0.8]]
  texts = {"a": [1, 0], "b": [0.6, 0.8], "c": [0, 1]}
  # Image 0 finds a; 1 finds c (cos 1), then b; 2 finds b, then c.
  run = retrieval.prepare(source)
  found = dict(run(model(embed_images(zimg, source), embed_texts(texts))))
  assert found["img2txt_r1"] == found["txt2img_r1"] == pytest.approx(1 / 3)
  assert found["img2txt_r5"] == found["txt2img_r10"] == 1.0
  # Of three candidates any five hold the match.
  assert found["chance_img2txt_r5"] == found["chance_txt2img_r10"] == 1.0
  assert found["chance_r1"] == pytest.approx(1 / 3)


def test_several_captions_and_shared_ids_all_match():
  # Images 0 and 1 are one concept; its captions are right for both.
  source = Source([["a", "b"], ["a", "d"], "c"], [0, 0, 1])
  zimg = [[1, 0], [0, 1], [-1, 0]]
  texts = {"a": [0, 1], "b": [0, -1], "d": [1, 0], "c": [-1, 0]}
  run = retrieval.prepare(source)
  found = dict(run(model(embed_images(zimg, source), embed_texts(texts))))
  assert found["img2txt_r1"] == 1.0  # Image 0 finds d, a caption of image 1.
  # b is nearest to none of its images: both 0, as is c; c's tie is a miss.
  assert found["txt2img_r1"] == pytest.approx(3 / 4)
  # Of 3 x 4 pairs of image and text, 2 x 3 + 1 x 1 match.
  assert found["chance_r1"] == pytest.approx(7 / 12)


class Pictures(Source):
  """Records that show the picture of a number."""

  def __getitem__(self, i):
    image = np.full((2, 2, 3), self.labels[i], np.uint8).tobytes()
    return {"image": image, "text": self.texts[i], "id": self.ids[i]}


def test_a_record_a_caption_gives_the_recalls_of_a_record_an_image():
  """Whether ids are the rows, or already one an image."""
  r = np.random.default_rng(0)
  zimg, captions = r.normal(size=(7, 4)), [f"c{i}" for i in range(21)]
  texts = embed_texts({c: r.normal(size=4) for c in captions})
  whole = Source([captions[3 * i : 3 * i + 3] for i in range(7)], [*range(7)])
  want = dict(retrieval.prepare(whole)(model(embed_images(zimg, whole), texts)))
  assert 0 < want["img2txt_r1"] < 1
  shown = [i // 3 for i in range(21)]
  rows = [*range(21)]
  for ids in (rows, shown, [5 + i for i in rows]):
    source = Pictures(captions, ids, shown)
    run = retrieval.prepare(source)
    images = embed_images(np.repeat(zimg, 3, 0), source)
    assert dict(run(model(images, texts))) == want


def test_images_of_two_concepts_stay_two():
  """Two concepts drawn alike: each drawing is right about its own alone."""
  source = Pictures(list("abcd"), [0, 0, 1, 1], [7, 8, 7, 9])
  ids, images, texts, text_id = retrieval.distinct(source, np.array(source.ids))
  assert ids.tolist() == [0, 0, 1, 1] and images.tolist() == [0, 1, 2, 3]
  assert text_id.tolist() == [0, 0, 1, 1] and texts == list("abcd")


def test_chance_is_what_guessing_gives():
  """Of all orders of the candidates, as many as a shuffle shows."""
  r = np.random.default_rng(0)
  ids, others = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1, 2, 3, 3])
  for k in (1, 2, 5, 10):
    hits = [
      i in r.permutation(others)[:k] for _ in range(4000) for i in ids.tolist()
    ]
    assert retrieval.chance(ids, others, k) == pytest.approx(
      np.mean(hits), abs=0.02
    )


@pytest.mark.parametrize("task", ["retrieval", "zero_shot"])
def test_a_collapsed_model_is_right_about_nothing(task):
  source = Source(list("abcd"), [0, 1, 2, 3], [0, 1, 2, 3], list("abcd"))
  module = registry.module("evals", task, "")
  same = np.ones((4, 2)) / np.sqrt(2)
  texts = embed_texts(dict.fromkeys("abcd", same[0]))
  found = dict(module.prepare(source)(model(embed_images(same, source), texts)))
  first = "img2txt_r1" if task == "retrieval" else "top1"
  assert found[first] == 0.0


def test_chunks_of_queries_change_nothing(monkeypatch):
  r = np.random.default_rng(0)
  args = (
    r.normal(size=(50, 4)), r.integers(0, 9, 50),
    r.normal(size=(30, 4)), np.arange(30) % 9,
  )  # fmt: skip
  whole = retrieval.first_match(*args)
  monkeypatch.setattr(retrieval, "_CHUNK", 7)
  np.testing.assert_array_equal(whole, retrieval.first_match(*args))


def test_zero_shot_averages_unit_prompts_and_makes_the_mean_unit():
  source = Source(["x"] * 3, [0, 1, 2], [0, 1, 1], ["cat", "dog"])
  texts = {
    "a cat": [1, 0], "the cat": [0, 1], "a dog": [0, -1], "the dog": [0, -1]
  }  # fmt: skip
  zimg = [[0.8, 0.6], [0, -1], [1, 0]]  # cat is (1, 1) / sqrt 2.
  run = zero_shot.prepare(source, templates=["a {c}", "the {c}"])
  found = dict(run(model(embed_images(zimg, source), embed_texts(texts))))
  assert found["top1"] == pytest.approx(2 / 3)
  assert found["top5"] == 1.0 and found["chance"] == 0.5
  assert found["chance_top5"] == 1.0


def test_class_names_come_from_lists_files_tables_and_json(tmp_path):
  source = Source(["x", "x"], [0, 1], [0, 1])
  texts = embed_texts({"cat": [1, 0], "dog": [0, 1]})
  images = embed_images([[1, 0], [0, 1]], source)
  (tmp_path / "names.txt").write_text("cat\ndog\n")
  (tmp_path / "names.tsv").write_text("id\tname\n0\tcat\n1\tdog\n")
  (tmp_path / "names.json").write_text(json.dumps({"pets": ["cat", "dog"]}))
  for classes in (
    ["cat", "dog"], f"{tmp_path}/names.txt", f"{tmp_path}/names.tsv:name",
    f"{tmp_path}/names.json:pets",
  ):  # fmt: skip
    run = zero_shot.prepare(source, classes=classes)
    assert dict(run(model(images, texts)))["top1"] == 1.0


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({}, "classes"),
    ({"classes": "nowhere.txt"}, "nowhere.txt"),
    ({"classes": ["a"], "templates": ["a photo"]}, "templates = 'a photo'"),
  ],
)
def test_missing_names_and_bad_templates_are_named(kwargs, said):
  with pytest.raises(errors.UserError, match=said):
    zero_shot.prepare(Source(["x"], [0], [0]), **kwargs)


def test_classes_of_one_name_are_taken_in_their_order():
  """As numpy's or torch's topk takes them: ImageNet has two missiles."""
  names = ["ant", "missile", "bee", "missile", "missile"]
  scores = np.eye(5, dtype=np.float32)[[0, 1, 2, 1, 1]] * 0.5
  scores[:, [1, 3, 4]] = scores[:, [1]]
  label = np.arange(5)
  order = np.argsort(-scores, axis=1, kind="stable")
  want = [list(row).index(y) for row, y in zip(order, label, strict=True)]
  assert want == [0, 0, 0, 1, 2]
  assert zero_shot.ranks(scores, label, names).tolist() == want
  # Without the names a tie counts against all of them.
  assert zero_shot.ranks(scores, label).tolist() == [0, 2, 0, 2, 2]


@pytest.mark.parametrize("content", ["a\nb\n", "\ufeffa\nb\n\n"])
def test_a_file_has_as_many_names_however_it_is_written(content, tmp_path):
  (tmp_path / "names.txt").write_text(content, encoding="utf-8")
  assert zero_shot._listed(f"{tmp_path}/names.txt", "classes") == ["a", "b"]


def test_names_in_another_encoding_are_an_error(tmp_path):
  (tmp_path / "names.txt").write_bytes(b"caf\xe9\n")
  with pytest.raises(errors.UserError, match="classes.*UTF-8"):
    zero_shot._listed(f"{tmp_path}/names.txt", "classes")


def test_labels_without_names_are_an_error():
  source = Source(["x", "x"], [0, 1], [0, 2], ["cat", "dog"])
  run = zero_shot.prepare(source)
  texts = embed_texts({"cat": [1, 0], "dog": [0, 1]})
  with pytest.raises(errors.UserError, match="0 to 2"):
    dict(run(model(embed_images([[1, 0], [0, 1]], source), texts)))


def test_the_gallery_is_a_picture_with_right_in_green_and_wrong_in_red():
  source = Source(["aaa", "bbb"], [0, 1])
  texts = {"aaa": [1, 0], "bbb": [0.9, 0.1]}
  run = gallery.prepare(source, rows=1, columns=2)
  ((name, sheet),) = run(
    model(embed_images([[1, 0], [1, 0]], source), embed_texts(texts))
  )
  assert isinstance(sheet, PIL.Image.Image)
  pixels = np.asarray(sheet).reshape(-1, 3).astype(int)
  green = (pixels[:, 1] > pixels[:, 0] + 60) & (
    pixels[:, 1] > pixels[:, 2] + 60
  )
  red = (pixels[:, 0] > pixels[:, 1] + 60) & (pixels[:, 0] > pixels[:, 2] + 60)
  assert green.any() and red.any()


def test_the_gallery_looks_among_class_names_if_asked():
  source = Source(["x", "y"], [0, 0], [1, 0], ["cat", "dog"])
  asked = []

  def texts(names):
    asked.extend(names)
    return np.array([[1, 0], [0, 1]], np.float32)

  run = gallery.prepare(source, rows=1, columns=2, texts="classes")
  list(run(model(embed_images([[1, 0], [1, 0]], source), texts)))
  assert asked == ["cat", "dog"]
  with pytest.raises(errors.UserError, match="texts"):
    gallery.prepare(Source(["x"], [0]), texts="classes")


def test_mean_per_class_recall_weighs_classes_alike():
  """Three of four right in one class, none in another, a third is absent."""
  right = np.array([True, True, False, True, False])
  label = np.array([0, 0, 0, 0, 2])
  assert zero_shot.per_class(right, label) == pytest.approx((0.75 + 0) / 2)


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ("[1, 2]", r"json\[0\] = 1"),
    ('{"a": [1]}', r"json\[0\] = 1"),
    ('{"a": "b"}', "It has 'b'"),
    ("{", "can't be read"),
  ],
)
def test_a_file_of_names_in_another_form_is_told(content, said, tmp_path):
  (tmp_path / "names.json").write_text(content)
  with pytest.raises(errors.UserError, match=said):
    zero_shot.prepare(None, classes=f"{tmp_path}/names.json:a")
