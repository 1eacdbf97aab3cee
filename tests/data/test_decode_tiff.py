"""TIFFs made by hand, of every way of storing pixels, to the RGB they mean."""

import io

import numpy as np
import PIL.Image
import pytest

import making
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import decode, operations
from making import tiff

RGB16 = (np.arange(36).reshape(3, 4, 3) * 1800).astype(np.uint16)
UPPER = (RGB16 // 256).astype(np.uint8)
GREY = np.array([[0, 1, 100, 254, 255]], np.uint8)
XMP = '<x tiff:Orientation="{}"/>'
BOTH = pytest.mark.parametrize("big", [False, True])


def check(want, *args, off=0, **kwargs):
  """Of a TIFF that isn't compressed, and of one that is."""
  for packed in (False, True):
    making.check(tiff(*args, **kwargs, packed=packed), want, off)


def stored(samples, big, depth=16):
  return samples.astype(f"{'>' if big else '<'}u{depth // 8}").tobytes()


@BOTH
def test_sixteen_bits_become_the_upper_eight(big):
  check(UPPER, 4, 3, [stored(RGB16, big)], [16] * 3, 2, big=big)
  gray = RGB16[..., 0]
  check(gray // 256, 4, 3, [stored(gray, big)], [16], 1, big=big)
  cmyk = np.concatenate([RGB16, 0 * RGB16[..., :1]], -1)
  check(255 - UPPER, 4, 3, [stored(cmyk, big)], [16] * 4, 5, big=big)


@BOTH
@pytest.mark.parametrize("depth", [8, 16])
def test_planes_are_put_together(big, depth):
  colors = RGB16 if depth == 16 else UPPER
  strips = [stored(colors[..., i], big, depth) for i in range(3)]
  full, apart = b"\xff" * len(strips[0]), {284: (3, [2])}
  check(UPPER, 4, 3, strips, [depth] * 3, 2, apart, big)
  # Not alpha (which of 8 bits PIL refuses), alpha multiplied in, and not so.
  for extra in (0, 1, 2) if depth == 16 else (1, 2):
    tags = apart | {338: (3, [extra])}
    check(UPPER, 4, 3, [*strips, full], [depth] * 4, 2, tags, big)
  none = bytes(len(full))
  check(255 - UPPER, 4, 3, [*strips, none], [depth] * 4, 5, apart, big)
  for white in (0, 1):  # One plane is no other than pixels in a row.
    want = UPPER[..., 0] if white else 255 - UPPER[..., 0]
    if white or depth == 8 or not big:  # Else PIL knows no such mode.
      check(want, 4, 3, strips[:1], [depth], white, apart, big)


def test_grey_and_alpha_in_planes_is_refused_not_made_white():
  strips, tags = [GREY.tobytes(), b"\xff" * 5], {284: (3, [2])}
  for packed in (False, True):
    for extra in (1, 2):
      tags[338] = (3, [extra])
      data = tiff(5, 1, strips, [8] * 2, 1, tags, packed=packed)
      for function in (decode.decode, decode.pixels, decode.size):
        with pytest.raises(BadRecord, match="gray and alpha in planes"):
          function(data)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("white", [0, 1])
def test_grey_of_any_depth_has_its_black_and_its_white(depth, white):
  most = 2**depth - 1
  samples = np.array([0, most // 3, most // 2, most])
  text = "".join(f"{n:0{depth}b}" for n in samples)
  strip = int(text, 2).to_bytes(4 * depth // 8 or 1, "big")
  if depth == 1:
    strip = bytes([strip[0] << 4])
  if depth == 16:
    strip = stored(samples, False)
  want = samples if white else most - samples
  want = want >> (depth - 8) if depth > 8 else want * 255 // most
  if depth == 12 and not white:
    with pytest.raises(BadRecord, match="no image"):  # Unknown to PIL.
      decode.decode(tiff(4, 1, [strip], [depth], white))
  else:
    check(want[None], 4, 1, [strip], [depth], white)


@BOTH
@pytest.mark.parametrize(
  "dtype, kind, name",
  [
    ("f4", 3, "floats"), ("i1", 2, "signed integers"),
    ("i2", 2, "signed integers"), ("i4", 2, "signed integers"),
    ("u4", 1, "32-bit integers"),
  ],
)  # fmt: skip
def test_what_has_no_known_white_is_bad(dtype, kind, name, big):
  """Neither clipped nor stretched: nobody can tell which would be right."""
  samples = np.array([0, 1, 1, 2]).astype((">" if big else "<") + dtype)
  depth = 8 * samples.itemsize
  data = tiff(4, 1, [samples.tobytes()], [depth], 1, {339: (3, [kind])}, big)
  said = "no known format" if big and dtype == "u4" else name  # PIL has none.
  for function in (decode.decode, decode.pixels, decode.size):
    with pytest.raises(BadRecord, match=said) as e:
      function(data)
    assert e.value.kind == "image"


def test_alpha_is_laid_on_white_once():
  """Whether the colors are multiplied by it or not."""
  colors, alpha = np.array([[10, 200]]), np.array([[51, 255]])
  white = 255 - alpha
  for samples, extra, want in (
    ([colors * alpha // 255, alpha], 1, colors * alpha / 255 + white),
    ([colors, alpha], 2, colors * alpha / 255 + white),
    ([colors, alpha], 0, colors),
  ):
    for kind, many in ((1, 1), (2, 3)):
      values = np.stack(samples[:1] * many + samples[1:], -1).astype(np.uint8)
      depths, tags = [8] * (many + 1), {338: (3, [extra])}
      check(want, 2, 1, [values.tobytes()], depths, kind, tags, off=1)


def test_a_palette_of_sixteen_bits_is_looked_up_and_one_of_eight_as_well():
  palette = np.random.default_rng(0).integers(0, 256, (256, 3))
  for scale in (257, 1):
    colors = {320: (3, (palette.T * scale).ravel().tolist())}
    check(palette[GREY], 5, 1, [GREY.tobytes()], [8], 3, colors)


def test_fewer_samples_of_color_than_of_brightness():
  """YCbCr of 2 x 2 pixels a color, as is the rule where no tag says else."""
  gray = np.array([[10, 20, 50, 60], [30, 40, 70, 80]])
  blocks = [10, 20, 30, 40, 128, 128, 50, 60, 70, 80, 128, 128]
  check(gray, 4, 2, [bytes(blocks)], [8] * 3, 6)
  each = np.stack([gray, 0 * gray + 128, 0 * gray + 128], -1).astype(np.uint8)
  tags = {530: (3, [1, 1])}
  check(gray, 4, 2, [each.tobytes()], [8] * 3, 6, tags)


def test_planes_and_fewer_samples_of_color_are_turned_as_well():
  strips = [stored(RGB16[..., i], False) for i in range(3)]
  tags = {284: (3, [2]), 274: (3, [6])}
  check(np.rot90(UPPER, -1), 4, 3, strips, [16] * 3, 2, tags)
  blocks = [10, 20, 30, 40, 128, 128, 50, 60, 70, 80, 128, 128]
  gray = np.array([[10, 20, 50, 60], [30, 40, 70, 80]])
  tags = {274: (3, [8])}
  check(np.rot90(gray), 4, 2, [bytes(blocks)], [8] * 3, 6, tags)
  white = np.array([[0, 255, 256, 65535]])
  strips = [stored(white, False)]
  want = np.rot90(65535 - white) >> 8
  check(want, 4, 1, strips, [16], 0, tags)


def test_cielab_becomes_srgb():
  """By the formulas of CIELAB with white D50, but for rounding to 8 bits."""
  rgb = np.array([[255] * 3, [0] * 3, [128] * 3, [180, 90, 70], [60, 90, 150]])
  part = rgb / 255
  linear = np.where(
    part > 0.04045, ((part + 0.055) / 1.055) ** 2.4, part / 12.92
  )
  xyz = linear @ np.array(  # To D50, by Bradford's adaptation.
    [
      [0.4360747, 0.2225045, 0.0139322], [0.3850649, 0.7168786, 0.0971045],
      [0.1430804, 0.0606169, 0.7141733],
    ]
  )  # fmt: skip
  xyz /= [0.9642, 1, 0.8249]
  x, y, z = np.where(xyz > 216 / 24389, xyz ** (1 / 3), xyz * 7.787 + 4 / 29).T
  lab = [(116 * y - 16) * 2.55, 500 * (x - y), 200 * (y - z)]
  stored = np.round(lab).astype(int).T % 256
  check(rgb[None], 5, 1, [bytes(stored.ravel().tolist())], [8] * 3, 8, off=3)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("note", ["tag", "XMP"])
def test_crops_of_a_turned_picture_are_those_of_the_same_png(turn, note):
  """PIL turns a TIFF while loading; its size and box are turned once."""
  ramp = np.zeros((20, 80, 3), np.uint8)
  ramp[..., 0], ramp[..., 1] = np.arange(80) * 3, np.arange(20)[:, None] * 12
  exif, file = PIL.Image.Exif(), io.BytesIO()
  exif[0x112] = turn
  PIL.Image.fromarray(ramp).save(file, "PNG", exif=exif)
  xmp = list(XMP.format(turn).encode())
  tags = {274: (3, [turn])} if note == "tag" else {700: (7, xmp)}
  made = [file.getvalue(), tiff(80, 20, [ramp.tobytes()], [8] * 3, 2, tags)]
  making.check(made[1], decode.decode(made[0]))
  assert decode.size(made[0]) == decode.size(made[1])
  half = {"size": 16, "area": (0.2, 0.3), "aspect": (0.8, 1.25)}
  for op in (("random_resized_crop", half), ("random_crop", {"size": 16})):
    pipeline = operations.parse([op], "ops")
    one, other = (pipeline(d, np.random.default_rng(3)) for d in made)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  "kind", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]
)
def test_compression_and_more_pages_change_nothing(kind):
  rng, file = np.random.default_rng(0), io.BytesIO()
  first, second = rng.integers(0, 256, (2, 9, 7, 3), np.uint8)
  PIL.Image.fromarray(first).save(
    file, "TIFF", compression=kind, save_all=True,
    append_images=[PIL.Image.fromarray(second)],
  )  # fmt: skip
  making.check(file.getvalue(), first)


def test_tiles_are_put_together():
  """Of 16 x 16 pixels, those at the right and at the bottom being cut."""
  whole = np.zeros((32, 32), np.uint8)
  whole[:20, :18] = np.random.default_rng(0).integers(0, 256, (20, 18))
  tiles = [
    whole[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16)
  ]
  starts = [8 + 256 * i for i in range(4)]
  tags = {
    322: (4, [16]), 323: (4, [16]), 324: (4, starts), 325: (4, [256] * 4),
  }  # fmt: skip
  data = tiff(18, 20, tiles, [8], 1, tags, drop=(273, 278, 279))
  making.check(data, whole[:20, :18])
