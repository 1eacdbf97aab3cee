"""big_contrastive.load: one object, whatever the files are."""

import io
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from test_convert import WORDS, model

import big_contrastive
from big_contrastive.config import errors
from big_contrastive.interop import model_files


@pytest.fixture(scope="module")
def paths(tmp_path_factory, small):
  folder = tmp_path_factory.mktemp("models")
  model_files.write(model(), folder / "hugging_face", "hugging_face")
  model_files.write(model(), folder / "x.npz", "big_vision")
  return {
    "checkpoint": small,
    "hugging_face": folder / "hugging_face",
    "big_vision": folder / "x.npz",
  }


@pytest.fixture(scope="module")
def ours(loaded):
  return loaded


@pytest.fixture(scope="module")
def pictures():
  r = np.random.default_rng(0)
  return list(r.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8))


TEXTS = ["a red cat", "a dog on the grass"]


def test_logits_are_scaled_cosines_and_a_bias(ours, pictures):
  zimg, ztxt = ours.encode_image(pictures), ours.encode_text(TEXTS)
  assert zimg.shape == (3, 24) and ztxt.shape == (2, 24)
  for z in (zimg, ztxt):
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
  logits = ours.logits(pictures, TEXTS)
  np.testing.assert_allclose(logits, 4 * zimg @ ztxt.T - 3, atol=1e-5)


@pytest.mark.parametrize(
  "mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX", "La", "RGBa", "PA", "I;16"]
)
def test_a_picture_may_be_of_any_mode(mode, ours):
  picture = PIL.Image.new(mode, (20, 24))
  assert picture.mode == mode
  assert ours.encode_image(picture).shape == (1, 24)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_whose_white_is_unknown_is_refused(mode, ours):
  with pytest.raises(Exception, match="no known white"):
    ours.encode_image(PIL.Image.new(mode, (20, 24)))


def test_a_picture_is_the_same_in_every_form(ours, pictures, tmp_path):
  whole = ours.encode_image(pictures)
  image = PIL.Image.fromarray(pictures[0])
  file = io.BytesIO()
  image.save(file, "PNG")
  image.save(tmp_path / "x.png")
  path = tmp_path / "x.png"
  for form in (pictures[0], image, file.getvalue(), path, str(path), [image]):
    np.testing.assert_allclose(ours.encode_image(form), whole[:1], atol=1e-6)
  np.testing.assert_array_equal(
    ours.encode_text(TEXTS[0]), ours.encode_text(TEXTS[:1])
  )


@pytest.mark.parametrize("format", ["hugging_face", "big_vision"])
def test_other_formats_give_the_same(format, paths, ours, pictures):
  # Of the tower's size: an .npz does not say how to resize.
  pictures = [x[:16, :16] for x in pictures]
  words = {"kind": "checkpoint", "path": str(paths["checkpoint"])}
  given = {"tokenizer": words} if format == "big_vision" else {}
  found = big_contrastive.load(str(paths[format]), **given)
  expected = ours.logits(pictures, TEXTS)
  np.testing.assert_allclose(found.logits(pictures, TEXTS), expected, atol=1e-5)


def test_what_can_not_be_loaded_is_told(paths, ours, tmp_path):
  with pytest.raises(errors.UserError, match="path = .*nowhere"):
    big_contrastive.load(str(tmp_path / "nowhere"))
  with pytest.raises(errors.UserError, match="tokenizer is missing.*x.npz"):
    big_contrastive.load(str(paths["big_vision"])).encode_text("a cat")
  with pytest.raises(errors.UserError, match="images = 'float32 .3, 4.'"):
    ours.encode_image(np.zeros((3, 4), np.float32))


def test_asking_for_the_version_does_not_import_jax():
  code = "import big_contrastive, sys; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_tokenizer_has_the_length_of_the_tower(ours):
  assert model().text_sizes.length == WORDS.length
