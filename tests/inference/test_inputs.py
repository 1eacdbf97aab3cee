"""What people pass from Python: the natural result, or one line."""

import io
import itertools
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import big_contrastive
from big_contrastive.config import errors

R = np.random.default_rng(0)
PIXELS = R.integers(0, 256, (20, 24, 3)).astype(np.uint8)
OTHER = R.integers(0, 256, (18, 16, 3)).astype(np.uint8)


def png(pixels=PIXELS):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "PNG")
  return file.getvalue()


class Tensor:
  """As torch's: an array, if it is asked for it."""

  def __init__(self, array, error=None):
    self.array, self.error = array, error

  def __array__(self, dtype=None, copy=None):
    if self.error:
      raise self.error
    return self.array


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("given") / "x.png"
  path.write_bytes(png())
  return path


@pytest.fixture(scope="module")
def expected(loaded):
  """Embeddings of PIXELS and OTHER."""
  return loaded.encode_image([PIXELS, OTHER])


ONE = {
  "a path's text": lambda file: str(file),
  "an array of one text": lambda file: np.array(str(file)),
  "a path": lambda file: file,
  "bytes": lambda file: png(),
  "a bytearray": lambda file: bytearray(png()),
  "a memoryview": lambda file: memoryview(png()),
  "a PIL image": lambda file: PIL.Image.fromarray(PIXELS),
  "an array": lambda file: PIXELS,
  "an array in another order": lambda file: np.asfortranarray(PIXELS),
  "JAX's array": lambda file: jnp.asarray(PIXELS),
  "a tensor": lambda file: Tensor(PIXELS),
  "transparent, but nowhere": lambda file: np.dstack(
    [PIXELS, np.full((20, 24), 255, np.uint8)]
  ),
}
SEVERAL = {
  "a list of different things": lambda: [PIXELS, png(OTHER)],
  "a tuple": lambda: (PIXELS, OTHER),
  "a generator": lambda: (x for x in (PIXELS, OTHER)),
  "a dict's values": lambda: {"a": PIXELS, "b": OTHER}.values(),
  "an array of objects": lambda: np.array([png(), png(OTHER)], object),
}


@pytest.mark.parametrize("form", ONE)
def test_one_picture_in_any_form_has_one_embedding(
  form, loaded, file, expected
):
  found = loaded.encode_image(ONE[form](file))
  np.testing.assert_allclose(found, expected[:1], atol=1e-6)


@pytest.mark.parametrize("form", SEVERAL)
def test_several_pictures_in_any_form_keep_their_order(form, loaded, expected):
  found = loaded.encode_image(SEVERAL[form]())
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_open_file_is_one_picture(loaded, file, expected):
  for opened in (file.open("rb"), io.BytesIO(png())):
    with opened:
      found = loaded.encode_image(opened)
    np.testing.assert_allclose(found, expected[:1], atol=1e-6)


@pytest.mark.parametrize("put", [np.asarray, jnp.asarray, Tensor])
def test_an_array_of_four_axes_is_a_batch(put, loaded, expected):
  batch = np.stack([PIXELS, PIXELS[::-1]])
  found = loaded.encode_image(put(batch))
  want = loaded.encode_image([PIXELS, PIXELS[::-1]])
  np.testing.assert_array_equal(found, want)
  np.testing.assert_allclose(found[:1], expected[:1], atol=1e-6)


def test_gray_is_the_same_in_three_channels(loaded):
  gray = PIXELS[:, :, 0]
  want = loaded.encode_image(np.dstack([gray] * 3))
  for form in (gray, gray[:, :, None], PIL.Image.fromarray(gray)):
    np.testing.assert_allclose(loaded.encode_image(form), want, atol=1e-6)


def test_nothing_has_no_embeddings(loaded):
  for nothing in ([], (), iter(()), np.zeros((0, 8, 8, 3), np.uint8)):
    z = loaded.encode_image(nothing)
    assert z.shape == (0, 24) and z.dtype == np.float32
  z = loaded.encode_text([])
  assert z.shape == (0, 24) and z.dtype == np.float32
  for images, texts in itertools.product(([], [PIXELS]), ([], ["a", "b"])):
    logits = loaded.logits(images, texts)
    assert logits.shape == (len(images), len(texts))
    assert logits.dtype == np.float32


NO_PICTURES = {
  "None": (None, "^images = 'NoneType"),
  "a number": (5, "^images = 'int: 5'"),
  "a dict": ({"a": PIXELS}, "^images = .dict"),
  "a set": ({b"x"}, "^images = .set"),
  "a number in a list": ([PIXELS, 5], r"^images\[1\] = 'int: 5'"),
  "None in a list": ([PIXELS, None], r"^images\[1\] = 'NoneType"),
  "lists in a list": ([[PIXELS]], r"^images\[0\] = .list"),
  "0 to 1": (PIXELS / 255, r"^images = 'float64 \[20, 24, 3\]'.*0\.\.255"),
  "a float": (PIXELS.astype(np.float32), "^images = 'float32"),
  "bfloat16": (jnp.asarray(PIXELS, jnp.bfloat16), "^images = 'bfloat16"),
  "16 bits": (PIXELS.astype(np.uint16), "^images = 'uint16"),
  "bits": (PIXELS > 3, "^images = 'bool"),
  "a batch of floats": (PIXELS[None] / 255, r"^images\[0\] = 'float64"),
  "channels first": (PIXELS.transpose(2, 0, 1), "Channels come last"),
  "two channels": (PIXELS[..., :2], "Channels come last"),
  "five axes": (PIXELS[None, None], "Channels come last"),
  "no pixels": (PIXELS[:0], "no pixels"),
  "no axes": (np.array(5), r"^images = 'int64 \[\]'"),
  "no file": ("nowhere.png", "^images = .*nowhere.png.*No such file"),
  "no file in a list": ([PIXELS, "no.png"], r"^images\[1\] = .*no.png"),
  "a text": ("a red circle", "^images = .*a red circle.*No such file"),
  "no path": ("a\0b", "^images = .*null byte"),
  "an empty path": ("", "^images = "),
  "a long path": ("x" * 5000, "^images = .*too long"),
  "no bytes": (b"", "^images .*0 bytes"),
  "other bytes": ([PIXELS, b"no picture"], r"^images\[1\] .*no known format"),
  "a torn file": (png()[:200], "^images .*unreadable"),
  "a file of text": (io.StringIO("x"), "^images = .str: "),
  "a tensor elsewhere": (
    Tensor(None, TypeError("can't convert cuda:0 device type tensor")),
    "^images = .*cuda:0",
  ),
}  # fmt: skip
NO_TEXTS = {
  "None": (None, "^texts = 'NoneType"),
  "a number": (5, "^texts = 'int: 5'"),
  "a dict": ({"a": 1}, "^texts = .dict"),
  "a set": ({"a"}, "^texts = .set"),
  "a number in a list": (["a", 5], r"^texts\[1\] = 'int: 5'"),
  "None in a list": (["a", None], r"^texts\[1\] = 'NoneType"),
  "NaN": ([float("nan")], r"^texts\[0\] = 'float: nan'"),
  "lists in a list": ([["a"]], r"^texts\[0\] = .list"),
  "a picture": (PIL.Image.fromarray(PIXELS), "^texts = "),
  "pixels": (PIXELS, r"^texts\[0\] = 'uint8 \[24, 3\]'"),
  "a picture's bytes": (png(), "^texts = .*not UTF-8"),
  "Latin-1": ([b"caf\xe9"], r"^texts\[0\] = .*not UTF-8"),
  "numbers": (np.ones(3), r"^texts\[0\] = 'float64 \[\]'"),
}  # fmt: skip


def one_line(e):
  return "\n" not in str(e) and len(str(e)) < 6000


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_is_named_in_one_line(name, loaded):
  given, said = NO_PICTURES[name]
  for encode in (loaded.encode_image, lambda x: loaded.logits(x, ["a"])):
    with pytest.raises(errors.UserError, match=said, check=one_line):
      encode(given)


@pytest.mark.parametrize("name", NO_TEXTS)
def test_what_is_no_text_is_named_in_one_line(name, loaded):
  given, said = NO_TEXTS[name]
  for encode in (loaded.encode_text, lambda x: loaded.logits([], x)):
    with pytest.raises(errors.UserError, match=said, check=one_line):
      encode(given)


def test_a_closed_file_and_a_folder_are_told(loaded, file):
  opened = file.open("rb")
  opened.close()
  image = PIL.Image.open(file)
  image.close()
  for given in (opened, image, file.parent):
    with pytest.raises(errors.UserError, match="^images = ", check=one_line):
      loaded.encode_image(given)


def test_texts_in_any_form_have_the_same_embeddings(loaded):
  want = loaded.encode_text(["a cat", "dogs"])
  for form in (
    ("a cat", "dogs"), iter(["a cat", "dogs"]), {"a cat": 1, "dogs": 2}.keys(),
    np.array(["a cat", "dogs"]), np.array(["a cat", "dogs"], object),
    [b"a cat", bytearray(b"dogs")], [np.str_("a cat"), np.bytes_(b"dogs")],
  ):  # fmt: skip
    np.testing.assert_array_equal(loaded.encode_text(form), want)
  for one in ("a cat", b"a cat", np.array("a cat"), ["a cat"]):
    found = loaded.encode_text(one)
    assert found.shape == (1, 24)
    np.testing.assert_allclose(found, want[:1], atol=1e-6)


def test_an_empty_text_and_half_a_surrogate_pair_are_texts(loaded):
  found = loaded.encode_text(["", "half \ud83d of it"])
  want = loaded.encode_text(["", "half ? of it"])
  np.testing.assert_array_equal(found, want)


NO_MODELS = {
  "None": (lambda path: (None, {}), "^path is missing"),
  "a number": (lambda path: (5, {}), "^path = 5"),
  "bytes": (lambda path: (str(path).encode(), {}), "^path = b'"),
  "a list": (lambda path: ([path], {}), "^path = "),
  "nothing": (lambda path: ("", {}), "^path = ''"),
  "nowhere": (lambda path: (path / "no", {}), "^path = .*no'"),
  "no path": (lambda path: ("a\0b", {}), "^path = "),
  "a long path": (lambda path: ("x" * 5000, {}), "^path = "),
  **{
    f"{name} = {value!r}": (
      lambda path, name=name, value=value: (path, {name: value}),
      f"^{name} (= |is missing)",
    )
    for name in ("batch_size", "threads")
    for value in (0, -1, "8", 2.5, None, True, 10**12)
  },
  "a tokenizer's name": (
    lambda path: (path, {"tokenizer": "bpe"}), "^tokenizer = 'bpe'"
  ),
  "no kind of tokenizer": (
    lambda path: (path, {"tokenizer": {}}), "^tokenizer.kind is missing"
  ),
  "a BPE of no captions": (
    lambda path: (path, {"tokenizer": {"kind": "bpe"}}),
    "tokenizer.path is missing",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_can_not_be_loaded_is_told_in_one_line(name, small):
  make, said = NO_MODELS[name]
  path, more = make(small)
  with pytest.raises(errors.UserError, match=said, check=one_line):
    big_contrastive.load(path, **more)


def test_files_of_another_kind_are_no_models(tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "x.bin").write_bytes(b"abc")
  (tmp_path / "x.npz").write_bytes(b"abc")
  np.savez(tmp_path / "y.npz", x=np.zeros(3))
  (tmp_path / "json").mkdir()
  (tmp_path / "json" / "config.json").write_text("[]")
  for path in list(tmp_path.iterdir()):
    with pytest.raises(errors.UserError, match=path.name, check=one_line):
      big_contrastive.load(path)


def test_a_tokenizer_in_place_of_the_models_own_is_told(small, caplog):
  tokenizer = {"kind": "checkpoint", "path": str(small)}
  big_contrastive.load(small, tokenizer=tokenizer)
  assert f"{small} has a tokenizer of its own" in caplog.text


def test_a_path_may_begin_with_the_home(small, loaded, monkeypatch):
  monkeypatch.setenv("HOME", str(small.parent))
  found = big_contrastive.load(f"~/{small.name}", batch_size=np.int64(8))
  np.testing.assert_allclose(
    found.encode_text("a"), loaded.encode_text("a"), atol=1e-6
  )


def test_nothing_is_printed_when_python_ends(small, tmp_path):
  """Not by a model, nor by an embedding that is given up half-way."""
  (tmp_path / "x.png").write_bytes(png())
  code = f"""
import big_contrastive, numpy as np
from big_contrastive.data.loader import evaluation
model = big_contrastive.load({str(small)!r}, batch_size=2)
pictures = [{str(tmp_path / "x.png")!r}] * 9
model.logits(pictures, ["a", "b"])
records = [{{"image": np.zeros((8, 8, 3), np.uint8), "id": 0}}] * 64
half = evaluation.evaluation(records, model.embedder.image, 4, np.arange(4), 2)
next(half)
"""
  command = [sys.executable, "-W", "error", "-c", code]
  ended = subprocess.run(command, capture_output=True, text=True)
  assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
