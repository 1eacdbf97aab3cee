"""Views of an image in batches: their pixels, random numbers and memory."""

import hashlib

import numpy as np
import pytest
from test_loader import WORDS, same
from test_pipeline_of_operations import decoded

from big_contrastive.config import errors
from big_contrastive.data import source as contract
from big_contrastive.data.filters import Filtered
from big_contrastive.data.loader.draws import Draws
from big_contrastive.data.loader.examples import Examples
from big_contrastive.data.loader.training import Training
from big_contrastive.data.mixture import Mixture
from big_contrastive.data.transforms import decode, operations, views
from big_contrastive.data.transforms import pipeline as running
from big_contrastive.data.transforms.pipeline import together
from making import NOISE, RNG, encoded, smooth

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
LARGE = [
  ("random_resized_crop", {"size": 24, "area": (0.4, 1)}), "flip_lr",
  ("color_jitter", JITTER), ("gaussian_blur", {"p": 0.5}), "solarize",
]  # fmt: skip
LITTLE = [("random_resized_crop", {"size": (8, 12), "area": (0.05, 0.4)})]
IMAGE = [("resize", {"size": 20}), ("random_crop", {"size": 16})]
CONFIG = {"large": {"ops": LARGE, "count": 2}, "little": {"ops": LITTLE}}


class Pictures(contract.Source):
  """Twenty smooth pictures in a format, each of another size and color."""

  def __init__(self, form="PNG", broken=()):
    self.broken = set(broken)
    self.data = []
    for i in range(20):
      pixels = np.asarray(smooth(90 + i, 130 - i)) // 2 + 6 * i
      picture = pixels.astype(np.uint8)
      self.data.append(encoded(picture, form) if form else picture)

  def __len__(self):
    return 20

  def __getitem__(self, i):
    if i in self.broken:
      raise OSError("truncated")
    texts = [f"{i} {k}" for k in range(3)]
    return {"image": self.data[i], "text": texts, "id": i}


def parse(config=CONFIG):
  return views.parse(config, "config.views")


def training(
  source=None, config=CONFIG, image=IMAGE, rows=8, seed=0, fields=None,
  later=(), **kwargs
):  # fmt: skip
  """The stream of batches of 8."""
  pipeline = operations.parse(image, "ops") if image else None
  source = source or Pictures()
  made = Examples(source, pipeline, WORDS, parse(config), fields, dict(later))
  rows = np.arange(rows) if isinstance(rows, int) else np.asarray(rows)
  defaults = {"max_bad": 1, "threads": 2}
  return Training(made, 8, rows, seed, **defaults | kwargs)


def batches(steps=3, start=0, **kwargs):
  return list(training(**kwargs).batches(start, start + steps))


def philox(seed, position, view=None):
  """The generator of an example, or of one of its views, by definition."""
  counter = 0
  if view is not None:
    digest = hashlib.blake2b(view.encode(), digest_size=8).digest()
    counter = int.from_bytes(digest, "little") << 192
  # As integers: of a list, NumPy makes floats on the way.
  key = seed + (position << 64)
  return np.random.Generator(np.random.Philox(key=key, counter=counter))


# --- What they are.


def test_a_view_is_its_pipeline_with_numbers_of_its_own():
  """Of the seed, the position, its name and its number: a function that must
  never change, or a run would resume with other views."""
  source, parsed = Pictures(), parse()
  image = operations.parse(IMAGE, "ops")
  assert [v.count for v in parsed.values()] == [2, 1]
  assert [v.size for v in parsed.values()] == [(24, 24), (8, 12)]
  for step, batch in enumerate(batches(source=source, seed=7)):
    assert batch["large"].shape == (8, 2, 24, 24, 3)
    assert batch["little"].shape == (8, 1, 8, 12, 3)
    assert batch["large"].dtype == batch["little"].dtype == np.uint8
    for row, i in enumerate(batch["id"]):
      data, at = source.data[i], (7, 8 * step + row)
      np.testing.assert_array_equal(
        batch["image"][row], image(data, philox(*at))
      )
      for name, view in parsed.items():
        for number, found in enumerate(batch[name][row]):
          want = view.pipeline(data, philox(*at, f"{name} {number}"))
          np.testing.assert_array_equal(found, want)


def test_generators_of_a_position_do_not_share_draws():
  """And each is what it is whatever another one has drawn."""
  draws, blocks = Draws(), (0, *parse()["large"].blocks)
  several = [draws.at(3, 5, b, i) for i, b in enumerate(blocks)]
  values = np.array([[rng.random() for rng in several] for _ in range(100)])
  assert len(np.unique(values)) == 300
  for column, block in zip(values.T, blocks, strict=True):
    alone = Draws().at(3, 5, block)
    assert [alone.random() for _ in range(100)] == column.tolist()


def test_views_of_an_image_differ_and_so_do_those_of_epochs():
  seen = {}
  for batch in batches(steps=10):
    for i, large in zip(batch["id"], batch["large"], strict=True):
      seen.setdefault(int(i), set()).update(v.tobytes() for v in large)
  assert len(seen) == 20 and all(len(v) == 8 for v in seen.values())
  other = batches(steps=1, seed=1)[0]
  assert (other["large"] != batches(steps=1)[0]["large"]).any()


# --- What they don't depend on.


@pytest.mark.parametrize("form", ["PNG", None])
def test_a_view_is_the_same_whatever_else_is_made(form):
  """And so is "image", and the caption that is drawn."""
  source = Pictures(form)
  both = batches(source=source)
  more = {"other": {"ops": LARGE}, **dict(reversed(CONFIG.items()))}
  for config, image in (
    ({"large": CONFIG["large"]}, None), (CONFIG, None), (more, IMAGE),
    ({"little": CONFIG["little"]}, LITTLE), ({}, IMAGE),
    ({"large": CONFIG["large"] | {"count": 1}}, IMAGE),
  ):  # fmt: skip
    found = batches(source=source, config=config, image=image)
    for a, b in zip(both, found, strict=True):
      assert ("image" in b) == (image is not None)
      for name in config:
        count = b[name].shape[1]
        if name in CONFIG:
          np.testing.assert_array_equal(b[name], a[name][:, :count])
      if image == IMAGE:
        np.testing.assert_array_equal(b["image"], a["image"])
        np.testing.assert_array_equal(b["text"], a["text"])


def test_batches_have_the_fields_that_are_asked_for():
  every = {"image", "text", "id", "record", "large", "little"}
  assert batches(steps=1)[0].keys() == every
  for fields in ({"large", "little"}, {"id", "large", "little"}, every):
    assert batches(steps=1, fields=fields)[0].keys() == fields
  # A record without a caption is bad only where captions are read.
  source = contract.Records([{"image": NOISE, "id": 0}])
  (batch,) = batches(steps=1, source=source, fields={"large", "little"})
  assert batch.keys() == {"large", "little"}


@pytest.mark.parametrize(
  "kwargs",
  [
    {"threads": 5},
    {"rows": [1, 2, 6]},
    pytest.param({"workers": 2}, marks=pytest.mark.slow),
  ],
)
def test_threads_workers_processes_and_resuming_change_nothing(kwargs):
  """Also of JPEGs, and where records are bad."""
  source, rows = Pictures("JPEG", broken=[4]), kwargs.get("rows", range(8))
  whole = batches(steps=6, source=source)
  found = batches(steps=4, start=2, source=source, **kwargs)
  for a, b in zip(whole[2:], found, strict=True):
    assert a.keys() == b.keys()
    same({k: v[list(rows)] for k, v in a.items()}, b)


def test_views_of_a_record_that_replaces_another_are_those_of_its_place():
  parsed, source = parse(), Pictures(broken=[4, 5, 11])
  replaced = 0
  plain = batches(steps=5)
  for step, batch in enumerate(batches(steps=5, source=source)):
    for row, (i, old) in enumerate(
      zip(batch["id"], plain[step]["id"], strict=True)
    ):
      assert i == {4: 6, 5: 6, 11: 12}.get(int(old), old)
      replaced += i != old
      rng = philox(0, 8 * step + row, "large 1")
      want = parsed["large"].pipeline(source.data[i], rng)
      np.testing.assert_array_equal(batch["large"][row, 1], want)
  assert replaced == 6


@pytest.mark.parametrize(
  "kwargs",
  [{"reuse": True}, pytest.param({"workers": 2}, marks=pytest.mark.slow)],
)
def test_memory_of_views_is_written_again_after_it_is_handed_back(kwargs):
  fresh, before, places = batches(steps=30), None, set()
  stream = training(**kwargs).batches(0, 30, lambda batch: batch)
  for batch, want in zip(stream, fresh, strict=True):
    same(want, batch)
    places.add(batch["large"].ctypes.data)
    if before is not None:  # Valid until the batch after the next.
      same(*before)
    before = want, batch
  assert 1 < len(places) < 20


# --- In which steps they are made.

EVERY = {"image", "text", "id", "record", "large", "little"}
# By the first step of them, fields: a view that comes, one that goes, two.
STAGES = {
  0: EVERY - {"little"}, 3: EVERY, 5: EVERY - {"large"},
  6: EVERY - {"large", "little"}, 7: EVERY,
}  # fmt: skip


@pytest.mark.parametrize(
  "kwargs",
  [
    {"threads": 5, "ahead": 4},
    {"reuse": True, "rows": [1, 2, 6]},
    pytest.param({"workers": 2}, marks=pytest.mark.slow),
  ],
)
def test_what_is_made_in_some_steps_has_the_bits_of_what_is_always_made(kwargs):
  """However early it is made, and from whatever step on. A JPEG is decoded for
  all views."""
  source, rows = Pictures("JPEG", broken=[4]), kwargs.get("rows", range(8))
  whole = batches(steps=9, source=source)
  later = {first: STAGES[first] for first in (3, 5, 6, 7)}
  run = training(source, fields=STAGES[0], later=later, **kwargs)
  # Workers take long to start.
  for start in (2,) if "workers" in kwargs else (0, 2, 3, 6):
    stream = run.batches(start, 9, lambda batch: batch)
    for step, batch in enumerate(stream, start):
      first = max(k for k in STAGES if k <= step)
      assert batch.keys() == STAGES[first], step
      same({k: whole[step][k][list(rows)] for k in batch}, batch)


def test_a_view_that_is_not_made_costs_no_pixels(monkeypatch):
  runs, run = [], running._run

  def counted(*args, **kwargs):
    runs.append(1)
    return run(*args, **kwargs)

  monkeypatch.setattr(running, "_run", counted)
  for fields, count in (
    (EVERY, 4), (EVERY - {"large"}, 2), (EVERY - {"large", "little"}, 1),
  ):  # fmt: skip
    runs.clear()
    batches(steps=1, fields=fields)
    assert len(runs) == 8 * count


# --- One decoding.


def jobs(pipelines, seed=0):
  return [(p, RNG([seed, k])) for k, p in enumerate(pipelines)]


PIPELINES = [
  LARGE, LITTLE, IMAGE, [("random_crop", {"size": 30, "padding": 2})],
  [("resize_shortest", {"size": 40}), ("random_crop", {"size": 32})],
  [("center_crop", {"size": 30}), "flip_lr"],
]  # fmt: skip


@pytest.mark.parametrize("form", ["PNG", None])
def test_together_each_pipeline_makes_what_it_makes_alone(form):
  pipelines = [operations.parse(ops, "ops") for ops in PIPELINES]
  for i, data in enumerate(Pictures(form).data[:5]):
    found = together(data, jobs(pipelines, i))
    for result, (pipeline, rng) in zip(found, jobs(pipelines, i), strict=True):
      np.testing.assert_array_equal(result, pipeline(data, rng))


def test_alone_or_with_others_like_it_a_jpeg_gives_the_same_too():
  data = encoded(smooth(600, 400), "JPEG", quality=95)
  for ops in PIPELINES:
    pipeline = operations.parse(ops, "ops")
    (found,) = together(data, jobs([pipeline]))
    ((_, rng),) = jobs([pipeline])
    np.testing.assert_array_equal(found, pipeline(data, rng))


def test_a_jpeg_is_decoded_once_as_large_as_the_largest_needs():
  """Each makes of that decoding what it makes; 36 dB from what it has alone."""
  data = encoded(smooth(960, 640), "JPEG", quality=95)
  large = [("random_resized_crop", {"size": 24, "area": (0.9, 1)}), "flip_lr"]
  little = [("random_resized_crop", {"size": 48, "area": (0.1, 0.2)})]
  pipelines = [operations.parse(ops, "ops") for ops in (large, little)]
  for seed in range(10):

    def made(_, rng, seed=seed):
      return together(data, jobs(pipelines, seed))

    sizes = decoded(made, data)
    alone = [
      decoded(lambda data, _, p=p, rng=rng: p(data, rng), data)
      for p, rng in jobs(pipelines, seed)
    ]
    assert len(sizes) == 1 and sizes == max(alone, key=lambda s: s[0][0])
    assert alone[0] != sizes
    times = 640 / min(sizes[0])
    found = together(data, jobs(pipelines, seed))
    for result, (pipeline, rng) in zip(
      found, jobs(pipelines, seed), strict=True
    ):
      begun = pipeline.begin(rng)
      begun.spare((640, 960))
      want = begun.end(decode.decode(data, lambda size, t=times: t))
      np.testing.assert_array_equal(result, want)
    for result, (pipeline, rng) in zip(
      found, jobs(pipelines, seed), strict=True
    ):
      error = result.astype(float) - pipeline(data, rng)
      assert 10 * np.log10(255**2 / max((error**2).mean(), 1e-9)) > 36


def test_a_pipeline_of_any_other_kind_stands_beside_views():
  """As a source of a mixture may have, or a file of a user's own."""
  source = Pictures()
  made = Examples(source, lambda data, rng: NOISE, None, parse())
  example = made(3, RNG(0), (5, 9))
  assert example["image"] is NOISE
  want = parse()["little"].pipeline(source.data[3], philox(5, 9, "little 0"))
  np.testing.assert_array_equal(example["little"][0], want)


def test_a_bad_picture_is_bad_for_all_views():
  source = Pictures(broken=[])
  source.data[3] = source.data[3][:200]
  run = training(source=source)
  found = np.concatenate([b["id"] for b in run.batches(0, 5)])
  assert 3 not in found and sum(run.counts(5).values()) == 2


def test_a_record_has_the_number_of_its_image():
  """Below the length of the source, whatever stands between: an id may not."""
  fields = {"little", "id", "record"}
  for batch in batches(fields=fields, image=None):
    assert batch["record"].dtype == np.int32
    np.testing.assert_array_equal(batch["record"], batch["id"])
  # The one that stands in for a broken one; of the kept ones; of all sources.
  broken = training(Pictures(broken=[3]), fields=fields, image=None)
  kept = Filtered(Pictures(), np.arange(1, 20, 2), lambda text: True, {})
  both = Mixture([Pictures(), kept], [1, 1], [None, None], shared=True)
  for source, number in ((kept, lambda i: i // 2), (both, None)):
    run = training(source, fields=fields, image=None)
    for batch in run.batches(0, 3):
      assert batch["record"].max() < len(source)
      for record, i in zip(batch["record"], batch["id"], strict=True):
        if number is not None:
          assert record == number(i)
        assert source[record]["id"] == i
  for batch in broken.batches(0, 5):
    np.testing.assert_array_equal(batch["record"], batch["id"])
    assert 3 not in batch["record"]
  assert "record" not in batches(steps=1, fields={"little", "id"})[0]


# --- What is refused.

R = [("resize", {"size": 8})]
WRONG = {
  "no section": ([R], r"config.views = \[.*a section"),
  "name of a field": ({"image": {"ops": R}}, "'image'; expected an identifier"),
  "another field": ({"bad": {"ops": R}}, "'bad'; expected an identifier"),
  "no identifier": ({"a b": {"ops": R}}, "config.views = 'a b'"),
  "view that is no section": ({"a": R}, "config.views.a = .*a section"),
  "no operations": ({"a": {"count": 2}}, "config.views.a.ops is missing"),
  "other field": ({"a": {"ops": R, "n": 2}}, "config.views.a.n.*one of ops, c"),
  "unknown operation": (
    {"a": {"ops": ["flip"]}}, r"config.views.a.ops\[0\] = 'flip'.*'flip_lr'"
  ),
  "no size": ({"a": {"ops": ["flip_lr"]}}, "config.views.a.ops = .*resize"),
  "patches": (
    {"a": {"ops": [("naflex", {"patch": 4, "most": 9})]}}, "views.a.ops = 'naf"
  ),
  "no view": ({"a": {"ops": R, "count": 0}}, "config.views.a.count = 0.*to 64"),
  "many views": ({"a": {"ops": R, "count": 65}}, "views.a.count = 65"),
  "half a view": ({"a": {"ops": R, "count": 1.5}}, "views.a.count = 1.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_view_is_named(name):
  config, said = WRONG[name]
  with pytest.raises(errors.UserError, match=said):
    parse(config)


def test_no_views_are_none():
  assert parse(None) == parse({}) == {}
