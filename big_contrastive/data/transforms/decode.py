"""Decodes images to RGB; what can't be decoded is a BadRecord with a kind."""

import contextlib
import io
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import simplejpeg

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import containers, jpeg, levels

T = TypeVar("T")
Image = PIL.Image.Image
Spare = Callable[[tuple[int, int]], float]

# 8,192 x 8,192, 200 MB in RGB; counts decoded pixels, so a larger JPEG passes
# if it is decoded at a reduced size.
MAX_PIXELS = 2**26
_ORIENTATION = 0x0112  # A tag of EXIF and TIFF.
# Entries of PIL's `info` that may hold an orientation; parsing takes time.
_NOTES = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

PIL.Image.init()
# Without formats that run programs (EPS) or don't occur in data sets.
_WANTED = (
  "JPEG",
  "PNG",
  "WEBP",
  "GIF",
  "BMP",
  "TIFF",
  "PPM",
  "MPO",
  "JPEG2000",
  "AVIF",
  "ICO",
  "TGA",
  "DIB",
  "QOI",
)
_FORMATS = [name for name in _WANTED if name in PIL.Image.OPEN]


def _endings() -> tuple[str, ...]:
  common = "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"
  forms = PIL.Image.registered_extensions().items()
  # An MPO is opened as the JPEG that it begins with.
  known = {end[1:] for end, form in forms if form in (*_FORMATS, "MPO")}
  first = [end for end in common if end in known]
  return (*first, *sorted(known - set(first)))


# File endings that `decode` reads: lower case, without the dot, the most common
# first.
ENDINGS = _endings()


def decode(data: bytes | np.ndarray, spare: Spare | None = None) -> Image:
  """Returns an RGB image, upright, alpha composited on white.

  Takes the first frame of an animation, the largest picture of an icon, the
  first page of several, and the upper 8 of more bits. Color profiles and gamma
  are not applied. Floats, signed and 32-bit integers are bad records: their
  black and white levels are not defined.

  Args:
    data: an encoded image, or uint8 [h, w], [h, w, 1], [h, w, 3], [h, w, 4].
    spare: (width, height) of the image -> the factor by which its sides may
      shrink. A JPEG is then decoded at 1/2, 3/8, 1/4 or 1/8 of its size, which
      is faster and, unlike skipping pixels, does not alias. Called once.

  Raises:
    BadRecord: for data that are not an image, with the decoder's reason.
  """
  with _reasons():
    if isinstance(data, np.ndarray):
      image = PIL.Image.fromarray(_array(data))
      if spare:
        spare(image.size)
      return levels.rgb(image)
    return _mended(lambda data: levels.rgb(_load(data, spare)), data)


def pixels(data: bytes | np.ndarray) -> np.ndarray:
  """Returns decode's pixels, uint8 [h, w, 3]; faster for an ordinary JPEG.

  Args:
    data: see decode. uint8 [h, w, 3] is returned itself.

  Raises:
    BadRecord: see decode.
  """
  if isinstance(data, np.ndarray):
    if (data := _array(data)).shape[-1] == 3 and data.ndim == 3:
      return data
  elif isinstance(data, bytes) and data.startswith(b"\xff\xd8\xff"):
    # PIL decodes what may be rotated and all that the fast decoder refuses: it
    # decides what is bad, and why.
    with contextlib.suppress(ValueError):
      if 0 < jpeg.plain(data) <= MAX_PIXELS:
        return simplejpeg.decode_jpeg(data)
  return np.asarray(decode(data))


def of_pil(picture: Image) -> np.ndarray:
  """Returns decode's pixels of a PIL image, uint8 [h, w, 3].

  Args:
    picture: of any mode; it may have an orientation.

  Raises:
    BadRecord: see decode.
  """
  with _reasons():
    limited(*picture.size)
    levels.check(picture)
    levels.load(picture)
    image = levels.rgb(picture).copy()
    with contextlib.suppress(Exception):
      turn = picture.getexif().get(_ORIENTATION)
      image.info = {}
      image.getexif()[_ORIENTATION] = turn
      PIL.ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image)


def size(data: bytes | np.ndarray) -> tuple[int, int]:
  """Returns (width, height) as decode gives them, mostly from the header.

  Raises:
    BadRecord: see decode.
  """
  if isinstance(data, np.ndarray):
    return _array(data).shape[1::-1]
  with _reasons():
    return _mended(lambda data: _upright(_open(data), data), data)


def _array(data: np.ndarray) -> np.ndarray:
  """Returns uint8 [h, w], [h, w, 3] or [h, w, 4]."""
  good = data.dtype == np.uint8 and data.size > 0
  if not good or not (data.ndim == 2 or data.shape[2:] in ((1,), (3,), (4,))):
    allowed = "uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], not empty"
    message = f"no image: {data.dtype} {list(data.shape)}, not {allowed}"
    raise BadRecord("type", message)
  return data[..., 0] if data.shape[2:] == (1,) else data


def _mended(function: Callable[[bytes], T], data: bytes) -> T:
  """Returns function(data); for a PNG that PIL refuses, without its notes.

  PIL limits the memory that notes may take, and is strict with broken ones.
  """
  if not isinstance(data, bytes | bytearray | memoryview):
    raise BadRecord("type", f"no image: {type(data).__name__}, not bytes")
  if not (data := bytes(data)):
    raise BadRecord("missing", "no image: 0 bytes")
  data = containers.largest(data)
  try:
    return function(data)
  except Exception:
    if (less := containers.without_notes(data)) is None:
      raise
  return function(less)


def _open(data: bytes) -> levels.Opened:
  image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
  if image.format == "AVIF":
    image.info.pop("xmp", None)  # Only its own boxes define the orientation.
  levels.check(image)
  return image


def _upright(image: levels.Opened, data: bytes) -> tuple[int, int]:
  """Width and height of an image that isn't loaded, after rotation."""
  if image.format == "PNG" and containers.noted(data):
    return decode(data).size  # A note may follow the pixels.
  # For a TIFF with the tag, PIL reports the rotated size.
  turned = image.format == "TIFF" and _ORIENTATION in image.tag_v2
  if _NOTES & image.info.keys() and not turned:
    with contextlib.suppress(Exception):
      if image.getexif().get(_ORIENTATION) in (5, 6, 7, 8):
        return image.size[::-1]
  return image.size


def _load(data: bytes, spare: Spare | None) -> Image:
  image = _open(data)
  scalable = image.format in ("JPEG", "MPO")
  if spare and scalable:
    times = max(1.0, spare(_upright(image, data)))
    if 8 / 3 <= times < 4 and image.format == "JPEG" and jpeg.plain(data):
      with contextlib.suppress(ValueError):
        return _three_eighths(data, *image.size)
    image.draft("RGB", tuple(math.ceil(side / times) for side in image.size))
  limited(*image.size)
  levels.load(image)
  if _NOTES & image.info.keys():
    with contextlib.suppress(Exception):  # The image is good, only EXIF is not.
      PIL.ImageOps.exif_transpose(image, in_place=True)
  if spare and not scalable:
    spare(image.size)
  return image


def _three_eighths(data: bytes, width: int, height: int) -> Image:
  """Decodes at 3/8 of the size, which PIL can't, and so saves resizing.

  5/8 and 7/8 would take longer than the full size.
  """
  w, h = limited(*(math.ceil(3 * side / 8) for side in (width, height)))
  pixels = simplejpeg.decode_jpeg(data, min_height=h, min_width=w)
  return PIL.Image.fromarray(pixels)


def limited(width: int, height: int) -> tuple[int, int]:
  """Returns the size if it is small enough, else raises BadRecord."""
  message = f"no image: {width} x {height} pixels"
  if width * height > MAX_PIXELS:
    raise BadRecord("bomb", f"{message}, at most {MAX_PIXELS:,}")
  if not width * height:
    raise BadRecord("image", message)
  return width, height


@contextlib.contextmanager
def _reasons():
  """Turns whatever decoders raise on broken bytes into a BadRecord."""
  try:
    yield
  except BadRecord:
    raise
  except Exception as e:
    bombs = (
      PIL.Image.DecompressionBombError,
      PIL.Image.DecompressionBombWarning,
      MemoryError,
    )
    kind = "bomb" if isinstance(e, bombs) else "image"
    kind = "truncated" if "truncated" in str(e).lower() else kind
    message = f"{type(e).__name__}: {e}"
    if isinstance(e, PIL.UnidentifiedImageError):  # Holds a memory address.
      message = "of no known format"
    raise BadRecord(kind, f"no image: {message}") from e
