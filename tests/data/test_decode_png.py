"""PNGs made chunk by chunk: every depth and kind, with all sorts of notes."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import decode, operations
from making import bits, check, chunk, png

RNG = np.random.default_rng
COLORS = RNG(0).integers(0, 65536, (4, 8, 3))
GREY = RNG(1).integers(0, 256, (8, 8))
ROWS = [bytes(row.tolist()) for row in GREY]
XMP = b"XML:com.adobe.xmp\0"


def exif(turn):
  """Little-endian, of one entry: the orientation."""
  return b"II*\0\x08\0\0\0\x01\0" + struct.pack(
    "<HHIHHI", 274, 3, 1, turn, 0, 0
  )


def test_a_note_of_orientation_is_what_pil_writes():
  made = PIL.Image.Exif()
  made.load(exif(6))
  assert made[0x112] == 6


def adam7(samples):
  """The rows of the seven passes, one after another."""
  for y, x, down, right in (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
    (0, 1, 2, 2), (1, 0, 2, 1),
  ):  # fmt: skip
    part = samples[y::down, x::right]
    yield from part if part.size else ()


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_and_palettes_of_every_depth(depth, interlaced):
  samples = COLORS[..., 0] >> (16 - depth)
  rows = bits(adam7(samples) if interlaced else samples, depth)
  gray = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
  check(png(8, 4, depth, 0, rows, interlaced=interlaced), gray)
  if depth < 16:
    palette = RNG(2).integers(0, 256, (2**depth, 3))
    table = chunk(b"PLTE", bytes(palette.ravel().tolist()))
    data = png(8, 4, depth, 3, rows, table, interlaced=interlaced)
    check(data, palette[samples])
    alpha = RNG(3).integers(0, 256, 2**depth)
    table += chunk(b"tRNS", bytes(alpha.tolist()))
    part = (alpha / 255)[samples][..., None]
    want = palette[samples] * part + 255 * (1 - part)
    data = png(8, 4, depth, 3, rows, table, interlaced=interlaced)
    check(data, want, 1)


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [2, 4, 6])
def test_colors_and_alpha_of_eight_and_sixteen_bits(kind, depth, interlaced):
  many = {2: 3, 4: 2, 6: 4}[kind]
  samples = RNG(4).integers(0, 2**depth, (4, 8, many))
  rows = bits(adam7(samples) if interlaced else samples, depth)
  upper = samples >> (depth - 8)
  want = upper
  if kind != 2:
    part = upper[..., -1:] / 255
    want = upper[..., :-1] * part + 255 * (1 - part)
    want = want[..., 0] if kind == 4 else want
  check(png(8, 4, depth, kind, rows, interlaced=interlaced), want, kind != 2)


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_a_sample_as_stored(depth, interlaced):
  """And no other is transparent: of 16 bits, both bytes must be equal."""
  samples = COLORS[..., 0] >> (16 - depth)
  key = int(samples[1, 3])
  samples[0, 0] = key
  if depth == 16:
    samples[0, 1] = key ^ 1
  rows = bits(adam7(samples) if interlaced else samples, depth)
  note = chunk(b"tRNS", struct.pack(">H", key))
  gray = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
  want = np.where(samples == key, 255, gray)
  check(png(8, 4, depth, 0, rows, note, interlaced=interlaced), want)


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_color_is_a_pixel_as_stored(depth, interlaced):
  samples = COLORS >> (16 - depth)
  key = samples[1, 3].copy()
  samples[0, 0] = key
  samples[0, 1] = key ^ [0, 0, 1]
  rows = bits(adam7(samples) if interlaced else samples, depth)
  note = chunk(b"tRNS", struct.pack(">HHH", *key))
  clear = (samples == key).all(-1, keepdims=True)
  want = np.where(clear, 255, samples >> (depth - 8))
  for turn in (1, 6):
    notes = note + chunk(b"eXIf", exif(turn))
    data = png(8, 4, depth, 2, rows, notes, interlaced=interlaced)
    check(data, np.rot90(want, -1) if turn == 6 else want)


def test_gamma_and_color_space_are_not_applied():
  for note in (
    chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"sRGB", b"\0"),
    chunk(b"sBIT", b"\4"), chunk(b"bKGD", b"\0\7"),
    chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0)),
  ):  # fmt: skip
    check(png(8, 8, 8, 0, ROWS, note), GREY)


def still(*, first):
  """An animation of two frames; the picture of IDAT is the first, or is not."""
  frame = struct.pack(">IIIIHHBB", 8, 8, 0, 0, 1, 1, 0, 0)
  packed = zlib.compress(b"".join(b"\0" + b"\x09" * 8 for _ in range(8)))
  start = chunk(b"acTL", struct.pack(">II", 2, 0))
  frames, at = [b"", b""], 0
  if first:
    frames[0], at = chunk(b"fcTL", struct.pack(">I", 0) + frame), 1
  for _ in range(2 - first):
    frames[1] += chunk(b"fcTL", struct.pack(">I", at) + frame)
    frames[1] += chunk(b"fdAT", struct.pack(">I", at + 1) + packed)
    at += 2
  return png(8, 8, 8, 0, ROWS, start + frames[0], frames[1])


@pytest.mark.parametrize("first", [True, False])
def test_of_an_animation_it_is_what_other_decoders_show(first):
  check(still(first=first), GREY)


LONG = zlib.compress(b"A" * 2**21)
BROKEN = chunk(b"tEXt", b"k\0v")[:-1] + b"\0"
NOTES = {
  "zTXt": chunk(b"zTXt", b"k\0\0" + LONG),
  "iTXt": chunk(b"iTXt", XMP + b"\1\0\0\0" + LONG),
  "iCCP": chunk(b"iCCP", b"p\0\0" + LONG),
  "many": chunk(b"tEXt", b"k\0" + b"A" * 2**20) * 65,
  "many compressed": chunk(b"zTXt", b"k\0\0" + zlib.compress(b"A" * 2**20))
  * 65,
  "profile packed otherwise": chunk(b"iCCP", b"p\0\7..."),
  "empty profile": chunk(b"iCCP", b""),
  "short gamma": chunk(b"gAMA", b"\0"),
  "short size": chunk(b"pHYs", b"\0"),
  "wrong checksum": BROKEN,
  "animation cut short": chunk(b"acTL", b"\0"),
}


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("name", NOTES)
def test_what_pixels_do_not_need_costs_no_picture(name, where):
  check(png(8, 8, 8, 0, ROWS, **{where: NOTES[name]}), GREY)


def raw_profile(turn):
  """As ImageMagick writes it, in hexadecimal."""
  body = b"Exif\0\0" + exif(turn)
  text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
  return b"Raw profile type exif\0" + text


def orientations(turn):
  tag = f'<x tiff:Orientation="{turn}"/>'.encode()
  name, text = raw_profile(turn).split(b"\0", 1)
  return {
    "EXIF": chunk(b"eXIf", exif(turn)),
    "XMP": chunk(b"iTXt", XMP + bytes(4) + tag),
    "compressed XMP": chunk(
      b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(tag)
    ),
    "long XMP": chunk(
      b"iTXt", XMP + b"\1\0\0\0" + zlib.compress(b"A" * 2**21 + tag)
    ),
    "raw": chunk(b"tEXt", raw_profile(turn)),
    "compressed raw": chunk(b"zTXt", name + b"\0\0" + zlib.compress(text)),
  }  # fmt: skip


@pytest.mark.parametrize("name", orientations(1))
@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("other", ["", "zTXt", "wrong checksum"])
def test_a_turned_png_is_turned_whatever_else_it_notes(name, where, other):
  rows = bits(COLORS[..., 0] >> 8, 8)
  for turn, want in ((3, 2), (6, -1), (8, 1)):
    note = orientations(turn)[name] + NOTES.get(other, b"")
    data = png(8, 4, 8, 0, rows, **{where: note})
    check(data, np.rot90(COLORS[..., 0] >> 8, want))


def test_a_crop_of_a_png_with_long_notes_is_that_of_the_same_without():
  """The box is drawn once, though the file is read twice."""
  crop = ("random_resized_crop", {"size": 4, "area": (0.2, 0.3)})
  pipeline = operations.parse([crop], "ops")
  want = pipeline(png(8, 8, 8, 0, ROWS), RNG(5))
  for where in ("before", "behind"):
    data = png(8, 8, 8, 0, ROWS, **{where: NOTES["zTXt"]})
    np.testing.assert_array_equal(pipeline(data, RNG(5)), want)


def test_notes_take_bounded_memory():
  """An eighth of a megabyte that would be 128, wherever it is."""
  packer, zeros = zlib.compressobj(9), bytes(2**20)
  packed = b"".join([packer.compress(zeros) for _ in range(128)])
  bomb = chunk(b"iTXt", XMP + b"\1\0\0\0" + packed + packer.flush())
  tracemalloc.start()
  check(png(8, 8, 8, 0, ROWS, bomb), GREY)
  check(png(8, 8, 8, 0, ROWS, behind=bomb), GREY)
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert most < 2**26


def test_broken_pixels_are_no_picture_without_notes_either():
  """Cut anywhere, or with a wrong name of a chunk that pixels need."""
  data = png(8, 8, 8, 0, ROWS, NOTES["zTXt"])
  broken = [data[:n] for n in range(40, len(data) - 17, 97)]
  at = data.index(b"IDAT")
  for name in (b"iDAT", b"JDAT", b"\xc9DAT", b"tEXt"):
    broken.append(data[:at] + name + data[at + 4 :])
  short = chunk(b"tRNS", b"\0")  # It would say what is seen.
  broken.append(png(8, 8, 8, 0, ROWS, NOTES["zTXt"] + short))
  for case in broken:
    with pytest.raises(BadRecord, match="no image"):
      decode.decode(case)


def test_a_note_amid_the_pixels_is_more_likely_theirs():
  whole = png(8, 8, 8, 0, ROWS)
  start, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
  packed = whole[start + 8 : end - 4]
  parts = [chunk(b"IDAT", packed[i : i + 9]) for i in range(0, len(packed), 9)]
  check(whole[:start] + b"".join(parts) + whole[end:], GREY)
  parts[3] = parts[3].replace(b"IDAT", b"tEXt")
  with pytest.raises(BadRecord, match="no image"):
    decode.decode(whole[:start] + b"".join(parts) + whole[end:])


def test_a_bomb_of_pixels_is_refused_unread_with_notes_or_without():
  head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
  for size in (head, struct.pack(">II", 9000, 9000) + head[8:]):
    for note in (b"", NOTES["zTXt"], chunk(b"eXIf", exif(6)), NOTES["iTXt"]):
      data = png(8, 8, 8, 0, ROWS, note)
      data = data[:8] + chunk(b"IHDR", size) + data[33:]
      for function in (decode.decode, decode.pixels):
        with pytest.raises(BadRecord) as e:
          function(data)
        assert e.value.kind == "bomb"


def test_the_size_of_a_png_is_read_from_its_head(monkeypatch):
  """Where it notes no orientation, its pixels aren't decoded for its size."""
  file = io.BytesIO()
  PIL.Image.new("RGB", (30, 20)).save(file, "PNG")
  monkeypatch.setattr(PIL.Image.Image, "load", None)
  monkeypatch.setattr(decode.levels, "load", None)
  assert decode.size(file.getvalue()) == (30, 20)


def test_no_pixels_are_bad():
  for size in ((0, 8), (8, 0), (0, 0)):
    head = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    data = png(8, 8, 8, 0, ROWS)
    data = data[:8] + chunk(b"IHDR", head) + data[33:]
    for function in (decode.decode, decode.pixels):
      with pytest.raises(BadRecord, match="no image"):
        function(data)
