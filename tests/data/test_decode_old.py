"""GIF, TGA, PPM and QOI made by hand, to the RGB they mean."""

import struct

import numpy as np
import pytest

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import decode
from making import bits, check

RNG = np.random.default_rng
INDEX = RNG(0).integers(0, 4, (5, 6))
FOUR = RNG(1).integers(0, 256, (4, 3))
COLORS = RNG(2).integers(0, 256, (3, 5, 3)).astype(np.uint8)


def frame(index, at=(0, 0), palette=None, clear=None, dispose=0):
  """A frame of a GIF, of codes of one byte: none of them is compressed."""
  flags = dispose << 2 | (clear is not None)
  control = b"!\xf9\4" + bytes([flags, 0, 0, clear or 0, 0]) if flags else b""
  height, width = index.shape
  place = struct.pack("<HHHH", *at, width, height)
  table = b"" if palette is None else bytes(palette.ravel().tolist())
  flags = 0 if palette is None else 0x81
  codes = b"\x80" + bytes(index.ravel().tolist()) + b"\x81"
  data = b"\7" + bytes([len(codes)]) + codes + b"\0"
  return control + b"," + place + bytes([flags]) + table + data


def gif(width, height, *frames, palette=FOUR, background=0):
  head = b"GIF89a" + struct.pack("<HH", width, height)
  table = b"" if palette is None else bytes(palette.ravel().tolist())
  flags = 0 if palette is None else 0x81
  head += bytes([flags, background, 0]) + table
  return head + b"".join(frames) + b";"


def test_of_a_gif_it_is_the_first_frame():
  for dispose in (0, 1, 2, 3):
    frames = frame(INDEX, dispose=dispose), frame(3 - INDEX)
    check(gif(6, 5, *frames), FOUR[INDEX])


def test_a_frames_own_palette_goes_before_that_of_all():
  own = RNG(3).integers(0, 256, (4, 3))
  check(gif(6, 5, frame(INDEX, palette=own)), own[INDEX])
  check(gif(6, 5, frame(INDEX, palette=own), palette=None), own[INDEX])


def test_the_transparent_index_of_a_gif_is_white():
  want = np.where(INDEX[..., None] == 2, 255, FOUR[INDEX])
  check(gif(6, 5, frame(INDEX, clear=2)), want)


@pytest.mark.parametrize("background", [0, 3])
def test_what_the_first_frame_leaves_is_the_background(background):
  """Or white, where there is none or the frame has a transparent index."""
  own = RNG(3).integers(0, 256, (4, 3))
  for palette, clear, beside in (
    (None, None, FOUR[background]), (own, None, FOUR[background]),
    (None, 2, [255] * 3), (own, 2, [255] * 3),
  ):  # fmt: skip
    part = (FOUR if palette is None else own)[INDEX]
    part = np.where(INDEX[..., None] == 2, 255, part) if clear else part
    want = np.empty((9, 8, 3))
    want[:] = beside
    want[3:8, 1:7] = part
    made = frame(INDEX, (1, 3), palette, clear)
    check(gif(8, 9, made, background=background), want)
  want[:] = 255
  want[3:8, 1:7] = own[INDEX]
  made = frame(INDEX, (1, 3), own)
  check(gif(8, 9, made, palette=None), want)
  check(gif(8, 9, made, background=4 + background), want)  # There is no such.
  greys = np.repeat(np.arange(4)[:, None], 3, 1)  # Which PIL keeps none of.
  want[:] = background
  want[3:8, 1:7] = own[INDEX]
  check(gif(8, 9, made, palette=greys, background=background), want)


def tga(width, height, kind, depth, body, flags=0, palette=b"", entry=0):
  many = len(palette) // (entry // 8) if entry else 0
  head = struct.pack(
    "<BBBHHBHHHHBB", 0, bool(entry), kind, 0, many, entry, 0, 0, width,
    height, depth, flags,
  )  # fmt: skip
  return head + palette + body


@pytest.mark.parametrize("flags", [0, 0x10, 0x20, 0x30])
def test_a_tga_begins_at_any_corner(flags):
  turned = COLORS[:, ::-1] if flags & 0x10 else COLORS
  turned = turned if flags & 0x20 else turned[::-1]
  bgr = np.ascontiguousarray(turned[..., ::-1])
  check(tga(5, 3, 2, 24, bgr.tobytes(), flags), COLORS)
  runs = b"".join(b"\x04" + row.tobytes() for row in bgr)
  check(tga(5, 3, 10, 24, runs, flags), COLORS)
  gray = np.ascontiguousarray(turned[..., 0])
  check(tga(5, 3, 3, 8, gray.tobytes(), flags), COLORS[..., 0])


def test_tgas_of_16_bits_and_palettes():
  r, g, b = np.moveaxis(COLORS.astype(int) >> 3, -1, 0)
  words = (r << 10 | g << 5 | b).astype("<u2")
  want = np.round((COLORS >> 3) / 31 * 255)
  for top in (0, 0x8000):  # No bits of alpha: the highest says nothing.
    check(tga(5, 3, 2, 16, (words | top).tobytes(), 0x20), want, 1)
  index = INDEX[:3, :5]
  body = index.astype(np.uint8).tobytes()
  bgr = FOUR[:, ::-1].astype(np.uint8)
  data = tga(5, 3, 1, 8, body, 0x20, bgr.tobytes(), 24)
  check(data, FOUR[index])
  alpha = np.array([0, 255, 51, 128])
  table = np.concatenate([bgr, alpha[:, None].astype(np.uint8)], -1)
  part = (alpha / 255)[index][..., None]
  data = tga(5, 3, 1, 8, body, 0x28, table.tobytes(), 32)
  check(data, FOUR[index] * part + 255 * (1 - part), 1)


@pytest.mark.parametrize("kind", [2, 10])
def test_alpha_of_a_tga_counts_unless_there_is_none(kind):
  alpha = RNG(8).integers(0, 256, (3, 5)).astype(np.uint8)
  part = alpha[..., None] / 255
  for given, flags, want in (
    (alpha, 0x28, COLORS * part + 255 * (1 - part)),
    (0 * alpha, 0x28, 0 * COLORS + 255),
    (0 * alpha, 0x20, COLORS),
  ):
    four = np.concatenate([COLORS[..., ::-1], given[..., None]], -1)
    body = four.tobytes()
    if kind == 10:
      body = b"".join(b"\x04" + row.tobytes() for row in four)
    check(tga(5, 3, kind, 32, body, flags), want, 1)


@pytest.mark.parametrize("most", [1, 7, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("many", [1, 3])
def test_white_of_a_ppm_is_what_it_says(most, many):
  samples = RNG(9).integers(0, most + 1, (3, 5, many))
  samples[0, 0], samples[0, 1] = 0, most
  want = samples / most * 255
  want = want[..., 0] if many == 1 else want
  text = f"P{'2' if many == 1 else '3'} # x\n5 3\n{most}\n"
  text += " ".join(str(n) for n in samples.ravel())
  check(text.encode(), want, 1)
  head = f"P{'5' if many == 1 else '6'}\n5 3\n{most}\n".encode()
  body = samples.astype(">u2" if most > 255 else "u1").tobytes()
  check(head + body, want, 1)


def test_black_and_white_of_a_pbm():
  ones = RNG(10).integers(0, 2, (3, 11))
  text = b"P1 11 3 " + " ".join(str(n) for n in ones.ravel()).encode()
  check(text, 255 * (1 - ones))
  check(b"P4 11 3 " + b"".join(bits(ones, 1)), 255 * (1 - ones))


def test_floats_of_a_pfm_have_no_known_white():
  data = b"Pf\n2 1\n-1.0\n" + struct.pack("<ff", 0, 1)
  for function in (decode.decode, decode.pixels, decode.size):
    with pytest.raises(BadRecord, match="floats have no known white"):
      function(data)


@pytest.mark.parametrize("many", [3, 4])
def test_qoi_of_three_and_four_samples(many):
  alpha = RNG(8).integers(0, 256, (3, 5, 1)) if many == 4 else 255
  four = np.concatenate([COLORS, np.zeros((3, 5, 1), int) + alpha], -1)
  body = b"".join(b"\xff" + bytes(p) for p in four.reshape(-1, 4).tolist())
  head = b"qoif" + struct.pack(">IIBB", 5, 3, many, 0)
  part = four[..., 3:] / 255
  want = COLORS * part + 255 * (1 - part)
  check(head + body + bytes(7) + b"\1", want, 1)
