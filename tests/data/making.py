"""Pictures, and files made byte by byte, so that what is in them is known."""

import io
import struct
import zlib

import numpy as np
import PIL.Image

from big_contrastive.data.transforms import decode, operations

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
  return operations.parse(ops, "ops", train)(data, rng)


def gradient(height, width):
  """Red is the column, green the row: pixels say where they are from."""
  y, x = np.mgrid[:height, :width]
  return np.stack([x, y, 0 * x], -1).astype(np.uint8)


def smooth(height, width):
  small = PIL.Image.fromarray(NOISE[:6, :8])
  return small.resize((width, height), PIL.Image.Resampling.BICUBIC)


def by_pil(data):
  return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def outcome(function, data):
  """The pixels, or the kind and reason of what is bad."""
  try:
    return np.asarray(function(data)).tolist()
  except decode.BadRecord as e:
    return e.kind, str(e)


def check(data, want, off=0):
  """decode, pixels and size agree, with each other and with what is right.

  Args:
    data: an encoded image.
    want: [h, w] of gray, or [h, w, 3].
    off: levels that a pixel may be off.
  """
  found = np.asarray(decode.decode(data))
  np.testing.assert_array_equal(decode.pixels(data), found)
  assert decode.size(data) == found.shape[1::-1]
  want = np.asarray(want, float)
  want = np.repeat(want[..., None], 3, -1) if want.ndim == 2 else want
  assert found.shape == want.shape
  assert np.abs(found - want).max() <= off, (found, want)


def chunk(kind, body):
  """A chunk of a PNG."""
  checked = zlib.crc32(kind + body)
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checked)


def png(
  width, height, depth, color, rows, before=b"", behind=b"", interlaced=0
):
  """A PNG of packed rows, each without a filter.

  Args:
    width, height: in pixels.
    depth: bits of a sample.
    color: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA.
    rows: bytes of each row.
    before, behind: chunks before and behind the pixels.
    interlaced: 1 where the rows are those of Adam7.
  """
  head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
  packed = zlib.compress(b"".join(b"\0" + row for row in rows))
  return (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before
    + chunk(b"IDAT", packed) + behind + chunk(b"IEND", b"")
  )  # fmt: skip


def bits(samples, depth):
  """Rows of samples packed into bytes, the first at the highest bits."""
  if depth == 16:
    return [np.asarray(row, ">u2").tobytes() for row in samples]
  rows = []
  for row in samples:
    text = "".join(f"{int(n):0{depth}b}" for n in np.ravel(row))
    text += "0" * (-len(text) % 8)
    rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
  return rows


_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 7: "B"}  # Types of TIFF tags.


def tiff(
  width, height, strips, depths, kind, tags=(), big=False, drop=(), packed=False
):
  """A TIFF of one page.

  Args:
    width, height: in pixels.
    strips: bytes of each strip.
    depths: bits of each sample of a pixel.
    kind: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr,
      8 CIELAB.
    tags: {number: (type, values)} more than those.
    big: whether the upper byte is first.
    drop: numbers of tags that are left out.
    packed: whether the strips are compressed, by deflate.
  """
  order = ">" if big else "<"
  strips = [zlib.compress(s) if packed else s for s in strips]
  starts = np.cumsum([8] + [len(s) + len(s) % 2 for s in strips])
  tags = {
    256: (4, [width]), 257: (4, [height]), 258: (3, depths),
    259: (3, [8 if packed else 1]),
    262: (3, [kind]), 273: (4, starts[:-1].tolist()), 277: (3, [len(depths)]),
    278: (4, [height]), 279: (4, [len(s) for s in strips]),
  } | dict(tags)  # fmt: skip
  tags = {k: v for k, v in tags.items() if k not in drop}
  body = b"".join(s + bytes(len(s) % 2) for s in strips)
  at = int(starts[-1]) + 6 + 12 * len(tags)  # Of values longer than 4 bytes.
  entries, values = struct.pack(order + "H", len(tags)), b""
  for number, (type_, given) in sorted(tags.items()):
    value = struct.pack(f"{order}{len(given)}{_CODES[type_]}", *given)
    if len(value) > 4:
      value, values = (
        struct.pack(order + "I", at + len(values)),
        values + value + bytes(len(value) % 2),
      )
    entries += struct.pack(order + "HHI", number, type_, len(given))
    entries += value.ljust(4, b"\0")
  head = (b"MM\0*" if big else b"II*\0") + struct.pack(
    order + "I", int(starts[-1])
  )
  return head + body + entries + bytes(4) + values
