"""GIF, BMP, icons, TGA, PPM and QOI made by hand, to the RGB they mean."""

import struct

import numpy as np
import pytest

from big_contrastive.data import decode
from big_contrastive.data.bad import BadRecord
from making import bits, check, chunk, png

RNG = np.random.default_rng
INDEX = RNG(0).integers(0, 4, (5, 6))
FOUR = RNG(1).integers(0, 256, (4, 3))
COLOURS = RNG(2).integers(0, 256, (3, 5, 3)).astype(np.uint8)


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
  check(gif(8, 9, frame(INDEX, (1, 3), own), palette=None), want)


def dib(width, height, depth, body, palette=b"", packed=0, used=0, masks=b""):
  """A bitmap without the head of its file; body is from the lowest row up."""
  return struct.pack(
    "<IiiHHIIiiII", 40, width, height, 1, depth, packed, len(body), 0, 0,
    used, 0,
  ) + masks + palette + body  # fmt: skip


def bmp(*args, **kwargs):
  made = dib(*args, **kwargs)
  start = 14 + len(made) - len(args[3])
  return b"BM" + struct.pack("<IHHI", 14 + len(made), 0, 0, start) + made


def padded(rows):
  return b"".join(row + bytes(-len(row) % 4) for row in rows)


def table(colours):
  return b"".join(bytes([b, g, r, 0]) for r, g, b in colours.tolist())


@pytest.mark.parametrize("used", [2, 0])
@pytest.mark.parametrize("depth", [1, 4, 8])
@pytest.mark.parametrize("kind", ["coloured", "black and white", "grey"])
def test_palettes_of_bmps(kind, depth, used):
  many = used or 2**depth
  colours = RNG(4).integers(0, 256, (many, 3))
  if kind == "black and white":
    colours[:2] = [[0] * 3, [255] * 3]
  if kind == "grey":
    colours = np.repeat(np.arange(many)[:, None], 3, 1)
  index = RNG(5).integers(0, many, (5, 11))
  body = padded(bits(index, depth)[::-1])
  data = bmp(11, 5, depth, body, table(colours), used=used)
  check(data, colours[index])
  down = padded(bits(index, depth))
  data = bmp(11, -5, depth, down, table(colours), used=used)
  check(data, colours[index])
  if depth == 8:
    rows = ([[1, i] for i in row] + [[0, 0]] for row in index[::-1])
    runs = bytes(np.concatenate([np.ravel(row) for row in rows]).tolist())
    data = bmp(11, 5, 8, runs + b"\0\1", table(colours), packed=1, used=used)
    check(data, colours[index])


def test_bmps_of_16_24_and_32_bits():
  rows = [bytes(row[:, ::-1].ravel().tolist()) for row in COLOURS[::-1]]
  check(bmp(5, 3, 24, padded(rows)), COLOURS)
  check(dib(5, 3, 24, padded(rows)), COLOURS)
  # The fourth byte is nothing unless a mask says so.
  four = np.concatenate([COLOURS[..., ::-1], COLOURS[..., :1]], -1)
  check(bmp(5, 3, 32, four[::-1].tobytes()), COLOURS)
  five = COLOURS >> 3
  r, g, b = np.moveaxis(five.astype(int), -1, 0)
  words = (r << 10 | g << 5 | b).astype("<u2")
  rows = padded([row.tobytes() for row in words[::-1]])
  check(bmp(5, 3, 16, rows), np.round(five / 31 * 255), 1)
  r, g, b = COLOURS[..., 0] >> 3, COLOURS[..., 1] >> 2, COLOURS[..., 2] >> 3
  words = (r.astype(int) << 11 | g.astype(int) << 5 | b).astype("<u2")
  rows = padded([row.tobytes() for row in words[::-1]])
  want = np.round(np.stack([r / 31, g / 63, b / 31], -1) * 255)
  masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
  check(bmp(5, 3, 16, rows, packed=3, masks=masks), want, 1)


def test_run_lengths_of_bmps():
  """Runs, literals, a jump over pixels of index 0, ends of lines."""
  colours = RNG(6).integers(0, 256, (256, 3))
  runs = [5, 7, 1, 9, 0, 0]  # The lowest row.
  runs += [0, 3, 10, 11, 12, 0, 3, 8, 0, 0]
  runs += [0, 2, 2, 0, 4, 6, 0, 0, 0, 1]
  want = [[0, 0, 6, 6, 6, 6], [10, 11, 12, 8, 8, 8], [7, 7, 7, 7, 7, 9]]
  data = bmp(6, 3, 8, bytes(runs), table(colours), packed=1)
  check(data, colours[np.array(want)])
  runs = [
    5,
    0x12,
    1,
    0x30,
    0,
    0,
    0,
    5,
    0x45,
    0x67,
    0x80,
    0,
    1,
    0x90,
    0,
    0,
    0,
    1,
  ]
  want = [[4, 5, 6, 7, 8, 9], [1, 2, 1, 2, 1, 3]]
  data = bmp(6, 2, 4, bytes(runs), table(colours[:16]), packed=2)
  check(data, colours[np.array(want)])


def icon(*pictures):
  """Of (width, height, bits, bytes)."""
  at, entries = 6 + 16 * len(pictures), b""
  for width, height, depth, data in pictures:
    entries += struct.pack(
      "<BBBBHHII", width % 256, height % 256, 0, 0, 1, depth, len(data), at
    )
    at += len(data)
  data = b"".join(picture[3] for picture in pictures)
  return b"\0\0\1\0" + struct.pack("<H", len(pictures)) + entries + data


def drawn(colours, alpha, masked, depth):
  """A bitmap as icons have it: of twice the height, a mask behind it."""
  height, width, _ = colours.shape
  many = [colours[..., ::-1], alpha[..., None]][: depth // 8 - 2]
  body = padded([r.tobytes() for r in np.concatenate(many, -1)[::-1]])
  mask = padded(bits(masked.astype(int)[::-1], 1))
  made = dib(width, 2 * height, depth, body + mask)
  return width, height, depth, made


def test_of_an_icon_it_is_the_largest_and_of_equals_the_deepest():
  alpha, none = np.full((3, 5), 255, np.uint8), np.zeros((3, 5), bool)
  small = drawn(255 - COLOURS[:2, :2], alpha[:2, :2], none[:2, :2], 32)
  index = np.zeros((3, 5), int)
  body = padded(bits(index, 1)) + padded(bits(index, 1))
  flat = 5, 3, 1, dib(5, 6, 1, body, table(FOUR[:2]))
  deep = drawn(COLOURS, alpha, none, 32)
  for order in ([small, flat, deep], [deep, small, flat], [flat, deep, small]):
    check(icon(*order), COLOURS)


def test_alpha_and_masks_of_icons_are_laid_on_white():
  masked = RNG(7).integers(0, 2, (3, 5)).astype(bool)
  cut = np.where(masked[..., None], 255, COLOURS)
  alpha = RNG(8).integers(0, 256, (3, 5)).astype(np.uint8)
  part = alpha[..., None] / 255
  check(icon(drawn(COLOURS, alpha, masked, 24)), cut)
  want = COLOURS * part + 255 * (1 - part)
  check(icon(drawn(COLOURS, alpha, masked, 32)), want, 1)
  # Icons older than alpha have none: the mask is what counts.
  check(icon(drawn(COLOURS, 0 * alpha, masked, 32)), cut)
  # The directory needs not tell the bits.
  width, height, _, data = drawn(COLOURS, alpha, masked, 32)
  check(icon((width, height, 0, data)), want, 1)


def test_a_png_in_an_icon_is_what_it_is_alone():
  """Of its own size, which the directory may tell wrong, alpha and notes."""
  long = chunk(b"tEXt", b"k\0" + b"A" * 2**20) * 65
  key = chunk(b"tRNS", struct.pack(">HHH", *COLOURS[0, 0].tolist()))
  rows = [row.tobytes() for row in COLOURS]
  want = COLOURS.copy()
  want[0, 0] = 255
  data = png(5, 3, 8, 2, rows, key + long)
  check(icon((5, 3, 32, data)), want)
  check(icon((0, 0, 32, data), (1, 1, 32, png(1, 1, 8, 0, [b"\0"]))), want)


def tga(width, height, kind, depth, body, flags=0, palette=b"", entry=0):
  many = len(palette) // (entry // 8) if entry else 0
  head = struct.pack(
    "<BBBHHBHHHHBB", 0, bool(entry), kind, 0, many, entry, 0, 0, width,
    height, depth, flags,
  )  # fmt: skip
  return head + palette + body


@pytest.mark.parametrize("flags", [0, 0x10, 0x20, 0x30])
def test_a_tga_begins_at_any_corner(flags):
  turned = COLOURS[:, ::-1] if flags & 0x10 else COLOURS
  turned = turned if flags & 0x20 else turned[::-1]
  bgr = np.ascontiguousarray(turned[..., ::-1])
  check(tga(5, 3, 2, 24, bgr.tobytes(), flags), COLOURS)
  runs = b"".join(b"\x04" + row.tobytes() for row in bgr)
  check(tga(5, 3, 10, 24, runs, flags), COLOURS)
  grey = np.ascontiguousarray(turned[..., 0])
  check(tga(5, 3, 3, 8, grey.tobytes(), flags), COLOURS[..., 0])


def test_tgas_of_16_bits_and_palettes():
  r, g, b = np.moveaxis(COLOURS.astype(int) >> 3, -1, 0)
  words = (r << 10 | g << 5 | b).astype("<u2")
  want = np.round((COLOURS >> 3) / 31 * 255)
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
    (alpha, 0x28, COLOURS * part + 255 * (1 - part)),
    (0 * alpha, 0x28, 0 * COLOURS + 255),
    (0 * alpha, 0x20, COLOURS),
  ):
    four = np.concatenate([COLOURS[..., ::-1], given[..., None]], -1)
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
  four = np.concatenate([COLOURS, np.zeros((3, 5, 1), int) + alpha], -1)
  body = b"".join(b"\xff" + bytes(p) for p in four.reshape(-1, 4).tolist())
  head = b"qoif" + struct.pack(">IIBB", 5, 3, many, 0)
  part = four[..., 3:] / 255
  want = COLOURS * part + 255 * (1 - part)
  check(head + body + bytes(7) + b"\1", want, 1)
