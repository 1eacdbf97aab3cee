"""BMPs and icons made by hand, to the RGB they mean."""

import struct

import numpy as np
import pytest

from making import bits, check, chunk, png

RNG = np.random.default_rng
FOUR = RNG(1).integers(0, 256, (4, 3))
COLORS = RNG(2).integers(0, 256, (3, 5, 3)).astype(np.uint8)


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


def table(colors):
  return b"".join(bytes([b, g, r, 0]) for r, g, b in colors.tolist())


def palette(kind, many):
  colors = RNG(4).integers(0, 256, (many, 3))
  if kind == "black and white":
    colors[:2] = [[0] * 3, [255] * 3]
  if kind == "gray":
    colors = np.repeat(np.arange(many)[:, None], 3, 1)
  return colors


@pytest.mark.parametrize("used", [2, 0])
@pytest.mark.parametrize("depth", [1, 4, 8])
@pytest.mark.parametrize("kind", ["colored", "black and white", "gray"])
def test_palettes_of_bmps(kind, depth, used):
  colors = palette(kind, used or 2**depth)
  index = RNG(5).integers(0, len(colors), (5, 11))
  body = padded(bits(index, depth)[::-1])
  data = bmp(11, 5, depth, body, table(colors), used=used)
  check(data, colors[index])
  down = padded(bits(index, depth))
  data = bmp(11, -5, depth, down, table(colors), used=used)
  check(data, colors[index])
  if depth == 8:
    rows = ([[1, i] for i in row] + [[0, 0]] for row in index[::-1])
    runs = bytes(np.concatenate([np.ravel(row) for row in rows]).tolist())
    data = bmp(11, 5, 8, runs + b"\0\1", table(colors), packed=1, used=used)
    check(data, colors[index])


def test_bmps_of_16_24_and_32_bits():
  rows = [bytes(row[:, ::-1].ravel().tolist()) for row in COLORS[::-1]]
  check(bmp(5, 3, 24, padded(rows)), COLORS)
  check(dib(5, 3, 24, padded(rows)), COLORS)
  # The fourth byte is nothing unless a mask says so.
  four = np.concatenate([COLORS[..., ::-1], COLORS[..., :1]], -1)
  check(bmp(5, 3, 32, four[::-1].tobytes()), COLORS)
  five = COLORS >> 3
  r, g, b = np.moveaxis(five.astype(int), -1, 0)
  words = (r << 10 | g << 5 | b).astype("<u2")
  rows = padded([row.tobytes() for row in words[::-1]])
  check(bmp(5, 3, 16, rows), np.round(five / 31 * 255), 1)
  r, g, b = COLORS[..., 0] >> 3, COLORS[..., 1] >> 2, COLORS[..., 2] >> 3
  words = (r.astype(int) << 11 | g.astype(int) << 5 | b).astype("<u2")
  rows = padded([row.tobytes() for row in words[::-1]])
  want = np.round(np.stack([r / 31, g / 63, b / 31], -1) * 255)
  masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
  check(bmp(5, 3, 16, rows, packed=3, masks=masks), want, 1)


def test_run_lengths_of_bmps():
  """Runs, literals, a jump over pixels of index 0, ends of lines."""
  colors = RNG(6).integers(0, 256, (256, 3))
  runs = [5, 7, 1, 9, 0, 0]  # The lowest row.
  runs += [0, 3, 10, 11, 12, 0, 3, 8, 0, 0]
  runs += [0, 2, 2, 0, 4, 6, 0, 0, 0, 1]
  want = [[0, 0, 6, 6, 6, 6], [10, 11, 12, 8, 8, 8], [7, 7, 7, 7, 7, 9]]
  data = bmp(6, 3, 8, bytes(runs), table(colors), packed=1)
  check(data, colors[np.array(want)])
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
  data = bmp(6, 2, 4, bytes(runs), table(colors[:16]), packed=2)
  check(data, colors[np.array(want)])


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


def drawn(colors, alpha, masked, depth):
  """A bitmap as icons have it: of twice the height, a mask behind it."""
  height, width, _ = colors.shape
  many = [colors[..., ::-1], alpha[..., None]][: depth // 8 - 2]
  body = padded([r.tobytes() for r in np.concatenate(many, -1)[::-1]])
  mask = padded(bits(masked.astype(int)[::-1], 1))
  made = dib(width, 2 * height, depth, body + mask)
  return width, height, depth, made


def test_of_an_icon_it_is_the_largest_and_of_equals_the_deepest():
  alpha, none = np.full((3, 5), 255, np.uint8), np.zeros((3, 5), bool)
  small = drawn(255 - COLORS[:2, :2], alpha[:2, :2], none[:2, :2], 32)
  index = np.zeros((3, 5), int)
  body = padded(bits(index, 1)) + padded(bits(index, 1))
  flat = 5, 3, 1, dib(5, 6, 1, body, table(FOUR[:2]))
  deep = drawn(COLORS, alpha, none, 32)
  for order in ([small, flat, deep], [deep, small, flat], [flat, deep, small]):
    check(icon(*order), COLORS)


def test_alpha_and_masks_of_icons_are_laid_on_white():
  masked = RNG(7).integers(0, 2, (3, 5)).astype(bool)
  cut = np.where(masked[..., None], 255, COLORS)
  alpha = RNG(8).integers(0, 256, (3, 5)).astype(np.uint8)
  part = alpha[..., None] / 255
  check(icon(drawn(COLORS, alpha, masked, 24)), cut)
  want = COLORS * part + 255 * (1 - part)
  check(icon(drawn(COLORS, alpha, masked, 32)), want, 1)
  # Icons older than alpha have none: the mask is what counts.
  check(icon(drawn(COLORS, 0 * alpha, masked, 32)), cut)
  # The directory needs not tell the bits.
  width, height, _, data = drawn(COLORS, alpha, masked, 32)
  check(icon((width, height, 0, data)), want, 1)


@pytest.mark.parametrize("used", [2, 0])
@pytest.mark.parametrize("depth", [1, 4, 8])
@pytest.mark.parametrize("kind", ["colored", "black and white", "gray"])
def test_palettes_of_icons(kind, depth, used):
  colors = palette(kind, used or 2**depth)
  index = RNG(5).integers(0, len(colors), (5, 11))
  masked = RNG(7).integers(0, 2, (5, 11))
  body = padded(bits(index[::-1], depth)) + padded(bits(masked[::-1], 1))
  made = dib(11, 10, depth, body, table(colors), used=used)
  want = np.where(masked[..., None], 255, colors[index])
  check(icon((11, 5, depth, made)), want)
  check(icon((11, 5, 0, made)), want)


def test_a_png_in_an_icon_is_what_it_is_alone():
  """Of its own size, which the directory may tell wrong, alpha and notes."""
  long = chunk(b"tEXt", b"k\0" + b"A" * 2**20) * 65
  key = chunk(b"tRNS", struct.pack(">HHH", *COLORS[0, 0].tolist()))
  rows = [row.tobytes() for row in COLORS]
  want = COLORS.copy()
  want[0, 0] = 255
  data = png(5, 3, 8, 2, rows, key + long)
  check(icon((5, 3, 32, data)), want)
  check(icon((0, 0, 32, data), (1, 1, 32, png(1, 1, 8, 0, [b"\0"]))), want)
