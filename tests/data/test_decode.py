"""Decoding as a whole: kinds of images, fast paths, what is refused and how."""

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.transforms import decode, operations
from making import NOISE, RNG, by_pil, encoded, outcome, smooth


def test_a_png_is_decoded_to_its_pixels():
  np.testing.assert_array_equal(operations.decode(encoded(NOISE)), NOISE)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_of_one_three_and_four_channels_become_rgb(shape):
  found = np.asarray(operations.decode(np.full(shape, 255, np.uint8)))
  assert found.shape == (5, 7, 3) and (found == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode):
  bands = [40, 80, 120] if mode == "RGBA" else [40]
  for alpha, part in ((0, 0.0), (255, 1.0), (51, 0.2)):
    picture = PIL.Image.new(mode, (3, 2), (*bands, alpha))
    found = np.asarray(operations.decode(encoded(picture)), float)
    want = part * np.array(bands) + (1 - part) * 255
    assert np.abs(found - want).max() <= 1


def test_alpha_of_an_array_is_laid_on_white_as_well():
  array = np.zeros((2, 2, 4), np.uint8)
  assert (np.asarray(operations.decode(array)) == 255).all()


def test_a_palette_is_looked_up_and_its_transparent_color_is_white():
  picture = PIL.Image.new("P", (2, 1))
  picture.putpalette([10, 20, 30, 200, 100, 50])
  picture.putpixel((1, 0), 1)
  plain = np.asarray(operations.decode(encoded(picture)))
  assert plain.tolist() == [[[10, 20, 30], [200, 100, 50]]]
  for form, transparency in (("PNG", 0), ("PNG", b"\0\xff"), ("GIF", 0)):
    data = encoded(picture, form, transparency=transparency)
    found = np.asarray(operations.decode(data))
    assert found.tolist() == [[[255] * 3, [200, 100, 50]]], form


def test_a_transparent_color_of_an_rgb_png_is_white():
  data = encoded(NOISE[:1, :2], transparency=tuple(NOISE[0, 0].tolist()))
  found = np.asarray(operations.decode(data))
  assert (found[0, 0] == 255).all() and (found[0, 1] == NOISE[0, 1]).all()


def test_sixteen_bits_are_scaled_to_eight():
  wide = np.array([[0, 257 * 7, 257 * 128, 65535]], np.uint16)
  for form in ("PNG", "TIFF"):
    found = np.asarray(operations.decode(encoded(wide, form)))
    assert found[0, :, 0].tolist() == [0, 7, 128, 255], form


def test_cmyk_becomes_rgb():
  picture = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  found = np.asarray(operations.decode(encoded(picture, "JPEG")), int)
  assert np.abs(found - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_black_and_white_become_rgb(mode):
  picture = PIL.Image.new(mode, (2, 2), 255)
  found = np.asarray(operations.decode(encoded(picture)))
  assert found.shape == (2, 2, 3) and (found == 255).all()


@pytest.mark.parametrize("spare", [None, lambda whole: 4])
def test_exif_orientation_is_applied(spare):
  upright = smooth(64, 32)
  for orientation, stored in (
    (1, upright),
    (2, upright.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)),
    (3, upright.transpose(PIL.Image.Transpose.ROTATE_180)),
    (6, upright.transpose(PIL.Image.Transpose.ROTATE_90)),
    (8, upright.transpose(PIL.Image.Transpose.ROTATE_270)),
  ):
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    data = encoded(stored, "JPEG", exif=exif.tobytes(), quality=95)
    found = operations.decode(data, spare)
    want = np.asarray(upright.resize(found.size, reducing_gap=None), int)
    assert found.height == 2 * found.width
    assert np.abs(np.asarray(found, int) - want).mean() < 6, orientation


def test_garbage_in_exif_does_not_cost_the_image():
  exif = PIL.Image.Exif()
  exif[0x112] = 6
  data = encoded(smooth(16, 32), "JPEG", exif=exif.tobytes())
  at = data.index(b"Exif\0\0") + 6
  data = data[:at] + b"\xff" * 8 + data[at + 8 :]
  assert operations.decode(data).size == (32, 16)


def test_bytes_that_are_no_image_are_a_value_error():
  png, jpeg = encoded(NOISE), encoded(NOISE, "JPEG")
  broken = [b"", b"<html>", png[:200], jpeg[:200], png[:8] + png[20:]]
  for data in broken:
    with pytest.raises(ValueError, match="no image"):
      operations.decode(data)
  for array in (np.zeros((4, 4, 3)), np.zeros((4, 4, 2, 3), np.uint8)):
    with pytest.raises(ValueError, match="no image"):
      operations.decode(array)


def test_flipped_bytes_give_an_image_or_a_value_error():
  rng = RNG(1)
  for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
    whole = np.frombuffer(encoded(NOISE, form), np.uint8)
    for _ in range(30):
      data = whole.copy()
      data[rng.integers(0, min(len(data), 300), 4)] ^= 0x55
      try:
        assert operations.decode(data.tobytes()).mode == "RGB"
      except ValueError as e:
        assert "no image" in str(e)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("kwargs", [{}, {"progressive": True}, {"quality": 30}])
def test_pixels_of_a_jpeg_are_those_of_pil(subsampling, kwargs, monkeypatch):
  wanted = {}
  for size in ((1, 1), (7, 5), (33, 100), (60, 40)):
    picture = smooth(*size)
    for made in (picture, picture.convert("L")):
      data = encoded(made, "JPEG", subsampling=subsampling, **kwargs)
      wanted[data] = by_pil(data)
  monkeypatch.setattr(decode, "decode", None)  # It is the fast decoder's work.
  for data, want in wanted.items():
    np.testing.assert_array_equal(decode.pixels(data), want)


def test_pixels_of_all_else_are_what_decode_gives():
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  cmyk = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  for data in (
    encoded(NOISE), encoded(cmyk, "JPEG"), NOISE, NOISE[..., :1], NOISE[..., 0],
    encoded(smooth(16, 32), "JPEG", exif=exif.tobytes()),
    encoded(NOISE, "JPEG", keep_rgb=True),
    encoded(NOISE, "JPEG", icc_profile=b"x" * 70000),
  ):  # fmt: skip
    np.testing.assert_array_equal(decode.pixels(data), operations.decode(data))


def test_orientation_is_found_behind_other_segments():
  upright = encoded(smooth(16, 32), "JPEG", comment=b"\xff\xda" * 9)
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  turned = encoded(smooth(16, 32), "JPEG", exif=exif.tobytes())
  at = turned.index(b"\xff\xe1")
  length = int.from_bytes(turned[at + 2 : at + 4], "big")
  segment = turned[at : at + 2 + length]
  tables = upright.index(b"\xff\xdb")
  data = upright[:tables] + segment + upright[tables:]
  assert decode.pixels(upright).shape == (16, 32, 3)
  assert decode.pixels(data).shape == (32, 16, 3)


def test_a_jpeg_that_pil_refuses_is_refused_for_the_same_reason():
  """Cut anywhere, and with a byte changed anywhere behind its tables."""
  refused = 0
  for kwargs in ({}, {"progressive": True}):
    data = encoded(smooth(40, 48), "JPEG", **kwargs)
    scan = data.index(b"\xff\xda")
    broken = [data[:n] for n in range(0, len(data), 7)]
    for i in range(scan, len(data), 5):
      broken.append(data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :])
    for case in broken:
      want = outcome(operations.decode, case)
      assert outcome(decode.pixels, case) == want
      refused += isinstance(want, tuple)
  assert refused > 100


def test_adobes_note_cut_short_is_for_pil_to_judge():
  data = encoded(smooth(40, 48), "JPEG")
  for note in (b"", b"Adobe", b"Adobe\0d", b"Adobe\0d\x80\0\0\0\0\1", b"other"):
    length = (2 + len(note)).to_bytes(2, "big")
    case = data[:2] + b"\xff\xee" + length + note + data[2:]
    assert outcome(decode.pixels, case) == outcome(operations.decode, case)


def test_what_is_wrong_is_said_alike_each_time():
  said = [outcome(operations.decode, b"neither\xff\xd8 nor") for _ in range(2)]
  assert said[0] == said[1] == ("image", "no image: of no known format")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
  monkeypatch.setattr(decode, "MAX_PIXELS", 60 * 40 - 1)
  with pytest.raises(decode.BadRecord, match="at most 2,399") as e:
    decode.pixels(encoded(NOISE, "JPEG"))
  assert e.value.kind == "bomb"
