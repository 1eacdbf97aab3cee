"""Preprocessing: what each operation does to pixels, and what is refused."""

import io
import json
import pickle

import numpy as np
import PIL.Image
import pytest

from big_contrastive import errors
from big_contrastive.data import decode, image
from big_contrastive.data.bad import BadRecord

RNG = np.random.default_rng
NOISE = RNG(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(picture, form="PNG", **kwargs):
  if isinstance(picture, np.ndarray):
    picture = PIL.Image.fromarray(picture)
  file = io.BytesIO()
  picture.save(file, form, **kwargs)
  return file.getvalue()


def run(*ops, data=NOISE, seed=None, train=True):
  rng = None if seed is None else RNG(seed)
  return image.parse(ops, "ops", train)(data, rng)


def gradient(height, width):
  """Red is the column, green the row: pixels say where they are from."""
  y, x = np.mgrid[:height, :width]
  return np.stack([x, y, 0 * x], -1).astype(np.uint8)


def smooth(height, width):
  small = PIL.Image.fromarray(NOISE[:6, :8])
  return small.resize((width, height), PIL.Image.Resampling.BICUBIC)


# Decoding.


def test_a_png_is_decoded_to_its_pixels():
  np.testing.assert_array_equal(image.decode(encoded(NOISE)), NOISE)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_of_one_three_and_four_channels_become_rgb(shape):
  found = np.asarray(image.decode(np.full(shape, 255, np.uint8)))
  assert found.shape == (5, 7, 3) and (found == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode):
  bands = [40, 80, 120] if mode == "RGBA" else [40]
  for alpha, part in ((0, 0.0), (255, 1.0), (51, 0.2)):
    picture = PIL.Image.new(mode, (3, 2), (*bands, alpha))
    found = np.asarray(image.decode(encoded(picture)), float)
    want = part * np.array(bands) + (1 - part) * 255
    assert np.abs(found - want).max() <= 1


def test_alpha_of_an_array_is_laid_on_white_as_well():
  array = np.zeros((2, 2, 4), np.uint8)
  assert (np.asarray(image.decode(array)) == 255).all()


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
  picture = PIL.Image.new("P", (2, 1))
  picture.putpalette([10, 20, 30, 200, 100, 50])
  picture.putpixel((1, 0), 1)
  plain = np.asarray(image.decode(encoded(picture)))
  assert plain.tolist() == [[[10, 20, 30], [200, 100, 50]]]
  for form, transparency in (("PNG", 0), ("PNG", b"\0\xff"), ("GIF", 0)):
    data = encoded(picture, form, transparency=transparency)
    found = np.asarray(image.decode(data))
    assert found.tolist() == [[[255] * 3, [200, 100, 50]]], form


def test_a_transparent_colour_of_an_rgb_png_is_white():
  data = encoded(NOISE[:1, :2], transparency=tuple(NOISE[0, 0].tolist()))
  found = np.asarray(image.decode(data))
  assert (found[0, 0] == 255).all() and (found[0, 1] == NOISE[0, 1]).all()


def test_sixteen_bits_are_scaled_to_eight():
  wide = np.array([[0, 257 * 7, 257 * 128, 65535]], np.uint16)
  for form in ("PNG", "TIFF"):
    found = np.asarray(image.decode(encoded(wide, form)))
    assert found[0, :, 0].tolist() == [0, 7, 128, 255], form


def test_cmyk_becomes_rgb():
  picture = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  found = np.asarray(image.decode(encoded(picture, "JPEG")), int)
  assert np.abs(found - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_black_and_white_become_rgb(mode):
  picture = PIL.Image.new(mode, (2, 2), 255)
  found = np.asarray(image.decode(encoded(picture)))
  assert found.shape == (2, 2, 3) and (found == 255).all()


@pytest.mark.parametrize("spare", [None, lambda whole: 4])
def test_exif_orientation_is_applied(spare):
  upright = smooth(64, 32)
  for orientation, stored in (
    (1, upright),
    (2, upright.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)),
    (3, upright.transpose(PIL.Image.Transpose.ROTATE_180)),
    (6, upright.transpose(PIL.Image.Transpose.ROTATE_90)),
    (8, upright.transpose(PIL.Image.Transpose.ROTATE_270)),
  ):
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    data = encoded(stored, "JPEG", exif=exif.tobytes(), quality=95)
    found = image.decode(data, spare)
    want = np.asarray(upright.resize(found.size, reducing_gap=None), int)
    assert found.height == 2 * found.width
    assert np.abs(np.asarray(found, int) - want).mean() < 6, orientation


def test_garbage_in_exif_does_not_cost_the_image():
  exif = PIL.Image.Exif()
  exif[0x112] = 6
  data = encoded(smooth(16, 32), "JPEG", exif=exif.tobytes())
  at = data.index(b"Exif\0\0") + 6
  data = data[:at] + b"\xff" * 8 + data[at + 8 :]
  assert image.decode(data).size == (32, 16)


def test_bytes_that_are_no_image_are_a_value_error():
  png, jpeg = encoded(NOISE), encoded(NOISE, "JPEG")
  broken = [b"", b"<html>", png[:200], jpeg[:200], png[:8] + png[20:]]
  for data in broken:
    with pytest.raises(ValueError, match="no image"):
      image.decode(data)
  for array in (np.zeros((4, 4, 3)), np.zeros((4, 4, 2, 3), np.uint8)):
    with pytest.raises(ValueError, match="no image"):
      image.decode(array)


def test_flipped_bytes_give_an_image_or_a_value_error():
  rng = RNG(1)
  for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
    whole = np.frombuffer(encoded(NOISE, form), np.uint8)
    for _ in range(30):
      data = whole.copy()
      data[rng.integers(0, min(len(data), 300), 4)] ^= 0x55
      try:
        assert image.decode(data.tobytes()).mode == "RGB"
      except ValueError as e:
        assert "no image" in str(e)


def by_pil(data):
  return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("kwargs", [{}, {"progressive": True}, {"quality": 30}])
def test_pixels_of_a_jpeg_are_those_of_pil(subsampling, kwargs, monkeypatch):
  wanted = {}
  for size in ((1, 1), (7, 5), (33, 100), (60, 40)):
    picture = smooth(*size)
    for made in (picture, picture.convert("L")):
      data = encoded(made, "JPEG", subsampling=subsampling, **kwargs)
      wanted[data] = by_pil(data)
  monkeypatch.setattr(decode, "decode", None)  # It is the fast decoder's work.
  for data, want in wanted.items():
    np.testing.assert_array_equal(decode.pixels(data), want)


def test_pixels_of_all_else_are_what_decode_gives():
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  cmyk = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  for data in (
    encoded(NOISE), encoded(cmyk, "JPEG"), NOISE, NOISE[..., :1], NOISE[..., 0],
    encoded(smooth(16, 32), "JPEG", exif=exif.tobytes()),
    encoded(NOISE, "JPEG", keep_rgb=True),
    encoded(NOISE, "JPEG", icc_profile=b"x" * 70000),
  ):  # fmt: skip
    np.testing.assert_array_equal(decode.pixels(data), image.decode(data))


def test_orientation_is_found_behind_other_segments():
  upright = encoded(smooth(16, 32), "JPEG", comment=b"\xff\xda" * 9)
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  turned = encoded(smooth(16, 32), "JPEG", exif=exif.tobytes())
  at = turned.index(b"\xff\xe1")
  length = int.from_bytes(turned[at + 2 : at + 4], "big")
  segment = turned[at : at + 2 + length]
  tables = upright.index(b"\xff\xdb")
  data = upright[:tables] + segment + upright[tables:]
  assert decode.pixels(upright).shape == (16, 32, 3)
  assert decode.pixels(data).shape == (32, 16, 3)


def outcome(function, data):
  """The pixels, or the kind and reason of what is bad."""
  try:
    return np.asarray(function(data)).tolist()
  except decode.BadRecord as e:
    return e.kind, str(e)


def test_a_jpeg_that_pil_refuses_is_refused_for_the_same_reason():
  """Cut anywhere, and with a byte changed anywhere behind its tables."""
  refused = 0
  for kwargs in ({}, {"progressive": True}):
    data = encoded(smooth(40, 48), "JPEG", **kwargs)
    scan = data.index(b"\xff\xda")
    broken = [data[:n] for n in range(0, len(data), 7)]
    for i in range(scan, len(data), 5):
      broken.append(data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :])
    for case in broken:
      want = outcome(image.decode, case)
      assert outcome(decode.pixels, case) == want
      refused += isinstance(want, tuple)
  assert refused > 100


def test_adobes_note_cut_short_is_for_pil_to_judge():
  data = encoded(smooth(40, 48), "JPEG")
  for note in (b"", b"Adobe", b"Adobe\0d", b"Adobe\0d\x80\0\0\0\0\1", b"other"):
    length = (2 + len(note)).to_bytes(2, "big")
    case = data[:2] + b"\xff\xee" + length + note + data[2:]
    assert outcome(decode.pixels, case) == outcome(image.decode, case)


def test_what_is_wrong_is_said_alike_each_time():
  said = [outcome(image.decode, b"neither\xff\xd8 nor") for _ in range(2)]
  assert said[0] == said[1] == ("image", "no image: of no known format")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
  monkeypatch.setattr(decode, "MAX_PIXELS", 60 * 40 - 1)
  with pytest.raises(decode.BadRecord, match="at most 2,399") as e:
    decode.pixels(encoded(NOISE, "JPEG"))
  assert e.value.kind == "bomb"


# Operations.


def test_resize_squashes_as_pil_does():
  found = run(("resize", {"size": 16}))
  want = PIL.Image.fromarray(NOISE).resize((16, 16), 3)
  np.testing.assert_array_equal(found, want)
  found = run(("resize", {"size": [20, 30], "method": "bilinear"}))
  want = PIL.Image.fromarray(NOISE).resize((30, 20), 2)
  np.testing.assert_array_equal(found, want)


def sampled(pixels, height, width):
  """tf.image.resize: bilinear at half-pixel centres, not antialiased."""

  def weights(old, new):
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))

  rows, columns = weights(len(pixels), height), weights(pixels.shape[1], width)
  return np.einsum("yi,xj,ijc->yxc", rows, columns, pixels.astype(float))


@pytest.mark.parametrize("size", [(8, 9), (15, 20), (90, 100)])
def test_resize_without_antialias_samples_four_pixels(size):
  kwargs = {"size": size, "method": "bilinear", "antialias": False}
  found = run(("resize", kwargs))
  assert np.abs(found - sampled(NOISE, *size)).max() <= 1.01


def test_antialias_averages_what_sampling_skips():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  op = {"size": 8, "method": "bilinear"}
  smooth_ = run(("resize", op), data=stripes)
  assert abs(smooth_.mean() - 127.5) < 2 and np.ptp(smooth_) < 20


def test_resize_shortest_keeps_the_aspect_ratio():
  for shape, want in (
    ((40, 60), (20, 30)), ((60, 40), (30, 20)), ((33, 100), (20, 61)),
    ((7, 5), (28, 20)),
  ):  # fmt: skip
    picture = PIL.Image.fromarray(np.zeros((*shape, 3), np.uint8))
    found = image.resize_shortest(picture, None, size=20)
    assert found.size == want[::-1]


def test_center_crop_takes_the_middle():
  found = run(("center_crop", {"size": (10, 20)}), data=gradient(40, 60))
  assert found[0, 0].tolist() == [20, 15, 0]
  assert found[-1, -1].tolist() == [39, 24, 0]


def test_center_crop_of_a_smaller_image_is_padded_black():
  white = np.full((4, 8, 3), 255, np.uint8)
  found = run(("center_crop", {"size": 6}), data=white)
  assert found.shape == (6, 6, 3)
  assert (found[1:5] == 255).all() and not found[[0, -1]].any()


def test_shortest_side_and_crop_see_the_whole_middle_square():
  """The column and the row of each pixel are those of the middle square."""
  ops = [("resize_shortest", {"size": 20}), ("center_crop", {"size": 20})]
  found = run(*ops, data=gradient(100, 200)).astype(float)
  centres = 2 + 5 * np.arange(20)
  assert np.abs(found[10, 1:-1, 0] - centres[1:-1] - 50).max() <= 1
  assert np.abs(found[1:-1, 10, 1] - centres[1:-1]).max() <= 1


def test_random_crop_reaches_every_place_and_nothing_else():
  seen = set()
  crop = image.parse([("random_crop", {"size": 38})], "ops")
  for seed in range(200):
    x, y, _ = crop(gradient(40, 41), RNG(seed))[0, 0]
    seen.add((int(x), int(y)))
  assert seen == {(x, y) for x in range(4) for y in range(3)}


def test_a_crop_of_a_jpeg_is_the_crop_of_its_pixels():
  data = encoded(smooth(40, 60), "JPEG")
  for padding in (0, 3):
    op = ("random_crop", {"size": 32, "padding": padding})
    for rest in ([], ["flip_lr"]):
      for seed in range(5):
        found = run(op, *rest, data=data, seed=seed)
        want = run(op, *rest, data=by_pil(data), seed=seed)
        np.testing.assert_array_equal(found, want)
        whole = PIL.Image.fromarray(by_pil(data))
        cut = image.random_crop(whole, RNG(seed), size=32, padding=padding)
        assert rest or (np.asarray(cut) == found).all()


def test_random_crop_repeats_the_edge_where_it_pads():
  """A constant image stays constant, whatever its size and the padding."""
  for height, width in ((3, 50), (50, 3), (3, 5), (16, 16)):
    white = np.full((height, width, 3), 200, np.uint8)
    for seed in range(5):
      op = ("random_crop", {"size": 16, "padding": 4})
      found = run(op, data=white, seed=seed)
      assert found.shape == (16, 16, 3) and (found == 200).all()


def test_random_crop_pads_no_side_that_is_long_enough():
  op = ("random_crop", {"size": 16})
  columns = [run(op, data=gradient(3, 16), seed=s)[0, :, 0] for s in range(5)]
  assert all(c.tolist() == list(range(16)) for c in columns)


def test_random_resized_crop_keeps_to_its_bounds(monkeypatch):
  boxes = []
  monkeypatch.setattr(
    PIL.Image.Image, "resize", lambda i, s, m, box: boxes.append(box) or i
  )
  picture = PIL.Image.fromarray(np.zeros((300, 400, 3), np.uint8))
  for seed in range(300):
    image.random_resized_crop(
      picture, RNG(seed), size=8, area=(0.25, 0.5), aspect=(0.5, 2.0)
    )
  left, top, right, bottom = np.array(boxes).T
  w, h = right - left, bottom - top
  assert left.min() >= 0 and top.min() >= 0
  assert right.max() <= 400 and bottom.max() <= 300
  part, aspect = w * h / 120000, w / h
  assert 0.245 < part.min() < 0.27 and 0.47 < part.max() < 0.505
  assert 0.49 < aspect.min() < 0.6 and 1.7 < aspect.max() < 2.02
  assert abs(np.log(aspect).mean()) < 0.1  # Log-uniform: tall as wide.


def test_random_resized_crop_of_a_strip_has_an_allowed_aspect(monkeypatch):
  boxes = []
  monkeypatch.setattr(
    PIL.Image.Image, "resize", lambda i, s, m, box: boxes.append(box) or i
  )
  for size, part in (
    ((500, 10), (13, 10)), ((10, 500), (10, 13)), ((1, 1), (1, 1)),
    ((1, 700), (1, 1)),
  ):  # fmt: skip
    picture = PIL.Image.new("RGB", size)
    image.random_resized_crop(picture, RNG(0), size=8)
    left, top, right, bottom = boxes[-1]
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert (right - left, bottom - top) == part


def test_the_whole_area_and_aspect_one_is_a_plain_resize():
  square = NOISE[:40, :40]
  crop = {"size": 16, "area": (1, 1), "aspect": (1, 1)}
  found = run(("random_resized_crop", crop), data=square, seed=0)
  want = run(("resize", {"size": 16}), data=square)
  np.testing.assert_array_equal(found, want)


def test_two_flips_are_none():
  once = run(("flip_lr", {"p": 1}), ("center_crop", {"size": 40}), seed=0)
  np.testing.assert_array_equal(once, NOISE[:, 10:50][:, ::-1])
  flip, crop = ("flip_lr", {"p": 1}), ("center_crop", {"size": 40})
  twice = run(flip, flip, crop, seed=0)
  np.testing.assert_array_equal(twice, NOISE[:, 10:50])


def test_flips_happen_as_often_as_said():
  flip = image.parse([("center_crop", {"size": 40}), "flip_lr"], "ops")
  plain = NOISE[:, 10:50]
  flips = [not (flip(NOISE, RNG(s)) == plain).all() for s in range(200)]
  assert 70 < sum(flips) < 130


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_scales_within_its_bounds(name):
  def property_of(pixels):
    pixels = np.asarray(pixels, float)
    if name == "brightness":
      return pixels.mean()
    return pixels.std() if name == "contrast" else pixels.std(axis=-1).mean()

  dim = (NOISE[:, :40] // 4 + 96).astype(np.uint8)  # So nothing is clipped.
  ops = [("resize", {"size": 40}), ("color_jitter", {name: 0.3})]
  jitter = image.parse(ops, "ops")
  factors = [
    property_of(jitter(dim, RNG(s))) / property_of(dim) for s in range(60)
  ]
  assert 0.68 < min(factors) < 0.8 and 1.2 < max(factors) < 1.32


def test_hue_turns_colours_and_leaves_grey_and_brightness():
  red = np.zeros((4, 4, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
  ops = [("resize", {"size": 4}), ("color_jitter", {"hue": 0.5})]
  found = np.array([run(*ops, data=red, seed=s)[0, 0] for s in range(40)])
  assert (found.max(axis=1) == 200).all() and (found.min(axis=1) == 0).all()
  assert set(found.argmax(axis=1)) == {0, 1, 2}
  assert (found[:, 0] == 0).any()  # More than a third of a turn.
  few = [("resize", {"size": 4}), ("color_jitter", {"hue": 0.02})]
  found = np.array([run(*few, data=red, seed=s)[0, 0] for s in range(40)])
  assert set(found.argmax(axis=1)) == {0} and found[:, 1:].max() <= 30
  grey = np.full((4, 4, 3), 90, np.uint8)
  np.testing.assert_array_equal(run(*ops, data=grey, seed=0), grey)


def test_jitter_of_nothing_or_with_p_0_changes_nothing():
  for kwargs in ({}, {"brightness": 1, "hue": 0.5, "p": 0}):
    ops = [("center_crop", {"size": 40}), ("color_jitter", kwargs)]
    np.testing.assert_array_equal(run(*ops, seed=0), NOISE[:, 10:50])


def test_grayscale_makes_the_channels_equal():
  ops = [("resize", {"size": 8}), ("grayscale", {"p": 1})]
  found = run(*ops, seed=0)
  assert (found == found[..., :1]).all() and np.ptp(found) > 0


# Pipelines.

OPS = [
  ("random_resized_crop", {"size": 24, "area": (0.3, 1.0)}),
  "flip_lr",
  ("color_jitter", {"brightness": 0.3, "contrast": 0.2, "hue": 0.1, "p": 0.8}),
  ("grayscale", {"p": 0.1}),
]


def test_the_rng_alone_decides_about_the_result():
  pipeline = image.parse(OPS, "ops")
  results = [pipeline(NOISE, RNG(seed)) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(results[0], results[1])
  assert (results[0] != results[2]).any()


def test_a_pipeline_survives_json_and_pickle():
  pipeline = image.parse(OPS, "ops")
  again = image.parse(json.loads(json.dumps(OPS)), "ops")
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
  pipeline = image.parse(ops, "ops")
  for shape in ((40, 60, 3), (60, 40, 3), (3, 90, 3)):
    found = pipeline(np.zeros(shape, np.uint8), RNG(0))
    assert pipeline.size == size and found.shape == (*size, 3)
    assert found.dtype == np.uint8


def test_a_large_jpeg_is_decoded_smaller_in_training_only():
  picture = smooth(300, 400)
  data, ops = encoded(picture, "JPEG", quality=95), [("resize", {"size": 32})]
  train, whole = image.parse(ops, "ops"), image.parse(ops, "ops", train=False)
  assert decoded(train, data) == [(100, 75)]
  assert decoded(whole, data) == [(400, 300)]
  want = np.asarray(image.decode(data).resize((32, 32), 3))
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
    pipeline = image.parse([op, ("resize", {"size": 8})], "ops")
    found = {min(s) for _ in range(5) for s in decoded(pipeline, data)}
    assert found <= sizes, op


@pytest.mark.parametrize("turned", [1, 6])
def test_a_crop_of_a_shrunk_jpeg_is_the_crop_of_the_whole(turned):
  """The same part for the same rng, but for what shrinking costs: 36 dB."""
  exif = PIL.Image.Exif()
  exif[0x0112] = turned
  data = encoded(smooth(600, 400), "JPEG", quality=95, exif=exif)
  ops = [("random_resized_crop", {"size": 48, "area": (0.3, 1)})]
  pipeline = image.parse(ops, "ops")
  assert max(decoded(pipeline, data)[0]) < 600
  for seed in range(20):
    want = pipeline.ops[0](image.decode(data), RNG(seed))
    error = pipeline(data, RNG(seed)).astype(float) - np.asarray(want)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 36


def test_three_eighths_of_a_jpeg_are_as_good_as_a_half():
  """And what is broken is so by PIL's word, whatever it is decoded at."""
  for kwargs in ({}, {"progressive": True}, {"subsampling": 0}):
    data = encoded(smooth(900, 601), "JPEG", quality=95, **kwargs)
    pipeline = image.parse([("resize", {"size": 140})], "ops")
    assert decoded(pipeline, data) == [(226, 338)]
    error = pipeline(data).astype(float) - np.asarray(
      image.decode(data).resize((140, 140), PIL.Image.Resampling.BICUBIC)
    )
    assert 10 * np.log10(255**2 / (error**2).mean()) > 44
  for n in range(0, len(data), len(data) // 40):
    for case in (data[:n], data[:n] + bytes([data[n] ^ 0x55]) + data[n + 1 :]):
      want = outcome(image.decode, case)
      found = outcome(lambda d: decode.decode(d, lambda size: 3), case)
      bad = isinstance(want, tuple)
      assert found == want if bad else isinstance(found, list)
  grey = encoded(smooth(900, 601).convert("L"), "JPEG")
  assert pipeline(grey).shape == (140, 140, 3)


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
    [R, ("flip_lr", {"q": 1})], True, r"ops\[1\] = 'q': allowed is one of p"
  ),
  "argument that is not the user's": (
    [R, ("flip_lr", {"rng": 1})], True, r"ops\[1\] = 'rng'"
  ),
  "missing size": ([("resize", {})], True, r"ops\[0\].size = None"),
  "only a name where a size is needed": (["resize"], True, "size = None"),
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
    image.parse(ops, "ops", train)
  if name != "no number":
    with pytest.raises(errors.UserError, match="ops"):
      image.parse(json.loads(json.dumps(ops)), "ops", train)


def test_a_line_of_pixels_is_a_bad_record_not_gigabytes():
  file = io.BytesIO()
  PIL.Image.new("RGB", (60000, 1)).save(file, "PNG")
  with pytest.raises(BadRecord, match="13440000 x 224 pixels"):
    run(
      ("resize_shortest", {"size": 224}), ("random_crop", {"size": 224}),
      data=file.getvalue(),
    )  # fmt: skip
