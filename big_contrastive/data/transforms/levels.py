"""Converts the samples of an image file to 8 bits of red, green and blue."""

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImagePalette

from big_contrastive.data.bad_records import BadRecord

Image = PIL.Image.Image
# Modes of PIL.
_DOUBTFUL = {"F": "floats", "I": "32-bit integers"}
Opened = Any  # PIL.ImageFile.ImageFile, and what the formats add to it.

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284
_COLORS, _EXTRA, _FORMAT = 320, 338, 339


def check(image: Opened) -> None:
  """Raises BadRecord if black and white levels are undefined."""
  kind = _DOUBTFUL.get(image.mode, "")
  if image.format == "TIFF":
    if image.mode in ("LA", "La", "PA") and image.tag_v2.get(_PLANES) == 2:
      raise BadRecord("image", "no image: gray and alpha in planes")
    if 2 in image.tag_v2.get(_FORMAT, ()):
      kind = "signed integers"
  elif image.format == "PPM" and image.mode == "I":
    kind = ""  # PIL scales white to 16 bits.
  if kind:
    known = "unsigned integers of 8 or 16 bits have"
    raise BadRecord("image", f"no image: {kind} have no known white; {known}")


def load(image: Opened) -> None:
  """Decodes an opened image, including cases that PIL gets wrong."""
  special = _SPECIAL.get(image.format)
  if special and image.tile and not image.tell():
    special(image)
  image.load()


def _file(image: Opened) -> bytes:
  at = image.fp.tell()
  image.fp.seek(0)
  data = image.fp.read()
  image.fp.seek(at)
  return data


def _png(image: Opened) -> None:
  """Converts the transparent color, which has the bits of file samples."""
  key, raw = image.info.get("transparency"), image.tile[0].args
  if image.mode == "L" and key is not None:
    most = 2 ** int(raw[2:] or 8) - 1
    image.info["transparency"] = (key & most) * 255 // most
  elif raw == "RGB;16B" and key is not None:
    # PIL keeps only the upper bytes; both are needed to compare colors.
    lower = type(image)(io.BytesIO(_file(image)))
    lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
    image.load()
    pixels = np.asarray(image, np.uint16) << 8 | np.asarray(lower)
    image.putalpha(_alpha((pixels != image.info.pop("transparency")).any(-1)))
  elif image.mode == "RGB" and key is not None:
    image.info["transparency"] = tuple(color & 255 for color in key)


def _tiff(image: Opened) -> None:
  """Uses libtiff where PIL's own reader would mistake the layout."""
  tags = image.tag_v2
  if tags.get(_PLANES) == 2 and len(tags.get(_BITS, (1,))) == 1:
    tags[_PLANES] = 1  # PIL takes the first letter of I;16 for the mode.
    image._setup()
  if not image.use_load_libtiff:
    if tags.get(_PHOTOMETRIC) == 6:  # YCbCr, usually with subsampled color.
      image._mode = "RGB"
      _by_libtiff(image, "RGBX")
    elif tags.get(_PLANES) == 2:
      alpha = image.mode == "RGBA" and tags.get(_EXTRA) == (1,)
      raw = "RGBa" if alpha else image.mode
      _by_libtiff(image, raw + (";16N" if _bits(image) == 16 else ""))
  if image.mode in ("P", "PA") and max(tags[_COLORS]) < 256:
    # A writer stored 8-bit colors in the 16-bit field; libtiff detects this.
    image.palette = PIL.ImagePalette.raw("RGB;L", bytes(tags[_COLORS]))


def _by_libtiff(image: Opened, raw: str) -> None:
  """Makes libtiff read an uncompressed TIFF."""
  image.tile = [
    image.tile[0]._replace(
      codec_name="libtiff",
      extents=(0, 0, *image._tile_size),
      offset=0,
      args=(raw, False, image.tag_v2.offset),
    )
  ]
  image.use_load_libtiff = True


def _gif(image: Opened) -> None:
  """Fills what the first frame doesn't cover with the background, if any."""
  box = image.tile[0].extents
  if box == (0, 0, *image.size) or "transparency" in image.info:
    return
  at, palette = image.info.get("background"), image.global_palette
  color = bytes([at] * 3) if at is not None else b""  # For a gray palette.
  if palette:
    color = bytes(palette.palette[3 * at : 3 * at + 3])
  image.load()
  frame = image.convert("RGB").crop(box)
  image._mode = "RGB"
  white = (255, 255, 255)
  image.im = PIL.Image.new("RGB", image.size, tuple(color) or white).im
  image.paste(frame, box)


def _bmp(image: Opened) -> None:
  """Restores a gray palette, for which PIL ignores the bits per index."""
  data = _file(image)
  data = data[14:] if image.format == "BMP" else data
  bits = data[10] if data[0] == 12 else data[14]
  if (image.mode, bits) in (("1", 4), ("1", 8), ("L", 1), ("L", 4)):
    step = 255 if image.mode == "1" else 1
    image.palette = PIL.ImagePalette.raw(
      "RGB", bytes(min(step * i, 255) for i in range(256) for _ in range(3))
    )
    image._mode, tile = "P", image.tile[0]
    raw = "P" if bits == 8 else f"P;{bits}"
    image.tile = [tile._replace(args=(raw, *tile.args[1:]))]


def _jpeg_2000(image: Opened) -> None:
  """Restores a palette, from which PIL drops repeated colors."""
  if image.mode not in ("P", "PA"):
    return
  data, mode = _file(image), image.palette.mode
  at = data.index(b"pclr") + 4
  many, columns = struct.unpack_from(">HB", data, at)
  start = at + 3 + columns
  if columns == len(mode):
    colors = data[start : start + many * columns]
    image.palette = PIL.ImagePalette.raw(mode, colors)


def _tga(image: Opened) -> None:
  """Ignores alpha that is 0 throughout, if the header gives it no bits."""
  alpha_bits = _file(image)[17] & 15
  image.load()
  if not alpha_bits and image.has_transparency_data:
    image.im = image.im.convert("RGBA")
    image._mode = "RGBA"
    if not image.getextrema()[3][1]:
      image.putalpha(255)


_SPECIAL = {
  "PNG": _png, "TIFF": _tiff, "TGA": _tga, "GIF": _gif, "BMP": _bmp,
  "DIB": _bmp, "JPEG2000": _jpeg_2000,
}  # fmt: skip


def _bits(image: Opened) -> int:
  """Bits per sample."""
  if image.format == "TIFF":
    return max(image.tag_v2.get(_BITS, (1,)))
  return 16


def rgb(image: Image) -> Image:
  """Returns a loaded image in RGB, alpha composited on white."""
  if image.mode == "RGB" and "transparency" not in image.info:
    return image
  if image.mode.startswith("I"):
    image = _eight(image)
  elif image.mode in ("La", "RGBa"):
    image = image.convert(image.mode.upper())
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  return image.convert("RGB")


def _eight(image: Opened) -> Image:
  """The upper 8 of more bits of gray, which PIL would clip."""
  pixels, bits = np.asarray(image), _bits(image)
  if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC, 0) == 0:
    pixels = 2**bits - 1 - pixels  # White is zero.
  gray = PIL.Image.fromarray((pixels >> (bits - 8)).astype(np.uint8))
  if (key := image.info.get("transparency")) is not None:
    gray.putalpha(_alpha(pixels != key))
  return gray


def _alpha(opaque: np.ndarray) -> Image:
  return PIL.Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))
