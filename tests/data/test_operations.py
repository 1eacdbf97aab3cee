"""Preprocessing: what each operation does to pixels."""

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.transforms import geometry, operations
from making import NOISE, RNG, by_pil, encoded, gradient, run, smooth


def test_resize_squashes_as_pil_does():
  found = run(("resize", {"size": 16}))
  want = PIL.Image.fromarray(NOISE).resize((16, 16), 3)
  np.testing.assert_array_equal(found, want)
  found = run(("resize", {"size": [20, 30], "method": "bilinear"}))
  want = PIL.Image.fromarray(NOISE).resize((30, 20), 2)
  np.testing.assert_array_equal(found, want)


def sampled(pixels, height, width):
  """tf.image.resize: bilinear at half-pixel centers, not antialiased."""

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
    found = operations.resize_shortest(picture, None, size=20)
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
  centers = 2 + 5 * np.arange(20)
  assert np.abs(found[10, 1:-1, 0] - centers[1:-1] - 50).max() <= 1
  assert np.abs(found[1:-1, 10, 1] - centers[1:-1]).max() <= 1


def test_random_crop_reaches_every_place_and_nothing_else():
  seen = set()
  crop = operations.parse([("random_crop", {"size": 38})], "ops")
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
        cut = operations.random_crop(whole, RNG(seed), size=32, padding=padding)
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
    operations.random_resized_crop(
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
    operations.random_resized_crop(picture, RNG(0), size=8)
    left, top, right, bottom = boxes[-1]
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert (right - left, bottom - top) == part


def test_as_torchvision_a_strip_is_cut_in_the_middle():
  for size, box in (
    ((500, 10), (243, 0, 256, 10)), ((10, 500), (0, 243, 10, 256)),
    ((1, 700), (0, 349, 1, 350)),
  ):  # fmt: skip
    found = {
      geometry.part(size, RNG(s), (0.5, 1), (3 / 4, 4 / 3), central=True)
      for s in range(20)
    }
    assert found == {box}
  kwargs = {"size": 8, "area": (0.5, 1), "as_torchvision": True}
  strip = gradient(10, 250)
  want = PIL.Image.fromarray(strip[:, 118:131]).resize((8, 8), 3)
  for seed in range(3):
    found = run(("random_resized_crop", kwargs), data=strip, seed=seed)
    np.testing.assert_array_equal(found, want)


def test_as_torchvision_no_pixel_beside_the_box_counts():
  """A constant box in noise stays constant; also one that is not whole."""
  picture = NOISE.copy()
  picture[10:30, 20:45] = 77
  image, how = PIL.Image.fromarray(picture), PIL.Image.Resampling.BICUBIC
  for box in ((20, 10, 45, 30), (20.5, 10.25, 44.1, 29.9)):
    inside = geometry.resized(image, box, (7, 9), how, inside=True)
    assert inside.size == (9, 7) and (np.asarray(inside) == 77).all()
    beside = geometry.resized(image, box, (7, 9), how, inside=False)
    assert np.ptp(np.asarray(beside)) > 0


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
  flip = operations.parse([("center_crop", {"size": 40}), "flip_lr"], "ops")
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
  jitter = operations.parse(ops, "ops")
  factors = [
    property_of(jitter(dim, RNG(s))) / property_of(dim) for s in range(60)
  ]
  assert 0.68 < min(factors) < 0.8 and 1.2 < max(factors) < 1.32


def test_hue_turns_colors_and_leaves_grey_and_brightness():
  red = np.zeros((4, 4, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
  ops = [("resize", {"size": 4}), ("color_jitter", {"hue": 0.5})]
  found = np.array([run(*ops, data=red, seed=s)[0, 0] for s in range(40)])
  assert (found.max(axis=1) == 200).all() and (found.min(axis=1) == 0).all()
  assert set(found.argmax(axis=1)) == {0, 1, 2}
  assert (found[:, 0] == 0).any()  # More than a third of a turn.
  few = [("resize", {"size": 4}), ("color_jitter", {"hue": 0.02})]
  found = np.array([run(*few, data=red, seed=s)[0, 0] for s in range(40)])
  assert set(found.argmax(axis=1)) == {0} and found[:, 1:].max() <= 30
  gray = np.full((4, 4, 3), 90, np.uint8)
  np.testing.assert_array_equal(run(*ops, data=gray, seed=0), gray)


def test_jitter_of_nothing_or_with_p_0_changes_nothing():
  for kwargs in ({}, {"brightness": 1, "hue": 0.5, "p": 0}):
    ops = [("center_crop", {"size": 40}), ("color_jitter", kwargs)]
    np.testing.assert_array_equal(run(*ops, seed=0), NOISE[:, 10:50])


def test_grayscale_makes_the_channels_equal():
  ops = [("resize", {"size": 8}), ("grayscale", {"p": 1})]
  found = run(*ops, seed=0)
  assert (found == found[..., :1]).all() and np.ptp(found) > 0
