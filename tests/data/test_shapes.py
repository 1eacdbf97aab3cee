"""The embedded data set: pictures fit captions, and what is held out is.

Captions are read by a parser of this file and pictures by their colors, so
that neither is judged by the code that made it.
"""

import io
import os
import pathlib
import pickle
import re
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.pool import ThreadPool

import numpy as np
import PIL.Image
import pytest

from big_contrastive.config import errors, schema
from big_contrastive.data.sources import shapes
from big_contrastive.data.synthetic import captions, drawing, scenes
from big_contrastive.data.synthetic.scenes import Scene, Thing

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {"train_size": 400, "size": 32, "seed": 7}
SEEN = [s for s in scenes.ASKED if not s.startswith("heldout")]

SYNONYMS = {
  "disc": "circle", "box": "square", "rhombus": "diamond", "hoop": "ring",
  "moon": "crescent", "turquoise": "cyan", "violet": "purple",
  "little": "small", "tiny": "small",
  "big": "large", "huge": "large", "plain": "solid", "spotted": "dotted",
  "checked": "checkered", "stripes": "striped", "dots": "dotted",
  "checks": "checkered", "upper": "top", "lower": "bottom",
  "middle": "center",
}  # fmt: skip
FIELDS = {
  value: field
  for field in ("shape", "color", "size", "texture")
  for value in scenes.ANSWERS[field]
}
LINKS = {
  "left of": ("horizontal", 1), "right of": ("horizontal", -1),
  "above": ("vertical", 1), "over": ("vertical", 1),
  "below": ("vertical", -1), "under": ("vertical", -1),
}  # fmt: skip


def parse_thing(text: str) -> Thing:
  text = re.sub(r"^an? |\bwith\b", "", text)
  words = [SYNONYMS.get(w, w) for w in text.split()]
  words = [w for w in words if w not in ("shape", "object", "thing")]
  thing = Thing(**{FIELDS[w]: w for w in words})  # KeyError: an unknown word.
  assert len(words) == sum(v is not None for v in vars(thing).values())
  return thing


def parse(caption: str) -> Scene:
  """What a caption says, as a scene with None for what it doesn't say."""
  text = re.sub(r"^(a picture of|an image of|there is) ", "", caption)
  text = text.replace("plus sign", "cross")
  if m := re.fullmatch(rf"(.*?) (?:to the )?({'|'.join(LINKS)}) (.*)", text):
    axis, order = LINKS[m[2]]
    return Scene((parse_thing(m[1]), parse_thing(m[3]))[::order], axis)
  place = None
  if m := re.fullmatch(r"(.*?) (?:in|at|on) the (.*?)(?: corner| edge)?", text):
    text = m[1]
    place = " ".join(SYNONYMS.get(w, w) for w in m[2].split())
    assert place in scenes.POSITIONS
  return Scene((parse_thing(text),), place)


def true_of(said: Scene, scene: Scene) -> bool:
  pairs = [(said.place, scene.place)]
  for a, b in zip(said.things, scene.things, strict=True):
    pairs += zip(vars(a).values(), vars(b).values(), strict=True)
  return all(a in (None, b) for a, b in pairs)


def scene(split: str, index: int, seed: int = 0) -> Scene:
  where = list(scenes.ASKED).index(split)
  rng = np.random.default_rng([seed, where, index])
  return scenes.sample(split, index, rng)


def pixels(record: dict) -> np.ndarray:
  return np.asarray(PIL.Image.open(io.BytesIO(record["image"]))).astype(float)


def near(picture: np.ndarray, color: str) -> np.ndarray:
  """Where a picture has one of the named colors."""
  return np.linalg.norm(picture - drawing.PALETTE[color], axis=-1) < 25


def box_centre(mask: np.ndarray) -> tuple[float, float]:
  """The x and y of the middle of what is true, in sides of the picture."""
  y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
  return (x[0] + x[-1] + 1) / 2 / len(mask), (y[0] + y[-1] + 1) / 2 / len(mask)


def read(data_dir, split="train", **kwargs):
  kwargs = {"split": split, "data_dir": str(data_dir), **SMALL, **kwargs}
  return schema.call(shapes.source, kwargs, "config.source")


def in_process(data_dir, **kwargs) -> subprocess.Popen:
  """Reads the data set in a new process, with another seed of hashes."""
  code = f"""if True:
    import sys
    from big_contrastive.data.sources import shapes
    source = shapes.source("train", data_dir={str(data_dir)!r}, **{kwargs})
    print(len(source), source[3]["text"][0], "tensorflow" in sys.modules)
  """
  return subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, text=True, env=os.environ,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("shapes")
  read(folder)
  return folder


def test_two_out_of_ten_shapes_of_each_color_are_held_out():
  out = [
    (s, c)
    for s in scenes.SHAPES
    for c in scenes.COLORS
    if scenes.held_out(Thing(s, c))
  ]
  assert set(Counter(s for s, _ in out).values()) == {2}
  assert set(Counter(c for _, c in out).values()) == {2}
  assert len({s for s, _ in out}) == len({c for _, c in out}) == 10


def test_captions_of_training_never_name_a_held_out_composition(data_dir):
  for split in SEEN:
    for record in read(data_dir, split):
      for thing in parse(record["text"][0]).things:
        if thing.shape and thing.color:
          assert not scenes.held_out(thing)


def test_training_never_sees_what_is_held_out_also_where_it_is_not_said():
  for split in SEEN:
    for i in range(600):
      shown = scene(split, i)
      assert not any(scenes.held_out(thing) for thing in shown.things)
      assert len(shown.things) == 1 or not scenes.held_out_relation(shown)


def test_every_other_composition_is_seen_in_training():
  shown = {
    (t.shape, t.color) for i in range(4000) for t in scene("train", i).things
  }
  assert len(shown) == 80


def test_the_held_out_splits_show_nothing_else(data_dir):
  for record in read(data_dir, "heldout"):
    (thing,) = parse(record["text"][0]).things
    assert scenes.held_out(thing)
  for record in read(data_dir, "heldout_relations"):
    said = parse(record["text"][0])
    assert scenes.held_out_relation(said)
    assert not any(scenes.held_out(thing) for thing in said.things)


def test_held_out_relations_are_seen_reversed_and_on_the_other_axis():
  for a in scenes.SHAPES:
    for b in scenes.SHAPES:
      first = Scene((Thing(a), Thing(b)), "horizontal")
      if a != b and scenes.held_out_relation(first):
        others = [
          Scene((Thing(b), Thing(a)), "horizontal"),
          Scene((Thing(a), Thing(b)), "vertical"),
        ]
        assert not any(scenes.held_out_relation(s) for s in others)


@pytest.mark.parametrize("split", scenes.ASKED)
def test_captions_say_what_is_shown_all_of_an_image_the_same(split):
  for i in range(150):
    record = shapes.example(split, i, 16, 0)
    said = [parse(caption) for caption in record["text"]]
    assert len(set(said)) == 1 <= len(set(record["text"])) == len(said)
    assert true_of(said[0], scene(split, i))


def test_ids_are_equal_where_the_meaning_is_and_only_there():
  records = [shapes.example("train", i, 16, 0) for i in range(1500)]
  found = {(parse(r["text"][0]), r["id"]) for r in records}
  meanings, ids = zip(*found, strict=True)
  assert len(found) == len(set(meanings)) == len(set(ids)) < 1400
  assert min(ids) >= 0 and max(ids) < 2**31


@pytest.mark.parametrize("split", [s for s in SEEN if scenes.ASKED[s]])
def test_labels_are_the_shown_answer_and_all_as_frequent(split):
  names = captions.classes(split)
  assert len(set(names)) == len(names)
  labels = []
  for i in range(180):
    shown = scene(split, i)
    labels.append(captions.label(split, shown))
    named = parse(names[labels[-1]])
    assert true_of(named, shown)
    assert len(scenes.ASKED[split]) == sum(
      v is not None for v in (named.place, *vars(named.things[0]).values())
    )
  counts = Counter(labels)
  if len(scenes.ASKED[split]) == 1:
    assert len(counts) == len(names)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_held_out_labels_are_among_all_compositions(data_dir):
  records = read(data_dir, "heldout")
  assert len(records.classes) == 100
  assert records.classes == read(data_dir, "by_composition[:50%]").classes
  for record in records:
    (thing,) = parse(record["text"][0]).things
    name = f"{thing.color} {thing.shape}"
    assert records.classes[record["label"]] == name


def test_parts_of_splits_can_be_read_and_added(data_dir):
  val = read(data_dir, "val")
  both = read(data_dir, "val[50%:]+by_shape")
  assert both[0] == val[20] and len(both) == 40
  assert both.classes is None


def test_splits_without_labels_have_no_classes(data_dir):
  for split in ("train", "val", "heldout_relations"):
    assert read(data_dir, split).classes is None
    assert read(data_dir, split)[0]["label"] == -1


def test_pictures_have_the_named_colors():
  for i in range(200):
    picture = pixels(shapes.example("train", i, 64, 0))
    named = {thing.color for thing in scene("train", i).things}
    count = {c: int(near(picture, c).sum()) for c in scenes.COLORS}
    assert set(sorted(count, key=count.get)[-len(named) :]) == named
    assert min(count[c] for c in named) > 20


def test_single_things_are_where_the_caption_says():
  middles = [0.3, 0.5, 0.7]
  for i in range(180):
    shown = scene("by_position", i)
    picture = pixels(shapes.example("by_position", i, 64, 0))
    x, y = box_centre(near(picture, shown.things[0].color))
    row, column = (
      int(np.argmin(np.abs(v - np.array(middles)))) for v in (y, x)
    )
    assert scenes.POSITIONS[3 * row + column] == shown.place


def test_pairs_lie_in_the_named_order_and_apart():
  for i in range(150):
    shown = scene("heldout_relations", i)
    picture = pixels(shapes.example("heldout_relations", i, 64, 0))
    # Medians, since black's soft edges look gray.
    first, second = (
      np.median(np.argwhere(near(picture, t.color)), axis=0)[::-1] / 64
      for t in shown.things
    )
    along = int(shown.place == "vertical")
    assert second[along] - first[along] > 0.3
    assert abs(second[1 - along] - first[1 - along]) < 0.28


def test_sizes_and_textures_are_as_said():
  """What a caption says of them can be seen."""

  def shown(shape, color, size, texture="solid"):
    thing = Scene((Thing(shape, color, size, texture),), "center")
    return near(drawing.draw(thing, 64, np.random.default_rng(0)), color)

  for shape in scenes.SHAPES:
    small, large = (shown(shape, "red", s).sum() for s in scenes.SIZES)
    assert 60 < small < large
  for color in scenes.COLORS:
    for texture in scenes.TEXTURES:
      core = shown("square", color, "large", texture)[24:40, 24:40].mean()
      assert core == 1 if texture == "solid" else 0.2 < core < 0.8


def test_sizes_of_the_splits_follow_from_train_size(data_dir):
  sizes = {split: len(read(data_dir, split)) for split in scenes.ASKED}
  assert sizes["train"] == 400 and sizes["val"] == 40
  assert {v for k, v in sizes.items() if k not in ("train", "val")} == {20}
  assert (
    read(data_dir)[0]["image"] == shapes.example("train", 0, 32, 7)["image"]
  )


def test_another_process_makes_the_same_records_without_tensorflow(
  data_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv("PYTHONHASHSEED", "123")
  process = in_process(tmp_path, **SMALL)
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert out == f"400 {read(data_dir)[3]['text'][0]} False\n"
  for split in scenes.ASKED:
    # Records, not files: a serialized proto's fields have no fixed order.
    assert [*read(tmp_path, split)] == [*read(data_dir, split)]


def test_another_size_or_seed_is_another_data_set(data_dir):
  first = read(data_dir)[0]["image"]
  assert read(data_dir, train_size=30)[0]["image"] == first
  assert read(data_dir, train_size=30, seed=8)[0]["image"] != first
  assert pixels(read(data_dir, train_size=30, size=16)[0]).shape == (16, 16, 3)
  assert len(read(data_dir)) == 400


def test_of_processes_that_start_together_one_draws(tmp_path):
  processes = [in_process(tmp_path, train_size=100, size=16) for _ in range(3)]
  outputs = [p.communicate(timeout=600) for p in processes]
  assert [p.returncode for p in processes] == [0, 0, 0], outputs
  assert len({out for out, _ in outputs}) == 1
  assert sum(err.count("drawing the data set") for _, err in outputs) == 1


def test_a_killed_draw_is_not_taken_for_complete(tmp_path):
  kwargs = dict(train_size=1500, size=16, seed=0)
  process = in_process(tmp_path, **kwargs)
  while not (left := list(tmp_path.glob("shapes/*/incomplete.*"))):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.kill()
  process.communicate()
  assert left[0].exists()
  assert len(read(tmp_path, **kwargs)) == 1500
  assert not list(tmp_path.glob("shapes/*/incomplete.*"))


def test_a_source_travels_and_is_read_by_several_threads(data_dir):
  records = read(data_dir, "heldout")
  copy = pickle.loads(pickle.dumps(records))
  with ThreadPool(8) as pool:
    assert pool.map(copy.__getitem__, list(range(20)) * 5) == [*records] * 5
  assert copy.classes == records.classes


def test_the_environment_names_the_folder(data_dir, monkeypatch):
  monkeypatch.setenv("BIG_CONTRASTIVE_DATA", str(data_dir))
  assert len(shapes.source("val", **SMALL)) == 40


@pytest.mark.parametrize(
  "wrong, message",
  [
    ({"split": "test"}, "split = 'test'.*heldout_relations"),
    ({"split": "nope"}, "split = 'nope'.*train"),
    ({"split": ""}, "split = ''.*train"),
    ({"split": "all"}, "split = 'all'.*train"),
    ({"split": "train[:0]"}, "no examples"),
    ({"split": "train[:x]"}, "train"),
    ({"train_size": 0}, "train_size = 0"),
    ({"size": 8}, "size = 8.*16"),
    ({"seed": -1}, "seed = -1"),
    ({"sise": 8}, "sise.*size"),
  ],
)
def test_a_wrong_argument_is_an_error(data_dir, wrong, message):
  with pytest.raises(errors.UserError, match=message):
    read(data_dir, **wrong)


def test_a_folder_that_can_not_be_written_is_an_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="data_dir.*written"):
    read(tmp_path / "file")
