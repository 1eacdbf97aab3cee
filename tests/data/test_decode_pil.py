"""Images of PIL, of every mode, to the RGB they mean."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms import decode
from making import NOISE, bits, chunk, encoded, png, tiff

GREY = NOISE[..., 0]


def of(mode, pixels=NOISE):
  return PIL.Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
  "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_pixels_of_a_mode_are_those_of_a_file_of_it(mode):
  picture = of(mode)
  if mode in ("LA", "RGBA"):
    picture.putalpha(PIL.Image.fromarray(GREY))
  found = decode.of_pil(picture)
  assert found.dtype == np.uint8 and found.shape == (40, 60, 3)
  file = picture if mode not in ("CMYK", "YCbCr", "HSV") else of("RGB", found)
  want = decode.pixels(encoded(file))
  np.testing.assert_array_equal(found, want)
  if mode in ("RGB", "L"):
    want = NOISE if mode == "RGB" else np.asarray(picture)[..., None]
    assert (found == want).all()


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colors_multiplied_by_alpha_are_laid_on_white_once(mode):
  picture = of(mode.upper())
  picture.putalpha(PIL.Image.fromarray(GREY))
  want = decode.of_pil(picture).astype(int)
  assert np.abs(decode.of_pil(picture.convert(mode)) - want).max() <= 2


def test_sixteen_bits_of_any_byte_order_become_the_upper_eight():
  wide = np.array([[0, 255, 256, 30000, 65535]])
  little = PIL.Image.fromarray(wide.astype(np.uint16))
  big = PIL.Image.open(
    io.BytesIO(tiff(5, 1, [wide.astype(">u2").tobytes()], [16], 1, big=True))
  )
  assert (little.mode, big.mode) == ("I;16", "I;16B")
  text = "P2 5 1 65535 " + " ".join(str(n) for n in wide[0])
  gray = PIL.Image.open(io.BytesIO(text.encode()))
  assert gray.mode == "I"
  for picture in (little, big, gray):
    assert decode.of_pil(picture)[0, :, 0].tolist() == [0, 0, 1, 117, 255]


@pytest.mark.parametrize("turn", range(1, 9))
def test_it_is_turned_as_its_file_is_and_left_as_it_was(turn):
  exif = PIL.Image.Exif()
  exif[0x112] = turn
  for form in ("PNG", "TIFF", "WEBP", "JPEG"):
    data = encoded(NOISE, form, exif=exif)
    picture = PIL.Image.open(io.BytesIO(data))
    for _ in range(2):
      np.testing.assert_array_equal(decode.of_pil(picture), decode.pixels(data))
    if form != "TIFF":  # Which PIL turns itself.
      assert picture.size == (60, 40) and picture.getexif()[0x112] == turn


@pytest.mark.parametrize(
  "pixels, said",
  [
    (np.array([[0, 0.5, 1]], np.float32), "floats have no known white"),
    (np.array([[0, 1, 255]], np.int32), "32-bit integers have no known white"),
  ],
)
def test_what_has_no_known_white_is_bad(pixels, said):
  with pytest.raises(BadRecord, match=said):
    decode.of_pil(PIL.Image.fromarray(pixels))


def test_what_pil_alone_gets_wrong_is_right_of_an_open_file(tmp_path):
  wide = (np.arange(36).reshape(3, 4, 3) * 1800).astype("<u2")
  planes = [wide[..., i].tobytes() for i in range(3)]
  key = chunk(b"tRNS", struct.pack(">H", 2))
  color = chunk(b"tRNS", struct.pack(">HHH", *wide[0, 0].tolist()))
  rows = [row.astype(">u2").tobytes() for row in wide]
  for data, want in (
    (tiff(4, 3, planes, [16] * 3, 2, {284: (3, [2])}), wide[2, 3] >> 8),
    (png(4, 1, 2, 0, bits([[0, 1, 2, 2]], 2), key), [255] * 3),
    (png(4, 3, 16, 2, rows, color), wide[2, 3] >> 8),
    (png(4, 3, 16, 2, rows[::-1], color), wide[0, 3] >> 8),
  ):
    (tmp_path / "x").write_bytes(data)
    for source in (io.BytesIO(data), tmp_path / "x"):
      picture = PIL.Image.open(source)
      for _ in range(2):
        found = decode.of_pil(picture)
        np.testing.assert_array_equal(found, decode.pixels(data))
        assert found[-1, -1].tolist() == list(want)
