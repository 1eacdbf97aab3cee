"""JPEG, JPEG 2000, WebP, AVIF and arrays, to the RGB they mean."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import decode, operations
from making import check

RNG = np.random.default_rng
# Blocks of 16 x 16 pixels, which lossy formats keep.
SMALL = RNG(0).integers(0, 256, (2, 3, 3), np.uint8)
BLOCKS = np.kron(SMALL, np.ones((16, 16, 1), np.uint8))


def encoded(picture, form, **kwargs):
  if isinstance(picture, np.ndarray):
    picture = PIL.Image.fromarray(picture)
  file = io.BytesIO()
  picture.save(file, form, **kwargs)
  return file.getvalue()


def exif(turn, tag=0x112):
  made = PIL.Image.Exif()
  made[tag] = turn
  return made


def xmp(turn):
  return f'<x tiff:Orientation="{turn}"/>'.encode()


FULL = {
  "JPEG": {"quality": 100, "subsampling": 0},
  "MPO": {"quality": 100, "subsampling": 0},
  "AVIF": {"quality": 100, "subsampling": "4:4:4"},
  "WEBP": {"lossless": True},
}  # fmt: skip
TURNED = {
  2: BLOCKS[:, ::-1], 3: BLOCKS[::-1, ::-1], 4: BLOCKS[::-1],
  5: BLOCKS.swapaxes(0, 1), 6: np.rot90(BLOCKS, -1),
  7: BLOCKS[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(BLOCKS),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("form", FULL)
def test_pictures_are_turned_once(form, turn):
  kwargs = FULL[form]
  check(encoded(BLOCKS, form, exif=exif(turn), **kwargs), TURNED[turn], 4)
  if form != "MPO":
    data = encoded(BLOCKS, form, xmp=xmp(turn), **kwargs)
    # What AVIF notes is for the file's own turn to say.
    check(data, BLOCKS if form == "AVIF" else TURNED[turn], 4)


def test_an_orientation_in_the_exif_of_an_avif_says_nothing():
  """Its own properties do; a tag beside the orientation's is made into it."""
  note = exif(6, 0x113).tobytes()
  data = encoded(BLOCKS, "AVIF", exif=note, **FULL["AVIF"])
  order = "<" if note[6:8] == b"II" else ">"
  tag = [struct.pack(order + "HH", n, 3) for n in (0x113, 0x112)]
  assert data.count(tag[0]) == 1
  check(data.replace(*tag), BLOCKS, 4)


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(turn):
  for form in ("JPEG", "PNG", "WEBP", "TIFF"):
    data = encoded(BLOCKS, form, exif=exif(turn), **FULL.get(form, {}))
    check(data, BLOCKS, 4)


def test_grey_and_ink_of_jpegs():
  gray = BLOCKS[..., 0]
  ink = PIL.Image.merge("CMYK", [PIL.Image.fromarray(gray)] * 4)
  check(encoded(gray, "JPEG", quality=100), gray, 2)
  data = encoded(ink, "JPEG", quality=100)
  paper = (255 - gray.astype(float)) ** 2 / 255
  check(data, paper, 3)
  # As brightness and two differences of color, as Photoshop stores it.
  at = data.index(b"Adobe") + 11
  assert data[at] == 0
  y = 255 - gray.astype(float)
  factors = np.array([1.402, -0.344136 - 0.714136, 1.772])
  ink = (y[..., None] + factors * (y[..., None] - 128)).clip(0, 255)
  want = (255 - ink) * y[..., None] / 255
  check(data[:at] + b"\2" + data[at + 1 :], want, 4)


def test_jpegs_of_twelve_bits_are_refused():
  data = bytearray(encoded(BLOCKS, "JPEG"))
  data[data.index(b"\xff\xc0") + 4] = 12
  for function in (decode.decode, decode.pixels):
    with pytest.raises(BadRecord, match="no image"):
      function(bytes(data))


def test_alpha_of_a_webp_is_laid_on_white():
  four = RNG(1).integers(0, 256, (8, 8, 4), np.uint8)
  part = four[..., 3:] / 255
  want = four[..., :3] * part + 255 * (1 - part)
  check(encoded(four, "WEBP", lossless=True, exact=True), want, 1)
  check(encoded(four, "JPEG2000"), want, 1)
  flat = np.concatenate([BLOCKS, BLOCKS[..., :1]], -1)
  part = flat[..., 3:] / 255
  want = flat[..., :3] * part + 255 * (1 - part)
  check(encoded(flat, "AVIF", **FULL["AVIF"]), want, 5)


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_of_an_animation_it_is_the_first_frame(form):
  more = {"save_all": True, "append_images": [PIL.Image.new("RGB", (48, 32))]}
  check(encoded(BLOCKS, form, **FULL[form], **more), BLOCKS, 4)


def test_sixteen_bits_of_jpeg_2000_become_the_upper_eight():
  gray = RNG(2).integers(0, 65536, (8, 9)).astype(np.uint16)
  check(encoded(gray, "JPEG2000"), gray >> 8)
  check(encoded(gray, "JPEG2000", no_jp2=True), gray >> 8)
  check(encoded((gray >> 8).astype(np.uint8), "JPEG2000"), gray >> 8)


def test_a_palette_of_jpeg_2000_may_have_a_color_twice():
  """Two boxes more in the head: the colors, and that they are looked up."""
  palette = [[10, 20, 30], [10, 20, 30], [200, 100, 50], [0, 255, 0]]
  index = RNG(2).integers(0, 4, (8, 9))
  data = encoded(index.astype(np.uint8), "JPEG2000")
  at = data.index(b"jp2h") - 4
  length = int.from_bytes(data[at : at + 4], "big")
  head = data[at + 8 : at + length]
  gray, color = (b"colr\1\0\0" + struct.pack(">I", n) for n in (17, 16))
  assert head.count(gray) == 1

  def box(kind, body):
    return struct.pack(">I", 8 + len(body)) + kind + body

  table = struct.pack(">HB", 4, 3) + bytes([7] * 3 + sum(palette, []))
  columns = b"".join(struct.pack(">HBB", 0, 1, i) for i in range(3))
  head = head.replace(gray, color) + box(b"pclr", table) + box(b"cmap", columns)
  made = data[:at] + box(b"jp2h", head) + data[at + length :]
  check(made, np.array(palette)[index])


SHAPES = ((5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_are_what_they_look_like(shape):
  array = RNG(3).integers(0, 256, shape, np.uint8)
  want = array[..., 0] if shape[2:] == (1,) else array
  if shape[2:] == (4,):
    part = array[..., 3:] / 255
    want = array[..., :3] * part + 255 * (1 - part)
  check(array, want, 1)
  check(array[::-1, ::-1], want[::-1, ::-1], 1)


@pytest.mark.parametrize(
  "array",
  [
    *(np.ones(shape, kind) for shape in SHAPES
      for kind in (bool, np.int8, np.uint16, np.int32, np.float32, object)),
    *(np.ones(shape, np.uint8) for shape in (
      (), (7,), (3, 5, 7), (5, 7, 2), (5, 7, 5), (1, 5, 7, 3), (0, 0),
      (0, 7, 3), (5, 0, 3), (5, 7, 0))),
  ],
)  # fmt: skip
def test_other_arrays_are_bad_not_wrong_pictures(array):
  pipeline = operations.parse([("random_resized_crop", {"size": 4})], "ops")
  functions = (
    decode.decode, decode.pixels, decode.size,
    lambda data: pipeline(data, RNG(0)),
  )  # fmt: skip
  for function in functions:
    with pytest.raises(BadRecord, match="no image.*uint8.*h, w, 3") as e:
      function(array)
    assert e.value.kind == "type"


def test_what_is_neither_bytes_nor_an_array_is_bad():
  for data in (None, "a.jpg", 3, [b"x"]):
    for function in (decode.decode, decode.pixels, decode.size):
      with pytest.raises(BadRecord, match="no image") as e:
        function(data)
      assert e.value.kind == "type"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_read_alike(kind):
  for form in ("JPEG", "PNG", "TIFF", "WEBP"):
    data = encoded(BLOCKS, form)
    check(kind(data), decode.decode(data))
    found = decode.decode(kind(data), lambda size: 3)
    assert found.size == decode.decode(data, lambda size: 3).size


@pytest.mark.parametrize(
  "form", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF"]
)
def test_more_pixels_than_are_allowed_are_a_bomb(form, monkeypatch):
  data = encoded(BLOCKS, form)
  monkeypatch.setattr(decode, "MAX_PIXELS", 48 * 32 - 1)
  for function in (decode.decode, decode.pixels):
    with pytest.raises(BadRecord, match="48 x 32 pixels") as e:
      function(data)
    assert e.value.kind == "bomb"


def test_endings_are_of_formats_that_are_read():
  forms = PIL.Image.registered_extensions()
  assert decode.ENDINGS[:4] == ("jpg", "jpeg", "png", "webp")
  assert len(set(decode.ENDINGS)) == len(decode.ENDINGS)
  for ending in ("tif", "tiff", "ppm", "avif", "jfif", "bmp", "gif", "jp2"):
    assert ending in decode.ENDINGS
  for ending in decode.ENDINGS:
    assert forms[f".{ending}"] in (*decode._FORMATS, "MPO")
  assert not {"eps", "ps", "pdf", "txt", "json"} & set(decode.ENDINGS)
