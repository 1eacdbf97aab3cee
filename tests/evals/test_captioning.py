"""Figures of generated captions, and classes by likelihood, by hand."""

import jax
import numpy as np
import PIL.Image
import pytest

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.data.sources import shapes
from big_contrastive.data.synthetic import captions, reading
from big_contrastive.evals import Captions, Embed, captioning
from big_contrastive.evals import zero_shot_captions as zero_shot
from big_contrastive.models.captioning.generation import Decoding
from big_contrastive.parallel import sharding
from planted import unit


class Records(Source):
  def __init__(self, texts, labels=None, classes=None, truth=None):
    self._texts, self._labels, self.classes = texts, labels, classes
    self._truth = truth

  def __len__(self):
    return len(self._texts)

  def __getitem__(self, index):
    image = np.full((8, 8, 3), 9 * index, np.uint8)
    label = {} if self._labels is None else {"label": self._labels[index]}
    return {"image": image, "text": self._texts[index], "id": index} | label

  def true(self, index, caption):
    return None if self._truth is None else caption in self._truth[index]


def spoken(said, room=12):
  """An Embed whose decoder says these captions; what it was asked for."""
  asked = []

  def generate(source, how, prompt="", seed=0):
    asked.append((how, prompt, seed))
    return said, np.zeros(len(said), np.float32)

  def nothing(*_):
    raise AssertionError

  embed = Embed(
    nothing, nothing, nothing, sharding.make_mesh(devices=jax.devices()[:1]),
    has_text=False,
    captions=Captions(generate, nothing, lambda prompt: room - len(prompt)),
  )  # fmt: skip
  return embed, asked


TEXTS = [
  ["a red circle", "A red disc."], ["a red circle"], ["a blue ring"],
  ["two green stars"],
]  # fmt: skip


def test_the_figures_of_captions():
  said = ["a red disc", "a blue ring", "a blue ring", "A red circle"]
  embed, asked = spoken(said)
  found = dict(captioning.prepare(Records(TEXTS), seed=7)(embed))
  assert found["exact"] == 2 / 4
  # "a red circle" is the most frequent one, of two images.
  assert found["exact_constant"] == 2 / 4
  assert found["distinct"] == 3 / 4
  assert found["bleu1"] == pytest.approx((3 + 1 + 3 + 0) / 12)
  assert found["cider_constant"] > 0 and 0 < found["cider"] < 10
  assert isinstance(found.pop("captions"), PIL.Image.Image)
  assert "true" not in found and "clip_score" not in found
  assert set(found) == {
    "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "exact",
    "exact_constant", "cider_constant", "distinct",
  }  # fmt: skip
  assert asked == [(Decoding(max_tokens=12), "", 7)]


def test_captions_as_written_are_exact():
  embed, _ = spoken([t[0] for t in TEXTS])
  found = dict(captioning.prepare(Records(TEXTS))(embed))
  assert found["exact"] == found["rouge_l"] == 1
  # The published BLEU adds a little to what it divides by.
  assert found["bleu1"] == pytest.approx(1, abs=1e-8)


def test_where_the_truth_is_known_it_is_told():
  truth = [{"a", "b"}, {"b"}, {"c"}, {"d"}]
  embed, _ = spoken(["a", "b", "b", "d"])
  found = dict(captioning.prepare(Records(TEXTS, truth=truth))(embed))
  assert found["true"] == 3 / 4
  # Of the image before: d, a, b, b.
  assert found["true_of_others"] == 0


def test_what_decoding_is_asked_for():
  embed, asked = spoken(["a"] * 4)
  run = captioning.prepare(
    Records(TEXTS), method="nucleus", top_p=0.5, max_tokens=3, prompt="xx"
  )
  dict(run(embed))
  assert asked == [(Decoding("nucleus", 3, top_p=0.5), "xx", 0)]


def test_clip_score_is_that_of_the_model_itself():
  z = unit(np.random.default_rng(0).normal(size=(4, 8)))
  embed, _ = spoken([t[0] for t in TEXTS])
  data = type("Data", (), {"zimg": z})
  turned = np.concatenate([z[:2], -z[2:]])
  embed = Embed(
    lambda source: data, embed.features, lambda texts: turned, embed.mesh,
    captions=embed.captions,
  )  # fmt: skip
  found = dict(captioning.prepare(Records(TEXTS))(embed))
  assert found["clip_score"] == pytest.approx(2.5 / 2)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"method": "best"}, "method = 'best'; expected"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens = 5; expected at most"),
    ({"rows": 0}, "rows = 0; expected"),
  ],
)
def test_wrong_fields_are_one_line(fields, said):
  with pytest.raises(errors.UserError) as e:
    captioning.prepare(Records(TEXTS), **fields)
  assert said in str(e.value)


def test_no_decoder_and_no_captions_are_one_line():
  embed, _ = spoken(["a"] * 4)
  with pytest.raises(errors.UserError, match="captions of source = 'none of"):
    dict(captioning.prepare(Records([["a"], []]))(embed))
  without = Embed(embed.images, embed.features, embed.texts, embed.mesh)
  with pytest.raises(errors.UserError, match="decoder is missing"):
    dict(captioning.prepare(Records(TEXTS))(without))


def likely(score, label):
  embed, _ = spoken([])
  made = Captions(
    embed.captions.generate,
    lambda source, texts: (np.float32(score), np.array(label)),
    embed.captions.room,
  )
  return Embed(
    embed.images, embed.features, embed.texts, embed.mesh, captions=made
  )


def test_the_likeliest_text_is_the_class():
  score = [[-1, -2, -3], [-5, -4, -6], [-1, -1, -9], [0, 0, 0]]
  source = Records(TEXTS, [0, 0, 1, -1], ["a", "b", "c"])
  found = dict(zero_shot.prepare(source)(likely(score, [0, 0, 1, -1])))
  # The tie of the third counts against it; the fourth has no label.
  assert found == {"top1": 1 / 3, "chance": 1 / 3, "unlabeled": 1.0}


def test_classes_need_names_and_a_template():
  with pytest.raises(errors.UserError, match="classes of source is missing"):
    zero_shot.prepare(Records(TEXTS, [0] * 4))
  with pytest.raises(errors.UserError, match="template = 'a'; expected"):
    zero_shot.prepare(Records(TEXTS, [0] * 4, ["a"]), template="a")
  source = Records(TEXTS, [-1] * 4, ["a", "b"])
  with pytest.raises(errors.UserError, match="labels of source = 'none"):
    dict(zero_shot.prepare(source)(likely(np.zeros((4, 2)), [-1] * 4)))


@pytest.mark.parametrize("split", ["train", "heldout", "heldout_relations"])
def test_captions_of_scenes_are_read_as_they_are_meant(split):
  """And true of their scenes; hardly ever of others."""
  told, others, last = 0, 0, None
  for i in range(300):
    scene, rng = shapes._scene(split, i, 0)
    description = captions.describe(split, scene, rng)
    for caption in captions.captions(description, rng):
      assert reading.read(caption) == description, caption
      assert reading.true(scene, caption)
    told, others = told + 1, others + bool(last and reading.true(scene, last))
    last = caption
  assert others / told < 0.05


@pytest.mark.parametrize(
  "text",
  ["", "a", "a dog", "a red dog", "a red red circle", "circle red", "a red",
   "a red blue circle", "a red circle above", "above a red circle",
   "a red circle with stripes with dots"],
)  # fmt: skip
def test_what_is_no_caption_of_a_scene_says_nothing(text):
  assert reading.read(text) is None


def test_a_caption_is_true_if_all_that_it_says_is_so():
  scene = reading.read("a small striped red circle at the top")
  assert reading.true(scene, "a disc")
  assert reading.true(scene, "There is a tiny red circle with stripes")
  assert not reading.true(scene, "a small red ring at the top")
  assert not reading.true(scene, "a small red circle in the center")
  assert not reading.true(scene, "a red circle above a blue ring")
  two = reading.read("a red circle above a blue ring")
  assert reading.true(two, "a blue ring below a red disc")
  assert not reading.true(two, "a blue ring above a red disc")
  assert not reading.true(two, "a red circle")


def test_shapes_know_the_truth_of_whole_splits():
  fields = {"train_size": 512, "size": 32}
  source = shapes.source("heldout", **fields)
  for i in (0, 7):
    assert all(source.true(i, text) for text in source[i]["text"])
  assert source.true(0, "a dog") is False
  part = shapes.source("heldout[3:]", **fields)
  assert part.true(0, part[0]["text"][0]) is None
  wrong = shapes.source("val", wrong=1.0, **fields)
  found = [wrong.true(i, wrong[i]["text"][0]) for i in range(20)]
  assert sum(found) < 10
