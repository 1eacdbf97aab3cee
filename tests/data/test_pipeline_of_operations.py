"""Preprocessing pipelines: what they give, and what is refused."""

import json
import pickle

import numpy as np
import PIL.Image
import pytest

from big_contrastive.config import errors
from big_contrastive.data.transforms import decode, operations
from making import NOISE, RNG, encoded, outcome, smooth

OPS = [
  ("random_resized_crop", {"size": 24, "area": (0.3, 1.0)}),
  "flip_lr",
  ("color_jitter", {"brightness": 0.3, "contrast": 0.2, "hue": 0.1, "p": 0.8}),
  ("grayscale", {"p": 0.1}),
]


def test_the_rng_alone_decides_about_the_result():
  pipeline = operations.parse(OPS, "ops")
  results = [pipeline(NOISE, RNG(seed)) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(results[0], results[1])
  assert (results[0] != results[2]).any()


def test_a_pipeline_survives_json_and_pickle():
  pipeline = operations.parse(OPS, "ops")
  again = operations.parse(json.loads(json.dumps(OPS)), "ops")
  copy = pickle.loads(pickle.dumps(pipeline))
  assert pipeline.size == again.size == copy.size == (24, 24)
  for seed in range(5):
    want = pipeline(NOISE, RNG(seed))
    np.testing.assert_array_equal(again(NOISE, RNG(seed)), want)
    np.testing.assert_array_equal(copy(NOISE, RNG(seed)), want)


@pytest.mark.parametrize(
  "ops, size",
  [
    ([("resize", {"size": (8, 12)})], (8, 12)),
    ([("resize", {"size": 9}), ("random_crop", {"size": 8})], (8, 8)),
    ([("resize_shortest", {"size": 9}), ("center_crop", {"size": 8})], (8, 8)),
    ([("random_resized_crop", {"size": [6, 9]}), "flip_lr"], (6, 9)),
    ([("random_crop", {"size": (50, 70)})], (50, 70)),
    ([("center_crop", {"size": (50, 20)})], (50, 20)),
  ],
)
def test_the_size_of_the_last_crop_or_resize_is_that_of_results(ops, size):
  pipeline = operations.parse(ops, "ops")
  for shape in ((40, 60, 3), (60, 40, 3), (3, 90, 3)):
    found = pipeline(np.zeros(shape, np.uint8), RNG(0))
    assert pipeline.size == size and found.shape == (*size, 3)
    assert found.dtype == np.uint8


def test_a_large_jpeg_is_decoded_smaller_in_training_only():
  picture = smooth(300, 400)
  data, ops = encoded(picture, "JPEG", quality=95), [("resize", {"size": 32})]
  train, whole = (
    operations.parse(ops, "ops"),
    operations.parse(ops, "ops", train=False),
  )
  assert decoded(train, data) == [(100, 75)]
  assert decoded(whole, data) == [(400, 300)]
  want = np.asarray(operations.decode(data).resize((32, 32), 3))
  np.testing.assert_array_equal(whole(data), want)
  assert np.abs(train(data).astype(int) - want).mean() < 1.5


def test_a_jpeg_is_never_decoded_to_less_than_is_needed():
  """One and a half times the side of the result, of the part that is cut."""
  data = encoded(smooth(300, 400), "JPEG")
  for op, sizes in (
    (("resize", {"size": 100}), {150}),
    (("resize", {"size": (100, 101)}), {300}),
    (("resize_shortest", {"size": 50}), {75}),
    (("resize", {"size": 60}), {113}),
    (("resize_shortest", {"size": 51}), {113}),
    (("random_crop", {"size": 30}), {300}),
    (("center_crop", {"size": 30}), {300}),
    # Parts of 300 x 300 and of about 30 x 30.
    (
      (
        "random_resized_crop",
        {"size": 99, "area": (0.74, 0.75), "aspect": (1, 1)},
      ),
      {150},
    ),
    (
      (
        "random_resized_crop",
        {"size": 16, "area": (0.007, 0.008), "aspect": (1, 1)},
      ),
      {300},
    ),
  ):
    pipeline = operations.parse([op, ("resize", {"size": 8})], "ops")
    found = {min(s) for _ in range(5) for s in decoded(pipeline, data)}
    assert found <= sizes, op


@pytest.mark.parametrize("as_torchvision", [False, True])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_crop_of_a_shrunk_jpeg_is_the_crop_of_the_whole(
  turned, as_torchvision
):
  """The same part for the same rng, but for what shrinking costs: 36 dB."""
  exif = PIL.Image.Exif()
  exif[0x0112] = turned
  data = encoded(smooth(600, 400), "JPEG", quality=95, exif=exif)
  crop = {"size": 48, "area": (0.3, 1), "as_torchvision": as_torchvision}
  pipeline = operations.parse([("random_resized_crop", crop)], "ops")
  assert max(decoded(pipeline, data)[0]) < 600
  for seed in range(20):
    want = pipeline.ops[0](operations.decode(data), RNG(seed))
    error = pipeline(data, RNG(seed)).astype(float) - np.asarray(want)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 36


def test_three_eighths_of_a_jpeg_are_as_good_as_a_half():
  """And what is broken is so by PIL's word, whatever it is decoded at."""
  for kwargs in ({}, {"progressive": True}, {"subsampling": 0}):
    data = encoded(smooth(900, 601), "JPEG", quality=95, **kwargs)
    pipeline = operations.parse([("resize", {"size": 140})], "ops")
    assert decoded(pipeline, data) == [(226, 338)]
    error = pipeline(data).astype(float) - np.asarray(
      operations.decode(data).resize((140, 140), PIL.Image.Resampling.BICUBIC)
    )
    assert 10 * np.log10(255**2 / (error**2).mean()) > 44
  data = encoded(smooth(240, 161), "JPEG", quality=95, subsampling=0)
  for n in range(0, len(data), len(data) // 40):
    for case in (data[:n], data[:n] + bytes([data[n] ^ 0x55]) + data[n + 1 :]):
      want = outcome(operations.decode, case)
      found = outcome(lambda d: decode.decode(d, lambda size: 3), case)
      bad = isinstance(want, tuple)
      assert found == want if bad else isinstance(found, list)
  gray = encoded(smooth(900, 601).convert("L"), "JPEG")
  assert pipeline(gray).shape == (140, 140, 3)


def decoded(pipeline, data):
  """Sizes of the images that the decoder gives to a pipeline."""
  found, load = [], decode._load

  def spy(*args):
    made = load(*args)
    found.append(made.size)
    return made

  decode._load = spy
  try:
    pipeline(data, RNG(0))
  finally:
    decode._load = load
  return found


R = ("resize", {"size": 8})

# (operations, train, what the message must say)
WRONG = {
  "unknown name": (["resise"], True, r"ops\[0\] = 'resise'.*'resize'"),
  "private name": ([R, "decode"], True, r"ops\[1\] = 'decode'"),
  "unknown argument": (
    [R, ("flip_lr", {"q": 1})], True, r"ops\[1\] = 'q'; expected one of p"
  ),
  "argument that is not the user's": (
    [R, ("flip_lr", {"rng": 1})], True, r"ops\[1\] = 'rng'"
  ),
  "missing size": ([("resize", {})], True, r"ops\[0\].size is missing"),
  "only a name where a size is needed": (["resize"], True, "size is missing"),
  "size of another type": (
    [("resize", {"size": "8"})], True, r"\[0\].size = '8'"
  ),
  "size with a point": ([("resize", {"size": 8.0})], True, r"\[0\].size = 8.0"),
  "size 0": ([("resize", {"size": 0})], True, r"\[0\].size = 0"),
  "size of three": ([("resize", {"size": [8, 8, 3]})], True, r"\[0\].size"),
  "size of strings": ([("resize", {"size": ["8", "8"]})], True, r"\[0\].size"),
  "two sizes for the shortest side": (
    [("resize_shortest", {"size": (8, 8)}), R], True, r"\[0\].size"
  ),
  "unknown method": (
    [("resize", {"size": 8, "method": "cubic"})], True, r"'cubic'.*'bicubic'"
  ),
  "lanczos without antialias": (
    [("resize", {"size": 8, "method": "lanczos", "antialias": False})], True,
    r"\[0\].antialias = False",
  ),
  "probability": ([R, ("flip_lr", {"p": 1.5})], True, r"\[1\].p = 1.5.*0 to 1"),
  "no number": (
    [R, ("flip_lr", {"p": float("nan")})], True, r"\[1\].p = nan"
  ),
  "area above 1": (
    [("random_resized_crop", {"size": 8, "area": (0.5, 2)})], True, "area"
  ),
  "area upside down": (
    [("random_resized_crop", {"size": 8, "area": (1, 0.5)})], True,
    r"\[0\].area = \(1, 0.5\).*ascending",
  ),
  "area of one number": (
    [("random_resized_crop", {"size": 8, "area": [0.5]})], True, "area"
  ),
  "area that is a number": (
    [("random_resized_crop", {"size": 8, "area": 0.5})], True, "area = 0.5"
  ),
  "aspect of 0": (
    [("random_resized_crop", {"size": 8, "aspect": (0, 1)})], True, "aspect"
  ),
  "negative padding": (
    [("random_crop", {"size": 8, "padding": -1})], True, "padding = -1"
  ),
  "jitter": ([R, ("color_jitter", {"contrast": -1})], True, "contrast = -1"),
  "hue": ([R, ("color_jitter", {"hue": 0.6})], True, "hue = 0.6.*0 to 0.5"),
  "strength": (
    [R, ("color_jitter", {"brightness": 11})], True, "brightness = 11.*0 to 10"
  ),
  "order": (
    [R, ("color_jitter", {"order": "given"})], True, r"'given'.*'fixed'"
  ),
  "sigma upside down": (
    [R, ("gaussian_blur", {"sigma": (2, 1)})], True, r"sigma = .*ascending"
  ),
  "sigma of one number": (
    [R, ("gaussian_blur", {"sigma": 2.0})], True, "sigma = 2.0"
  ),
  "sigma 0": ([R, ("gaussian_blur", {"sigma": (0, 1)})], True, "from 0.01"),
  "even kernel": (
    [R, ("gaussian_blur", {"kernel": 22})], True, "kernel = 22.*odd"
  ),
  "wide kernel": (
    [R, ("gaussian_blur", {"kernel": 257})], True, "kernel = 257.*to 255"
  ),
  "threshold": ([R, ("solarize", {"threshold": 300})], True, "= 300.*0 to 256"),
  "threshold of the range": (
    [R, ("solarize", {"threshold": 0.5})], True, "threshold = 0.5"
  ),
  "blur in evaluation": (
    [R, "gaussian_blur"], False, r"ops\[1\] = 'gaussian_blur'.*Evaluation"
  ),
  "not a pair": ([R, ("flip_lr", 0.5)], True, r"ops\[1\] = .*\(name, arg"),
  "number": ([3], True, r"ops\[0\] = 3"),
  "no size fixed": (["flip_lr"], True, r"ops = \['flip_lr'\].*a resize"),
  "shortest side alone": (
    [R, ("resize_shortest", {"size": 8})], True, "equally large"
  ),
  "nothing": ([], True, r"ops = \[\].*resize"),
  "random in evaluation": (
    [R, "flip_lr"], False, r"ops\[1\] = 'flip_lr'.*Evaluation"
  ),
  "random crop in evaluation": (
    [("random_crop", {"size": 8})], False, r"ops\[0\] = 'random_crop'"
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_operation_is_named(name):
  ops, train, said = WRONG[name]
  with pytest.raises(errors.UserError, match=said):
    operations.parse(ops, "ops", train)
  if name != "no number":
    with pytest.raises(errors.UserError, match="ops"):
      operations.parse(json.loads(json.dumps(ops)), "ops", train)
