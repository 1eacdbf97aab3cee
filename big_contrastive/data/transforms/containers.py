"""Rewrites image files that PIL refuses or misreads."""

import re
import struct
import zlib

# Chunks of a PNG that PIL reads or checks, but the pixels don't need.
_NOTES = {
  b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"zTXt", b"iTXt",
  b"eXIf", b"acTL", b"fcTL", b"fdAT", b"tIME", b"bKGD", b"sBIT", b"sPLT",
  b"hIST", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi", b"oFFs", b"vpAg",
}  # fmt: skip
_XMP, _RAW = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
# The most bytes of a compressed note that are searched for an orientation.
_LONGEST = 2**24


def noted(png: bytes) -> bool:
  """Whether a PNG may contain an orientation."""
  return any(word in png for word in (b"eXIf", _XMP, _RAW))


def without_notes(png: bytes) -> bytes | None:
  """Returns a PNG with its pixels and its orientation, without other notes.

  None if it is not a PNG, or has no notes. Broken chunks of pixels stay.
  """
  if not png.startswith(b"\x89PNG\r\n\x1a\n"):
    return None
  chunks, at, kinds = [png[:8]], 8, [b""]
  while at + 12 <= len(png):
    length, kind = struct.unpack_from(">I4s", png, at)
    chunk = png[at : at + 12 + length]
    if kind in _NOTES:
      chunks.append(_orientation(kind, chunk[8:-4], chunk))
    elif kind == b"IDAT" and kinds[-1] in _NOTES and kind in kinds:
      return None  # A note between the pixels is probably broken pixels.
    else:
      chunks.append(chunk)
    kinds.append(kind)
    at += len(chunk)
  chunks.append(png[at:])
  return b"".join(chunks) if _NOTES & set(kinds) else None


def _orientation(kind: bytes, body: bytes, chunk: bytes) -> bytes:
  """The part of a chunk that holds an orientation, b"" for none."""
  if chunk != _chunk(kind, body):
    return b""
  if kind == b"iTXt" and body.startswith(_XMP):
    packed, text = body[len(_XMP)], body[len(_XMP) + 2 :].split(b"\0", 2)[-1]
    match = re.search(
      rb'tiff:Orientation(="|>)[0-9]', _unpacked(text) if packed else text
    )
    return _chunk(kind, _XMP + bytes(4) + match[0]) if match else b""
  if kind in (b"tEXt", b"zTXt") and body.startswith(_RAW):
    text = body[len(_RAW) :]
    text = _unpacked(text[1:]) if kind == b"zTXt" else text
    return _chunk(b"tEXt", _RAW + text) if len(text) < 2**20 else b""
  return chunk if kind == b"eXIf" else b""


def _unpacked(data: bytes) -> bytes:
  try:
    return zlib.decompressobj().decompress(data, _LONGEST)
  except zlib.error:
    return b""


def _chunk(kind: bytes, body: bytes) -> bytes:
  checked = zlib.crc32(kind + body)
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checked)


def largest(data: bytes) -> bytes:
  """Returns the largest picture of an icon; of equal ones, the deepest.

  The result is a PNG, or an icon with one picture. Other data are returned
  unchanged.
  """
  if not data.startswith(b"\0\0\1\0"):
    return data
  many = int.from_bytes(data[4:6], "little")
  entries = [data[at : at + 16] for at in range(6, 6 + 16 * many, 16)]
  entries = [entry for entry in entries if len(entry) == 16]
  if not entries:
    return data
  best = max(entries, key=_worth)
  length, start = struct.unpack_from("<II", best, 8)
  picture = data[start : start + length]
  if picture.startswith(b"\x89PNG"):
    return picture
  bits, picture = _plain_bitmap(picture)
  header = best[:6] + struct.pack("<HII", bits, len(picture), 22)
  return data[:4] + b"\1\0" + header + picture


def _worth(entry: bytes) -> tuple[int, int]:
  """Number of pixels of a picture in an icon, and bits per pixel."""
  width, height, colors = entry[:3]
  bits = int.from_bytes(entry[6:8], "little")
  bits = bits or (colors - 1).bit_length() if colors else bits or 256
  return (width or 256) * (height or 256), bits


def _plain_bitmap(dib: bytes) -> tuple[int, bytes]:
  """The bits per pixel for an icon's directory, and the bitmap, for PIL.

  With 32 bits PIL takes alpha from the fourth byte, otherwise from the mask. It
  trusts the directory, which may be wrong: in older icons all fourth bytes are
  0, and the mask is meant.
  """
  if len(dib) < 40:
    return 0, dib
  head, width, height, _, bits = struct.unpack_from("<IiiHH", dib)
  if bits <= 8:
    return bits, _padded_palette(dib, head, bits)
  area = width * (abs(height) // 2)
  mask = (width + 31) // 32 * 4 * (abs(height) // 2)
  alpha = bits == 32 and any(dib[head + 3 : head + 4 * area : 4])
  masked = len(dib) >= head + 4 * area + mask
  return (24 if bits == 32 and masked and not alpha else bits), dib


def _padded_palette(dib: bytes, head: int, bits: int) -> bytes:
  """The bitmap with a palette padded so that PIL doesn't take it for grays.

  For a gray palette PIL would read indices with the wrong number of bits.
  """
  used = int.from_bytes(dib[32:36], "little") or 2**bits
  more = (256 if bits == 8 else 2**bits + 1) - used
  if head < 40 or more <= 0:
    return dib
  colors, pixels = struct.pack("<I", used + more), head + 4 * used
  palette = dib[head:pixels] + b"\1\2\3\0" * more
  return dib[:32] + colors + dib[36:head] + palette + dib[pixels:]
