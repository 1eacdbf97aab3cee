"""The command convert: between formats, whole or not at all."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import peers
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.data.build import build_source
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.data.transforms import operations
from big_contrastive.inference.model import load
from big_contrastive.interop import model_files
from big_contrastive.interop.average import averaged
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models.build import build_model

pytestmark = pytest.mark.peers

if importlib.util.find_spec("transformers"):
  peers.torch()
ROOT = pathlib.Path(__file__).parents[1]
WORDS = build_tokenizer(
  "bpe", 9, vocab_size=300,
  captions=["a red cat", "a dog on the grass", "two cats and a photo"] * 3,
)  # fmt: skip
SIZE = {"width": 24, "mlp": 40, "heads": 2, "depth": 2}


def model(**more):
  """A SigLIP far from its initial values, with 5 rows more than tokens."""
  sections = {
    "image": {"variant": "mu/8", "res": 16, "pool": "map", **SIZE},
    "text": {
      "variant": "mu", "pool": "last", "out_dim": 24,
      "vocab_size": WORDS.vocab_size + 5, **SIZE, **more,
    },
    "scale": 4.0, "bias": -3.0,
  }  # fmt: skip
  return filled(sections, [["resize", {"size": 16}]])


def filled(sections, ops, words=WORDS):
  """A model of these sections, far from its initial values."""
  flat = rules.shapes(build_model(sections, words).shapes)
  r = np.random.default_rng(0)
  params = {
    k: np.asarray(r.normal(size=s) * 0.4, np.float32) for k, s in flat.items()
  }
  params |= {"t": np.float32(np.log(4.0)), "b": np.float32(-3.0)}
  nested = rules.unflatten(params)
  return ModelBundle(sections, nested, WORDS.spec, WORDS.blob, ops)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  path = tmp_path_factory.mktemp("ours") / "workdir"
  model_files.write(model(), path, "checkpoint")
  return path


def assert_same(a, b):
  a, b = rules.flatten(a.params), rules.flatten(b.params)
  assert a.keys() == b.keys()
  for name, x in a.items():
    np.testing.assert_array_equal(x, b[name], err_msg=name)


def test_a_checkpoint_gives_back_what_was_written(checkpoint):
  found = model_files.read(checkpoint)
  assert_same(found, model())
  assert found.tokenizer == WORDS.spec and found.blob == WORDS.blob
  assert found.image == model().image
  assert found.model["text"]["vocab_size"] == WORDS.vocab_size + 5


def test_evaluate_takes_it_and_embeds_as_the_towers_do(checkpoint):
  texts = ["a red cat", "two dogs"]
  found = load(str(checkpoint)).encode_text(texts)
  wanted = convert._embed(
    model(), np.zeros((2, 16, 16, 3), np.uint8),
    np.stack([WORDS(t) for t in texts]),
  )["text"]  # fmt: skip
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_ours_to_hugging_face_and_back_bit_for_bit(checkpoint, tmp_path):
  there, back = tmp_path / "hf", tmp_path / "back"
  told = convert.convert(str(checkpoint), str(there))
  assert max(told.values()) <= 1e-5 and len(told) >= 3
  assert json.loads((there / "config.json").read_text())["model_type"] == (
    "siglip"
  )
  told = convert.convert(str(there), str(back))
  assert told["checkpoint, read back: image"] == 0
  assert_same(model_files.read(back), model())
  assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "hf"]


def test_the_peer_is_asked_on_both_sides(checkpoint, tmp_path):
  pytest.importorskip("transformers")
  there = tmp_path / "hf"
  told = convert.convert(str(checkpoint), str(there))
  assert told["target, in its own library: logits"] < 1e-5
  told = convert.convert(str(there), str(tmp_path / "ours"))
  assert told["source, in its own library: text"] < 1e-5


def transformers_towers(path):
  """Embeds pictures and strings with nothing but transformers."""
  import torch
  import transformers

  auto = (transformers.AutoModel, transformers.AutoTokenizer)
  towers, tokenizer = (a.from_pretrained(path) for a in auto)
  processor = transformers.AutoImageProcessor.from_pretrained(path)
  towers.eval()

  def unit(z):
    z = getattr(z, "pooler_output", z)
    return (z / z.norm(dim=-1, keepdim=True)).numpy()

  @torch.no_grad()
  def embed_images(source):
    pictures = [
      operations.decode(source[i]["image"]) for i in range(len(source))
    ]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    zimg = unit(towers.get_image_features(pixel_values=pixels))
    return pixels.numpy(), zimg

  @torch.no_grad()
  def embed_texts(texts):
    how = dict(padding="max_length", truncation=True, max_length=9)
    ids = tokenizer(texts, return_tensors="pt", **how)["input_ids"]
    return unit(towers.get_text_features(input_ids=ids))

  return embed_images, embed_texts


def test_transformers_puts_pictures_into_the_same_classes(checkpoint, tmp_path):
  pytest.importorskip("transformers")
  convert.convert(str(checkpoint), str(tmp_path / "hf"))
  where = {"name": "shapes", "split": "heldout", "train_size": 64, "size": 32}
  data = build_source(where, "source")
  texts = [f"A {c}!" for c in data.classes]
  ours = load(str(checkpoint))
  zimg = ours.embedder.images(ours.params, data).zimg
  ztxt = ours.encode_text(texts)
  embed_images, embed_texts = transformers_towers(tmp_path / "hf")
  np.testing.assert_allclose(embed_texts(texts), ztxt, atol=1e-5)
  pixels, theirs = embed_images(data)
  # torchvision's resize may round a value of 256 another way than PIL's.
  resize = operations.parse(model().image, "ops", train=False)
  own = np.stack([resize(data[i]["image"]) for i in range(len(data))])
  own = convert._normalized(model(), own).transpose(0, 3, 1, 2)
  assert np.abs(pixels - own).max() < 2 / 255 + 1e-6
  classes = (zimg @ ztxt.T).argmax(axis=1)
  assert len(set(classes)) > 1
  np.testing.assert_array_equal(
    (theirs @ embed_texts(texts).T).argmax(1), classes
  )


def test_a_difference_leaves_nothing(checkpoint, tmp_path, monkeypatch):
  monkeypatch.setattr(convert.reference, "embed", lambda *a: {
    "image": np.ones((4, 24)), "text": np.ones((4, 24)),
    "logits": np.full((4, 4), np.nan),
  })  # fmt: skip
  with pytest.raises(errors.UserError, match="largest difference"):
    convert.convert(str(checkpoint), str(tmp_path / "hf"))
  assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_hold_leaves_nothing(tmp_path):
  source = tmp_path / "source"
  model_files.write(model(causal=True), source, "checkpoint")
  with pytest.raises(errors.UserError, match="causal"):
    convert.convert(str(source), str(tmp_path / "hf"))
  assert [p.name for p in tmp_path.iterdir()] == ["source"]


def broken(kind, hf):
  """Breaks a directory; returns what the error must say."""
  weights, config = hf / "model.safetensors", hf / "config.json"
  fields = json.loads(config.read_text())
  if kind == "truncated":
    weights.write_bytes(weights.read_bytes()[:-100])
    return "model.safetensors"
  if kind == "no config":
    config.unlink()
    return "config.json"
  if kind == "no weights":
    weights.unlink()
    return "model.safetensors"
  if kind == "text model":
    fields = {"model_type": "siglip_text_model"}
  elif kind == "resolution":
    fields["vision_config"]["image_size"] = 32
  elif kind == "activation":
    fields["text_config"]["hidden_act"] = "swish"
  config.write_text(json.dumps(fields))
  return {
    "text model": "model_type = 'siglip_text_model'",
    "resolution": "position_embedding.weight (4, 24) for (16, 24)",
    "activation": "'swish'",
  }[kind]


@pytest.mark.parametrize("kind", [
  "truncated", "no config", "no weights", "text model", "resolution",
  "activation",
])  # fmt: skip
def test_wrong_inputs_are_told_and_leave_nothing(kind, tmp_path):
  hf = tmp_path / "hf"
  model_files.write(model(), hf, "hugging_face")
  said = broken(kind, hf)
  with pytest.raises(errors.UserError) as told:
    convert.convert(str(hf), str(tmp_path / "out"))
  assert said in str(told.value) and "\n" not in str(told.value)
  assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_where_something_is_nothing_is_written(checkpoint, tmp_path):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "a").write_text("mine")
  for target in ("full", "full/a", "no/where"):
    with pytest.raises(errors.UserError, match="--to"):
      convert.convert(str(checkpoint), str(tmp_path / target))
  for source in (tmp_path / "none", tmp_path):
    with pytest.raises(errors.UserError):
      convert.convert(str(source), str(tmp_path / "new"))
  with pytest.raises(errors.UserError, match="--format"):
    convert.convert(str(checkpoint), str(tmp_path / "new"), "onnx")
  assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_an_image_tower_alone_is_embedded_as_in_its_model():
  whole = model()
  alone = ModelBundle(
    **(vars(whole) | {"params": {"img": whole.params["img"]}})
  )
  images, tokens = convert._inputs(alone)
  assert tokens is None
  found = convert._embed(alone, images, None)
  _, tokens = convert._inputs(whole)
  wanted = convert._embed(whole, images, tokens)["image"]
  np.testing.assert_allclose(found["image"], wanted, atol=1e-6)


def test_the_command_says_it_in_one_line(tmp_path):
  command = [sys.executable, "-m", "big_contrastive.convert"]
  done = subprocess.run(
    [*command, "--from", str(tmp_path), "--to", str(tmp_path / "new")],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 2 and done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1


def test_weights_are_averaged(checkpoint, tmp_path):
  """With what it is named after: a quarter of the other's."""
  other = dataclasses.replace(
    model(), params=jax.tree.map(lambda x: 3 * x + 1, model().params)
  )
  model_files.write(other, tmp_path / "other", "checkpoint")
  convert.convert(
    str(checkpoint), str(tmp_path / "mean"), format="checkpoint",
    average=str(tmp_path / "other"), share=0.25,
  )  # fmt: skip
  found = rules.flatten(model_files.read(tmp_path / "mean").params)
  for name, x in rules.flatten(model().params).items():
    expected = np.float64(x) * 1.5 + 0.25
    np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["shape", "tokenizer", "share"])
def test_what_can_not_be_averaged_is_said(kind, checkpoint, tmp_path):
  other, share = model(), 0.5
  if kind == "shape":
    wide = {"fc": np.zeros(3, np.float32)}
    other = dataclasses.replace(other, params=other.params | {"heads": wide})
  elif kind == "tokenizer":
    spec = other.tokenizer | {"lower": not other.tokenizer.get("lower", False)}
    other = dataclasses.replace(other, tokenizer=spec)
  else:
    share = 1.5
  said = {
    "shape": "other parameters: heads/fc",
    "tokenizer": "'another tokenizer'",
    "share": "--share = 1.5",
  }[kind]
  with pytest.raises(errors.UserError, match=said):
    averaged(model(), other, share, "--average")
