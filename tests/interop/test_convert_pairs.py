"""Every format to every format, with a tokenizer and without one."""

import logging
import re

import chex
import numpy as np
import pytest
import test_convert

import big_contrastive
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.data.source import Records
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.interop import formats, model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.open_clip import config as open_clip_config
from big_contrastive.offline import embedding, tasks

WORDS = test_convert.WORDS
TEXTS = ["a red cat", "a dog on the grass"]
PICTURES = list(
  np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
)


@pytest.fixture(autouse=True)
def mu(monkeypatch):
  """timm's SigLIP tower in our size mu: all others are far too large."""
  monkeypatch.setitem(open_clip_config.SIZES, "mu", "mu")
  monkeypatch.setitem(open_clip_config.EXACT, "mu", set())
  monkeypatch.setitem(open_clip_config.TANH, "mu", {(8, 32)})
  pattern = open_clip_config.TIMM.pattern.replace("(base|", "(mu|base|")
  monkeypatch.setattr(open_clip_config, "TIMM", re.compile(pattern))
  # It isn't timm's own: theirs are asked in the tests of each format.
  monkeypatch.setattr(convert.reference, "embed", lambda *args: None)


def siglip(kind):
  """A model that all formats hold, or its image tower alone."""
  sections = {
    "image": {"variant": "mu/8", "res": 32, "pool": "map"},
    "text": {
      "variant": "mu", "pool": "last", "out_dim": 32,
      "vocab_size": WORDS.vocab_size,
    },
    "scale": 4.0, "bias": -3.0,
  }  # fmt: skip
  # As all formats tell it, big_vision's by silence.
  ops = [["resize", {"size": [32, 32], "method": "bilinear"}]]
  whole = test_convert.filled(sections, ops)
  if kind == "one tower":
    sections = {"image": sections["image"]}
    return ModelBundle(sections, {"img": whole.params["img"]}, image=ops)
  if kind == "no tokenizer":
    return ModelBundle(sections, whole.params, image=ops)
  return whole


def place(folder, format):
  return folder / (f"{format}.npz" if format == "big_vision" else format)


@pytest.fixture(scope="module")
def expected():
  """What a model is to embed, by itself."""
  whole = siglip("whole")
  tokens = np.stack([WORDS(t) for t in TEXTS])
  return convert._embed(whole, np.stack(PICTURES), tokens)


def told(caplog):
  lines = [r.getMessage() for r in caplog.records]
  return [x for x in lines if "holds no" in x or "holds an" in x]


def own(folder):
  """config.tokenizer that is the model's."""
  (folder / "bpe.json").write_bytes(WORDS.blob)
  return {"kind": "bpe", "path": str(folder / "bpe.json"), "length": 9}


# Of two towers; files of these hold an image tower of another kind alone.
ALONE = {"torchvision", "timm", "mae", "vit_mae"}
FORMATS = [name for name in formats.names() if name not in ALONE]
PAIRS = [
  (source, target, kind)
  for source in FORMATS
  for target in FORMATS
  for kind in ("whole", "no tokenizer", "given")
  # One is given where there is none, and files of big_vision's have none.
  if (kind == "given") <= (source in ("big_vision", target))
  and (kind == "whole") <= (source != "big_vision")
]


@pytest.mark.parametrize(("source", "target", "kind"), PAIRS)
def test_every_pair_of_formats_is_converted(
  source, target, kind, tmp_path, caplog
):
  model = siglip("whole" if kind == "whole" else "no tokenizer")
  a, b = place(tmp_path, source), tmp_path / "out.npz"
  if target != "big_vision":
    b = tmp_path / "out"
  model_files.write(model, a, source)
  given = {"tokenizer": own(tmp_path)} if kind == "given" else {}
  with caplog.at_level(logging.WARNING):
    differences = convert.convert(str(a), str(b), target, **given)
  assert differences[f"{target}, read back: image"] < 1e-6
  assert differences[f"{target}, read back: text"] < 1e-6
  found = model_files.read(b)
  chex.assert_trees_all_equal(found.params, model.params)
  assert model_files.recognize(b) == target
  has = kind != "no tokenizer" and target != "big_vision"
  assert bool(found.tokenizer) == has
  lines = [x for x in told(caplog) if "no tokenizer" in x]
  assert len(lines) == (not has) and all(str(b) in x for x in lines)


@pytest.mark.parametrize("kind", ["whole", "no tokenizer"])
@pytest.mark.parametrize("format", FORMATS)
def test_images_are_embedded_with_a_tokenizer_or_without(
  format, kind, expected, tmp_path
):
  path = place(tmp_path, format)
  model_files.write(siglip(kind), path, format)
  loaded = big_contrastive.load(str(path))
  zimg = loaded.encode_image(PICTURES)
  np.testing.assert_allclose(zimg, expected["image"], atol=1e-5)
  if kind == "no tokenizer" or format == "big_vision":
    for ask in (
      lambda: loaded.encode_text(TEXTS),
      lambda: loaded.logits(PICTURES, TEXTS),
      lambda: big_contrastive.inference.model.load(str(path), texts=True),
    ):
      with pytest.raises(errors.UserError, match=r"tokenizer=\{...\}") as e:
        ask()
      assert str(path) in str(e.value) and "\n" not in str(e.value)
    loaded = big_contrastive.load(str(path), tokenizer=own(tmp_path))
  ztxt = loaded.encode_text(TEXTS)
  np.testing.assert_allclose(ztxt, expected["text"], atol=1e-5)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", ["big_vision", "checkpoint"])
def test_an_image_tower_alone_stays_one(
  source, target, expected, tmp_path, caplog
):
  alone = siglip("one tower")
  a = place(tmp_path, source)
  model_files.write(alone, a, source)
  b = tmp_path / ("b.npz" if target == "big_vision" else "b")
  if target in ("hugging_face", "open_clip"):
    with pytest.raises(errors.UserError, match="image tower alone") as e:
      convert.convert(str(a), str(b), target)
    assert "\n" not in str(e.value) and not b.exists()
    return
  with caplog.at_level(logging.WARNING):
    convert.convert(str(a), str(b), target)
  assert any("image tower alone" in x for x in told(caplog))
  found = rules.flatten(model_files.read(b).params)
  for name, value in rules.flatten(alone.params).items():
    np.testing.assert_array_equal(found.pop(name), value)
  assert not found
  loaded = big_contrastive.load(str(b))
  zimg = loaded.encode_image(PICTURES)
  np.testing.assert_allclose(zimg, expected["image"], atol=1e-5)
  for ask in (loaded.encode_text, lambda t: loaded.logits(PICTURES, t)):
    with pytest.raises(errors.UserError, match="it embeds images only"):
      ask(TEXTS)
  with pytest.raises(errors.UserError, match="it embeds images only"):
    given = {"kind": "bytes", "length": 9}
    convert.convert(str(a), str(tmp_path / "c"), tokenizer=given)


@pytest.mark.parametrize("kind", ["no tokenizer", "one tower"])
def test_embed_takes_images_alone(kind, expected, tmp_path, caplog):
  model_files.write(siglip(kind), tmp_path / "ours", "checkpoint")
  loaded = big_contrastive.load(str(tmp_path / "ours"))
  records = [{"image": x, "id": 0, "text": ["a cat"]} for x in PICTURES]
  work = embedding.Embedding(loaded, Records(records))
  table, bad = work(tasks.Task(0, 0, len(records), tmp_path))
  images = np.array(table["image"].to_pylist(), np.float32)
  np.testing.assert_allclose(images, expected["image"], atol=1e-5)
  assert not bad and not {"texts", "cosines"} & {*table.column_names}
  assert table["captions"].to_pylist() == [["a cat"]] * len(records)
  assert "embeds no texts: there is no column texts" in caplog.text


def test_a_tokenizer_that_the_text_tower_cannot_have_had_is_refused(tmp_path):
  model_files.write(siglip("no tokenizer"), tmp_path / "x.npz", "big_vision")
  captions = [f"{a}{b} {b}{a}{a}" for a in "abcdefg" for b in "hijklmn"] * 2
  large = build_tokenizer("bpe", 9, vocab_size=400, captions=captions)
  assert large.vocab_size > WORDS.vocab_size
  (tmp_path / "bpe.json").write_bytes(large.blob)
  many = {"kind": "bpe", "path": str(tmp_path / "bpe.json"), "length": 9}
  for target in ("checkpoint", "hugging_face"):
    with pytest.raises(errors.UserError, match="vocab_size"):
      convert.convert(
        str(tmp_path / "x.npz"), str(tmp_path / "to"), target, tokenizer=many
      )
  assert not (tmp_path / "to").exists()
