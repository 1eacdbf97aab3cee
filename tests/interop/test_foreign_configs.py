"""What another format would compute otherwise is refused, or told."""

import dataclasses
import json
import logging
import types

import numpy as np
import pytest
import safetensors.numpy
import test_convert

from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.interop import model_files, sections
from big_contrastive.interop.hugging_face import config as hugging_face_config

WORDS = test_convert.WORDS
SIZE = test_convert.SIZE


def clip(image=(), words=(), tokenizer=WORDS, **more):
  """A CLIP far from its initial values; tokenizer None: it has none."""
  sections = {
    "image": {
      "variant": "mu/8", "res": 16, "pool": "tok", "cls_pos": True,
      "pre_norm": True, "patch_bias": False, "out_dim": 20, **SIZE,
      **dict(image),
    },
    "text": {
      "variant": "mu", "pool": "eos", "causal": True, "out_dim": 20,
      "out_bias": False, "eos_id": WORDS.eos_id,
      "vocab_size": WORDS.vocab_size, **SIZE, **dict(words),
    },
    "scale": 4.0, **more,
  }  # fmt: skip
  ops = [
    ["resize_shortest", {"size": 16, "rounding": "down"}],
    ["center_crop", {"size": 16, "rounding": "nearest"}],
  ]
  eos_id = sections["text"]["eos_id"]
  bare = types.SimpleNamespace(
    vocab_size=9, length=9, eos_id=eos_id, pad_id=0, spec={}, blob=b""
  )
  taken = tokenizer or bare
  model = test_convert.filled(sections, ops, taken)
  params = {k: v for k, v in model.params.items() if k != "b" or "bias" in more}
  fields = {"tokenizer": taken.spec, "blob": taken.blob}
  return dataclasses.replace(model, params=params, **fields)


def siglip(image=(), words=(), **more):
  whole = test_convert.model()
  sections = {
    k: v | dict(extra) if isinstance(v, dict) else v
    for (k, v), extra in zip(
      whole.model.items(), (image, words, (), ()), strict=True
    )
  }
  return test_convert.filled(sections | more, whole.image)


# Settings of ours that a format has no word for: model, format, what is named.
REFUSED = {
  "EOS is 2, which transformers takes for the largest": (
    lambda: clip(words={"eos_id": 2}, tokenizer=None),
    "hugging_face", r"EOS of the tokenizer = 2.*--format open_clip",
  ),
  "a CLIP with a bias": (lambda: clip(bias=-3.0), "hugging_face", "bias"),
  "a class token without projection": (
    lambda: clip({"out_dim": None}, {"out_dim": 24}),
    "hugging_face", r"image\.out_dim",
  ),
  "the same for OpenCLIP": (
    lambda: clip({"out_dim": None}, {"out_dim": 24}),
    "open_clip", r"image\.out_dim",
  ),
  "texts without projection": (
    lambda: siglip(words={"out_dim": None}), "hugging_face", r"text\.out_dim",
  ),
  "texts that see only what is before": (
    lambda: siglip(words={"causal": True}), "big_vision", r"text\.causal",
  ),
  "the first token": (
    lambda: siglip(words={"pool": "first"}), "big_vision", r"text\.pool",
  ),
  "the mean of tokens": (
    lambda: siglip(words={"pool": "mean"}), "big_vision", r"text\.pool",
  ),
  "attention pooling of texts": (
    lambda: siglip(words={"pool": "map"}), "hugging_face", r"text\.pool",
  ),
  "more positions than tokens": (
    lambda: siglip(words={"positions": 12}), "hugging_face", r"text\.positions",
  ),
  "more positions, big_vision": (
    lambda: siglip(words={"positions": 12}), "big_vision", r"text\.positions",
  ),
  "more positions, OpenCLIP": (
    lambda: clip(words={"positions": 12}), "open_clip", r"text\.positions",
  ),
  "other means of channels": (
    lambda: siglip({"mean": (0.4, 0.4, 0.4)}), "big_vision", r"image\.mean",
  ),
  "pixels past the last patch": (
    lambda: siglip({"res": 17, "remainder": True}), "big_vision",
    r"image\.res = 17",
  ),
  "another eps": (
    lambda: siglip({"eps": 1e-3}), "big_vision", r"image\.eps",
  ),
  "another activation": (
    lambda: siglip({"activation": "gelu"}), "big_vision", r"activation",
  ),
  "fixed positions": (
    lambda: siglip({"pos": "sincos2d"}), "hugging_face", r"image\.pos",
  ),
  "padding that no token sees": (
    lambda: clip(words={"pad_id": WORDS.pad_id}), "hugging_face", "pad_id",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_computed_otherwise_there_is_refused(name, tmp_path):
  make, format, said = REFUSED[name]
  model_files.write(make(), tmp_path / "ours", "checkpoint")
  with pytest.raises(errors.UserError, match=said) as e:
    convert.convert(str(tmp_path / "ours"), str(tmp_path / "to"), format)
  assert "\n" not in str(e.value)
  assert [p.name for p in tmp_path.iterdir()] == ["ours"]


def test_a_sigmoid_without_bias_is_no_siglip_of_transformers(tmp_path):
  whole = test_convert.model()
  params = {k: v for k, v in whole.params.items() if k != "b"}
  bare = dataclasses.replace(whole, params=params)
  with pytest.raises(errors.UserError, match=r"bias is missing.*a number"):
    model_files.write(bare, tmp_path / "hf", "hugging_face")


@pytest.mark.parametrize("format", ["hugging_face", "open_clip"])
@pytest.mark.parametrize(
  "change",
  [
    {}, {"pool": "argmax"}, {"eps": 1e-3}, {"activation": "gelu"}, {"eos_id": 2}
  ],
)  # fmt: skip
def test_a_clip_keeps_what_it_computes(format, change, tmp_path):
  """Judged by their own library, too, where it is installed."""
  both = {k: v for k, v in change.items() if k == "activation"}
  model = clip(both, change, None if "eos_id" in change else WORDS)
  model_files.write(model, tmp_path / "ours", "checkpoint")
  if (format, change.get("eos_id")) == ("hugging_face", 2):
    return  # Refused: see above.
  told = convert.convert(str(tmp_path / "ours"), str(tmp_path / "to"), format)
  assert max(told.values()) < 1e-5
  found = model_files.read(tmp_path / "to").model["text"]
  for name, value in change.items():
    assert found[name] == value


def test_a_tokenizer_with_another_eos_is_refused(tmp_path):
  bare = clip(words={"eos_id": 9}, tokenizer=None)
  model_files.write(bare, tmp_path / "hf", "hugging_face")
  given = {"kind": "bytes", "length": 9}
  with pytest.raises(errors.UserError, match=r"text\.eos_id = 9"):
    convert.convert(str(tmp_path / "hf"), str(tmp_path / "a"), tokenizer=given)


def changed(path, section, **fields):
  config = json.loads((path / "config.json").read_text())
  (config[section] if section else config).update(fields)
  (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
  ("section", "fields"),
  [
    ("vision_config", {"num_channels": 4}),
    ("vision_config", {"vision_use_head": False}),
    ("", {"quantization_config": {"quant_method": "bitsandbytes"}}),
    ("", {"text_config": [1]}),
  ],
)
def test_a_config_that_asks_for_more_than_we_compute_is_refused(
  section, fields, tmp_path
):
  model_files.write(test_convert.model(), tmp_path / "hf", "hugging_face")
  changed(tmp_path / "hf", section, **fields)
  with pytest.raises(errors.UserError, match=next(iter(fields))) as e:
    model_files.read(tmp_path / "hf")
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("eos", [[3, 4], None, True])
def test_a_clip_has_one_eos(eos, tmp_path):
  model_files.write(clip(), tmp_path / "hf", "hugging_face")
  changed(tmp_path / "hf", "text_config", eos_token_id=eos)
  with pytest.raises(errors.UserError, match="eos_token_id"):
    model_files.read(tmp_path / "hf")


def told(caplog):
  lines = [r.getMessage() for r in caplog.records]
  return [x for x in lines if "not known here" in x]


def test_fields_that_nobody_here_knows_are_told(tmp_path, caplog):
  model_files.write(test_convert.model(), tmp_path / "hf", "hugging_face")
  model_files.write(clip(), tmp_path / "oc", "open_clip")
  with caplog.at_level(logging.WARNING):
    for name in ("hf", "oc"):
      model_files.read(tmp_path / name)
  assert not told(caplog)
  changed(tmp_path / "hf", "text_config", rope_theta=1e4, attention_dropout=0.1)
  config = tmp_path / "oc" / "open_clip_config.json"
  own = json.loads(config.read_text())
  own["model_cfg"]["vision_cfg"]["rope"] = True
  config.write_text(json.dumps(own))
  with caplog.at_level(logging.WARNING):
    for name in ("hf", "oc"):
      model_files.read(tmp_path / name)
  lines = told(caplog)
  assert len(lines) == 2
  assert "text_config.rope_theta: not known" in lines[0]
  assert "vision_cfg.rope: not known" in lines[1]


@pytest.mark.parametrize("family", ["Siglip", "Siglip2", "CLIP"])
@pytest.mark.peers
def test_all_that_transformers_writes_is_known(family, caplog):
  transformers = pytest.importorskip("transformers")
  config = getattr(transformers, f"{family}Config")().to_dict()
  with caplog.at_level(logging.WARNING):
    hugging_face_config.describe(config, "config.json")
  assert not told(caplog)


def test_quantised_tensors_are_no_parameters(tmp_path):
  model_files.write(test_convert.model(), tmp_path / "hf", "hugging_face")
  file = tmp_path / "hf" / "model.safetensors"
  arrays = safetensors.numpy.load_file(file)
  name = "text_model.encoder.layers.0.mlp.fc1.weight"
  arrays[name] = arrays[name].astype(np.int8)
  safetensors.numpy.save_file(arrays, file)
  with pytest.raises(errors.UserError, match=f"{name}, int8"):
    model_files.read(tmp_path / "hf")


def test_a_temperature_that_overflows_is_no_traceback(tmp_path):
  model = test_convert.model()
  flat = rules.flatten(model.params) | {"t": np.float32(800)}
  made = sections.assembled(model.model, flat)
  assert made.model["scale"] == np.inf


@pytest.mark.peers
def test_transformers_hides_no_padding_from_a_siglip(tmp_path):
  """What its tokenizer gives goes to its model as it is: pads are attended."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = test_convert.model()
  model_files.write(model, tmp_path / "hf", "hugging_face")
  words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
  towers = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
  texts = ["a cat", "a dog on the grass"]
  given = words(texts, padding="max_length", return_tensors="pt")
  assert given["input_ids"].tolist() == [WORDS(t).tolist() for t in texts]
  with torch.no_grad():
    z = towers.get_text_features(**given)
  z = getattr(z, "pooler_output", z).numpy()
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  images = np.zeros((2, 16, 16, 3), np.uint8)
  wanted = convert._embed(model, images, np.stack([WORDS(t) for t in texts]))
  np.testing.assert_allclose(z, wanted["text"], atol=1e-5)


def test_openclip_is_given_no_tokenizer_that_the_model_had_not(tmp_path):
  """Without a name OpenCLIP takes CLIP's own vocabulary."""
  model_files.write(clip(tokenizer=None), tmp_path / "oc", "open_clip")
  config = json.loads((tmp_path / "oc" / "open_clip_config.json").read_text())
  assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "."
  assert not model_files.read(tmp_path / "oc").tokenizer
  try:
    import open_clip
  except ImportError:
    return
  with pytest.raises(Exception):  # noqa: B017, PT011
    open_clip.get_tokenizer(f"local-dir:{tmp_path / 'oc'}")


def test_merges_of_another_size_than_clips_are_written_beside_openclips(
  tmp_path,
):
  merges = "#version: 0.2\nc a\nca t</w>\n"
  (tmp_path / "merges.txt").write_text(merges)
  words = build_tokenizer("clip_bpe", 9, path=str(tmp_path / "merges.txt"))
  rows = {"vocab_size": words.vocab_size, "eos_id": words.eos_id}
  model_files.write(
    clip(words=rows, tokenizer=words), tmp_path / "oc", "open_clip"
  )
  found = model_files.read(tmp_path / "oc").make_tokenizer()
  for said in ("a cat", "Cats!"):
    ids = words(said)
    end = list(ids).index(words.eos_id) + 1  # No token sees those behind it.
    np.testing.assert_array_equal(found(said)[:end], ids[:end])
  seen = clip(words=rows | {"causal": False}, tokenizer=words)
  with pytest.raises(errors.UserError, match="padding of the tokenizer = 0"):
    model_files.write(seen, tmp_path / "no", "open_clip")
