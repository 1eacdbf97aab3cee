"""Pictures like lines: resized and cut at once, never made whole."""

import io
import math

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import decode, operations

RNG = np.random.default_rng
SHAPES = ((20, 600), (600, 20), (7, 333), (90, 400), (31, 31), (3, 500))
# Of which no pixel of the result is just between two: "nearest" is one of them.
HALVES = ((16, 600), (600, 16), (8, 333), (64, 330))
CROPS = (
  ("center_crop", {"size": 24}),
  ("center_crop", {"size": (24, 31), "rounding": "nearest"}),
  ("center_crop", {"size": (50, 60)}),  # Of more than there is: padded.
  ("random_crop", {"size": 24}),
  ("random_crop", {"size": (20, 31), "padding": 5}),
  ("random_crop", {"size": 9, "padding": 20}),  # Often all in the padding.
  ("random_crop", {"size": (50, 60)}),
)


def smooth(height, width):
  """Waves, up to a few pixels long, with all levels."""
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / 3 + y / 2), np.cos(x / 7 - y / 5), np.sin(x * y / 50)]
  return (127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)


def outcome(pipeline, data, rng):
  """The pixels, and what the rng would draw next."""
  return pipeline(data, rng).astype(int), rng.random()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize(
  "method", ["nearest", "bilinear", "bicubic", "lanczos"]
)
def test_at_once_is_one_after_the_other(crop, method, monkeypatch):
  """Up to one level: PIL computes weights for a box from its sides, in 32 bits,
  and rounds them to fixed point."""
  for rounding in ("nearest", "down"):
    resize = {"size": 32, "method": method, "rounding": rounding}
    ops = [("resize_shortest", resize), crop]
    pipeline, off = operations.parse(ops, "ops"), []
    for shape in HALVES if method == "nearest" else SHAPES:
      for seed in range(4):
        whole = outcome(pipeline, smooth(*shape), RNG(seed))
        least = 32 * math.floor(32 * max(shape) / min(shape)) - 1
        monkeypatch.setattr(decode, "MAX_PIXELS", least)
        with pytest.raises(BadRecord):
          pipeline.ops[0](PIL.Image.fromarray(smooth(*shape)), None)
        once = outcome(pipeline, smooth(*shape), RNG(seed))
        monkeypatch.undo()
        assert once[0].shape == whole[0].shape and once[1] == whole[1]
        off.append(np.abs(once[0] - whole[0]))
        assert off[-1].max() <= 1, (shape, seed)
    assert np.mean([o.mean() for o in off]) < 0.01


def test_ordinary_pictures_are_resized_and_then_cut():
  """Bit for bit: that is what torchvision does."""
  ops = [("resize_shortest", {"size": 32}), ("center_crop", {"size": 24})]
  for shape in SHAPES:
    picture = PIL.Image.fromarray(smooth(*shape))
    want = operations.center_crop(
      operations.resize_shortest(picture, None, size=32), None, size=24
    )
    found = operations.parse(ops, "ops", train=False)(smooth(*shape))
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("crop", ["center_crop", "random_crop"])
def test_a_line_of_pixels_is_a_picture_like_any(crop, turned):
  """A ramp of 60,000 x 1: the crop is at one place of it, all along."""
  ramp = np.zeros((1, 60_000, 3), np.uint8)
  ramp[..., 0] = np.arange(60_000) // 256
  ramp[..., 1] = np.arange(60_000) % 256 // 16 * 16
  ramp = ramp.swapaxes(0, 1) if turned else ramp
  file = io.BytesIO()
  PIL.Image.fromarray(ramp).save(file, "PNG")
  ops = [("resize_shortest", {"size": 224}), (crop, {"size": 224})]
  train = crop == "random_crop"
  pipeline = operations.parse(ops, "ops", train)
  places = set()
  for seed in range(5):
    found = pipeline(file.getvalue(), RNG(seed) if train else None)
    assert found.shape == (224, 224, 3) and np.ptp(found, (0, 1)).max() <= 16
    places.add(int(found[112, 112, 0]))
  assert len(places) > 3 if train else places == {30000 // 256}


def test_what_is_not_cut_at_once_is_still_a_bomb():
  line = np.zeros((1, 60_000, 3), np.uint8)
  crop, first = ("center_crop", {"size": 8}), ("resize_shortest", {"size": 224})
  for ops in (
    [first, "flip_lr", crop], [first, ("resize", {"size": 8})],
    [first, ("random_resized_crop", {"size": 8})],
    [first, first, crop],
  ):  # fmt: skip
    with pytest.raises(BadRecord, match="13440000 x 224 pixels") as e:
      operations.parse(ops, "ops")(line, RNG(0))
    assert e.value.kind == "bomb"
