"""Models with a decoder of captions: read, written, loaded; and refused."""

import dataclasses
import logging
import types

import numpy as np
import pytest
import test_convert

import big_contrastive
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.factory import warm_start
from big_contrastive.inference import model as inference
from big_contrastive.interop import formats, model_files, resample
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models.build import build_model

SIZE = {"width": 24, "mlp": 96, "heads": 2, "depth": 2}
PLAIN = test_convert.WORDS
BOTH = build_tokenizer(
  "bpe", 9, blob=PLAIN.blob, bos=True, eos=True
)  # Captions that begin with BOS.
IMAGE = {"variant": "mu/8", "res": 16, "pool": "map", **SIZE}
OPS = [["resize", {"size": 16}]]
COCA = {
  "image": IMAGE | {
    "pool": "queries", "queries": 3, "pool_heads": 2, "cls_pos": True,
    "pre_norm": True, "patch_bias": False, "out_dim": 24, "eps": 1e-5,
    "activation": "gelu",
  },
  "text": {
    "variant": "mu", "pool": "cls", "causal": True, "pad_id": BOTH.pad_id,
    "shifted_mask": True, "out_dim": 24, "out_bias": False, "eps": 1e-5,
    "activation": "gelu", **SIZE,
  },
  "decoder": {
    "variant": "mu", "inputs": "text", "cross": "block", "logit_bias": False,
    "eps": 1e-5, "activation": "gelu", "depth": 3, "mlp": 96, "heads": 3,
  },
  "scale": 4.0,
}  # fmt: skip
DECODERS = {
  "CapPa": {"parallel": True, "bias": False},
  "as a prefix": {"cross": "prefix", "positions": False},
  "more rows": {"vocab_size": PLAIN.vocab_size + 3},
}


def filled(sections, words):
  """A model of these sections, far from its initial values."""
  shapes = rules.shapes(build_model(sections, words).shapes)
  r = np.random.default_rng(0)
  flat = {k: np.float32(r.normal(size=s) * 0.4) for k, s in shapes.items()}
  if "t" in flat:
    flat["t"] = np.float32(np.log(4.0))
  params = rules.unflatten(flat)
  return ModelBundle(sections, params, words.spec, words.blob, OPS)


def coca(**decoder):
  section = COCA["decoder"] | decoder
  return filled(COCA | {"decoder": section}, BOTH)


def captioner(words=PLAIN, **decoder):
  """A decoder alone, without a text tower."""
  section = {"variant": "mu", **SIZE, "depth": 1} | decoder
  return filled({"image": IMAGE, "decoder": section}, words)


MODELS = {
  "CoCa": coca,
  "CoCa, more rows": lambda: coca(vocab_size=BOTH.vocab_size + 3),
  "begins with BOS": lambda: captioner(BOTH),
  **{k: lambda v=v: captioner(**v) for k, v in DECODERS.items()},
}


def assert_fits(model):
  """Whether the structure has these parameters."""
  shapes = rules.shapes(model.params)
  for words in (model.make_tokenizer() if model.tokenizer else None, None):
    assert rules.shapes(model.build(words).variables) == shapes


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_holds_it(name, tmp_path):
  model = MODELS[name]()
  assert_fits(model)
  model_files.write(model, tmp_path / "a", "checkpoint")
  found = model_files.read(tmp_path / "a")
  test_convert.assert_same(found, model)
  assert_fits(found)
  words = model.make_tokenizer()
  assert words.spec == found.make_tokenizer().spec == model.tokenizer
  sizes = found.text_sizes
  assert (sizes.length, sizes.bos_id) == (words.length, words.bos_id)
  rows = model.params["dec"]["logits"]["kernel"].shape[-1]
  assert found.model["decoder"]["vocab_size"] == rows >= words.vocab_size
  assert sizes.pad_id == words.pad_id
  assert sizes.eos_id == words.eos_id


def test_without_a_tokenizer_its_weights_tell_the_sizes():
  for model in (coca(), captioner(**DECODERS["CapPa"])):
    bare = dataclasses.replace(model, tokenizer={}, blob=b"")
    assert_fits(bare)
    assert bare.text_sizes.length == 9 and bare.text_sizes.bos_id is None


def test_a_decoder_alone_embeds_images_and_no_texts(tmp_path):
  model_files.write(captioner(), tmp_path / "a", "checkpoint")
  loaded = big_contrastive.load(str(tmp_path / "a"))
  zimg = loaded.encode_image(np.zeros((2, 16, 16, 3), np.uint8))
  assert zimg.shape == (2, 24)
  with pytest.raises(errors.UserError, match="text tower"):
    inference.load(str(tmp_path / "a"), texts=True)


@pytest.mark.parametrize("name", ["CapPa", "CoCa"])
def test_convert_compares_captions(name, tmp_path, caplog):
  model_files.write(MODELS[name](), tmp_path / "a", "checkpoint")
  with caplog.at_level(logging.WARNING):
    told = convert.convert(
      str(tmp_path / "a"), str(tmp_path / "b"), "checkpoint"
    )
  assert told["checkpoint, read back: captions"] == 0
  assert ("checkpoint, read back: text" in told) == (name == "CoCa")
  assert "image tower alone" not in caplog.text
  test_convert.assert_same(
    model_files.read(tmp_path / "b"), model_files.read(tmp_path / "a")
  )


def test_openclip_holds_cocas_bit_for_bit(tmp_path):
  model = coca()
  model_files.write(model, tmp_path / "a", "open_clip")
  found = model_files.read(tmp_path / "a")
  test_convert.assert_same(found, model)
  assert_fits(found)
  assert found.text_sizes.length == 9 and found.text_sizes.bos_id is not None
  texts = ["a red cat", "two dogs on the grass, and a cat"]
  rows = [m.make_tokenizer().rows(texts) for m in (found, model)]
  np.testing.assert_array_equal(*rows)
  for field in ("inputs", "cross", "activation"):
    assert found.model["decoder"][field] == COCA["decoder"][field]


@pytest.mark.parametrize("format", formats.names())
@pytest.mark.parametrize("name", ["CapPa", "CoCa"])
def test_a_format_without_decoders_refuses_it(name, format, tmp_path):
  if format == "checkpoint" or (name, format) == ("CoCa", "open_clip"):
    return
  path = tmp_path / f"a{formats.module(format).SUFFIX}"
  with pytest.raises(errors.UserError, match="decoder") as e:
    model_files.write(MODELS[name](), path, format)
  assert "\n" not in str(e.value) and not path.exists()


REFUSED = {
  "cross": "attention", "bias": False, "logit_bias": True, "eps": 1e-6,
  "activation": "gelu_tanh", "mlp": 48, "vocab_size": BOTH.vocab_size + 3,
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_a_decoder_that_is_not_openclips_is_refused(field, tmp_path):
  model = coca(**{field: REFUSED[field]})
  with pytest.raises(errors.UserError, match=f"decoder.{field}") as e:
    model_files.write(model, tmp_path / "a", "open_clip")
  assert "\n" not in str(e.value) and not (tmp_path / "a").exists()


def test_a_decoder_that_sees_a_class_token_is_refused(tmp_path):
  """OpenCLIP leaves that out of what a decoder sees."""
  image = COCA["image"] | {"pool": "tok"}
  model = filled(COCA | {"image": image}, BOTH)
  with pytest.raises(errors.UserError, match=r"image\.pool = 'tok'"):
    model_files.write(model, tmp_path / "a", "open_clip")


def test_a_whole_model_may_begin_without_its_decoder(caplog):
  model = coca()
  abstract = {k: v for k, v in model.params.items() if k != "dec"}
  changed = warm_start.model_with(model, "P", {"decoder": None})
  assert changed["decoder"] is None and changed["text"] == COCA["text"]
  with caplog.at_level(logging.WARNING):
    warm_start.loader(model, abstract, changed)
  assert "its decoder is left out" in caplog.text
  changed = warm_start.model_with(model, "P", {"decoder": {"dropout": 0.1}})
  assert changed["decoder"] == COCA["decoder"] | {"dropout": 0.1}


def test_one_part_may_be_the_decoder(tmp_path, caplog):
  model_files.write(coca(), tmp_path / "a", "checkpoint")
  abstract = coca().params
  changed = COCA | {"decoder": COCA["decoder"] | {"activation": "gelu_tanh"}}
  with caplog.at_level(logging.WARNING):
    warm_start.loader({"dec": str(tmp_path / "a")}, abstract, changed)
  assert "config.model.decoder.activation is 'gelu_tanh'" in caplog.text


def test_the_learned_tokens_position_stays_the_last_when_texts_are_cut():
  model = coca()
  shorter = types.SimpleNamespace(
    length=6, vocab_size=BOTH.vocab_size, pad_id=BOTH.pad_id, bos_id=None,
    eos_id=BOTH.eos_id,
  )  # fmt: skip
  expected = build_model(COCA, shorter).shapes
  found = resample.fit(model.params, expected, "P")()
  whole = model.params["txt"]["pos"]
  np.testing.assert_array_equal(
    found["txt"]["pos"], np.concatenate([whole[:6], whole[-1:]])
  )
