"""OpenCLIP's CoCa, against OpenCLIP itself on random weights."""

import importlib
import json
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_open_clip

import peers
from big_contrastive import convert, objectives
from big_contrastive.config import errors, rules
from big_contrastive.interop import model_files
from big_contrastive.interop.formats import open_clip as ours
from big_contrastive.models.captioning import captioner, generation
from big_contrastive.models.model import merge
from big_contrastive.objectives import coca
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import step

pytestmark = pytest.mark.peers

torch = peers.torch()
open_clip = pytest.importorskip("open_clip")

PAD, BOS, EOS, VOCAB, LENGTH = 0, 1, 2, 20, 9
TEXT = {
  "context_length": LENGTH, "vocab_size": VOCAB, "width": 24, "heads": 3,
  "layers": 2, "embed_cls": True, "output_tokens": True,
}  # fmt: skip
VISION = test_open_clip.VISION | {
  "attentional_pool": True, "attn_pooler_queries": 6, "attn_pooler_heads": 2,
  "output_tokens": True,
}  # fmt: skip
DECODER = {
  "context_length": LENGTH, "vocab_size": VOCAB, "width": 24, "heads": 4,
  "layers": 3, "attn_pooler_heads": 2,
}  # fmt: skip
COCA = {
  "embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT,
  "multimodal_cfg": DECODER, "custom_text": True,
}  # fmt: skip
WITHOUT = {k: v for k, v in COCA.items() if k != "multimodal_cfg"}
changed = test_open_clip.changed
MODELS = {
  "as published": COCA,
  # torch has one tensor then, for three.
  "as wide as what is pooled": changed(COCA, {"width": 24}),
  "quick_gelu": changed(COCA, quick_gelu=True),
  "biases": changed(COCA, text={"proj_bias": True}, init_logit_bias=-2.5),
  "tanh, another padding, no projection": changed(
    COCA, {"act_kwargs": {"approximate": "tanh"}},
    {"pad_id": 3, "proj_type": "none", "norm_kwargs": {"eps": 1e-3}},
    pad_id=3,
  ),
  # Which OpenCLIP's decoder ignores.
  "a ratio": changed(COCA, multimodal_cfg=DECODER | {"mlp_ratio": 2}),
}  # fmt: skip


def make(config):
  config = json.loads(json.dumps(config))
  del config["custom_text"]
  return peers.randomise(open_clip.CoCa(**config))


def inputs(pad=PAD):
  images, tokens = peers.inputs(24, VOCAB, LENGTH)
  tokens[:, 0] = BOS
  for row, end in zip(tokens, (2, 4, LENGTH - 1, 6), strict=True):
    row[1:end] = np.where(row[1:end] == pad, pad + 1, row[1:end])
    row[end], row[end + 1 :] = EOS, pad
  return images, tokens


def theirs(model, images, tokens):
  with torch.no_grad():
    found = model(peers.pixels(images), torch.from_numpy(tokens).long())
  names = "image_features", "text_features", "logits"
  return [found[name].numpy() for name in names]


def embeddings(model, images, tokens):
  found = convert._embed(model, images, tokens)
  towers = merge(model.build().graph, jax.tree.map(jnp.asarray, model.params))
  with jax.default_matmul_precision("highest"):
    logits = jax.jit(captioner.told)(towers, images, tokens[:, :-1])
  return found["image"], found["text"], logits


def assert_close(found, expected):
  names, limits = ("image", "text", "captions"), (1e-5, 1e-5, 1e-4)
  for name, x, y, atol in zip(names, found, expected, limits, strict=True):
    np.testing.assert_allclose(x, y, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_same_outputs_and_the_same_files_back(name, tmp_path):
  config = MODELS[name]
  peer = make(config)
  images, tokens = inputs(config["text_cfg"].get("pad_id", PAD))
  expected = theirs(peer, images, tokens)
  assert all(np.abs(x[0] - x[1]).max() > 0.1 for x in expected)
  path = test_open_clip.save(peer, config, tmp_path / "a")
  model = model_files.read(path)
  assert model.text_sizes.length == LENGTH
  assert_close(embeddings(model, images, tokens), expected)
  model_files.write(model, tmp_path / "b", "open_clip")
  again = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
  assert_close(theirs(again, images, tokens), expected)
  before, after = peer.state_dict(), again.state_dict()
  assert before.keys() == after.keys()
  for key, value in before.items():
    assert torch.equal(value, after[key]), key
  assert again.pad_id == config.get("pad_id", 0)
  assert model_files.read(tmp_path / "b").model == model.model


def test_the_mask_of_padding_may_be_the_right_one(tmp_path, caplog):
  """OpenCLIP 3.3 has it in the class alone; of configs it is a later field."""
  peer = make(COCA)
  images, tokens = inputs()
  legacy = theirs(peer, images, tokens)
  peer.text.correct_cls_mask = True
  expected = theirs(peer, images, tokens)
  assert np.abs(expected[1] - legacy[1]).max() > 1e-2
  config = changed(COCA, text={"correct_cls_mask": True})
  model = model_files.read(test_open_clip.save(peer, config, tmp_path / "a"))
  assert_close(embeddings(model, images, tokens), expected)
  with caplog.at_level(logging.WARNING):
    model_files.write(model, tmp_path / "b", "open_clip")
  assert "correct_cls_mask" in caplog.text
  assert model_files.read(tmp_path / "b").model == model.model


def test_pooler_and_token_are_read_without_a_decoder_too(tmp_path):
  peer = test_open_clip.make(
    changed(WITHOUT, {"output_tokens": False}, {"output_tokens": False})
  )
  images, tokens = inputs()
  expected = test_open_clip.theirs(peer, images, tokens)
  path = test_open_clip.save(peer, WITHOUT, tmp_path / "a")
  model = model_files.read(path)
  assert not model.has_decoder
  test_open_clip.assert_close(
    test_open_clip.embeddings(model, images, tokens), expected
  )
  model_files.write(model, tmp_path / "b", "open_clip")
  again = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
  test_open_clip.assert_close(
    test_open_clip.theirs(again, images, tokens), expected
  )


@pytest.fixture
def generates(monkeypatch):
  """OpenCLIP's greedy decoding, also where its import of beams fails.

  transformers 5 has no BeamSearchScorer any more, without which OpenCLIP 3.3
  takes none of its names.
  """
  module = importlib.import_module("open_clip.coca_model")
  transformers = pytest.importorskip("transformers")
  names = (
    "LogitsProcessorList", "TopKLogitsWarper", "MinLengthLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor", "MaxLengthCriteria",
    "StoppingCriteriaList",
  )  # fmt: skip
  for name in names:
    value = getattr(transformers, name)
    monkeypatch.setattr(module, name, value, raising=False)
  monkeypatch.setitem(
    module.GENERATION_TYPES, "top_k", transformers.TopKLogitsWarper
  )
  monkeypatch.setattr(module, "_has_transformers", True)


@pytest.mark.parametrize("least, penalty", [(1, 1.0), (5, 1.5)])
def test_greedy_captions_are_those_of_openclip(
  least, penalty, generates, tmp_path
):
  eos, peer = 5, make(COCA)  # A likely one.
  with torch.no_grad():  # And captions that depend on the image.
    peer.text_decoder.cross_attn[0].ln_1_kv.weight.mul_(10)
  images = np.random.default_rng(1).integers(0, 256, (16, 24, 24, 3))
  images = images.astype(np.uint8)
  images[::2] //= 3  # Noise is all alike to a pooler.
  whole = peer.generate(
    peers.pixels(images), generation_type="top_k", top_k=1, seq_len=LENGTH,
    max_seq_len=LENGTH, min_seq_len=least, sot_token_id=BOS, eos_token_id=eos,
    repetition_penalty=penalty, fixed_output_length=True,
  )  # fmt: skip
  # The last token is EOS in any case there. Padding ends captions, too.
  expected, tokens = whole.numpy()[:, 1:-1], LENGTH - 2
  ended = np.cumsum(expected == eos, axis=1) > 0
  assert not np.any((expected == PAD) & ~ended)
  assert np.any(ended) and not np.all(ended[:, -1])
  assert len({tuple(x) for x in expected}) > 3
  model = model_files.read(test_open_clip.save(peer, COCA, tmp_path / "a"))
  towers = merge(model.build().graph, jax.tree.map(jnp.asarray, model.params))
  how = generation.Decoding(
    "greedy", max_tokens=tokens, min_tokens=least, repetition_penalty=penalty
  )

  @jax.jit
  def captions(towers, images):
    memory, _, mask = towers.img.features(images)
    state = captioner.start(towers, memory, mask, LENGTH)
    prompt = jnp.full((len(images), 1), BOS, jnp.int32)

    def advance(ids, state):
      return captioner.advance(towers, ids, state)

    ids = generation.Ids(eos, PAD)
    return generation.generate(
      advance, captioner.picked, state, prompt, how, ids
    )

  with jax.default_matmul_precision("highest"):
    found, _ = captions(towers, images)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_convert_compares_captions(tmp_path):
  path = test_open_clip.save(make(COCA), COCA, tmp_path / "a")
  told = convert.convert(str(path), str(tmp_path / "ours"))
  assert told["source, in its own library: captions"] < 1e-5
  assert told["checkpoint, read back: captions"] == 0
  told = convert.convert(
    str(tmp_path / "ours"), str(tmp_path / "b"), format="open_clip"
  )
  assert told["target, in its own library: captions"] < 1e-5
  a, b = (model_files.read(tmp_path / name) for name in "ab")
  assert a.model == b.model
  a, b = rules.flatten(a.params), rules.flatten(b.params)
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], name)
  for target in ("hugging_face", "big_vision"):
    with pytest.raises(errors.UserError, match=r"config\.model\.decoder"):
      convert.convert(str(path), str(tmp_path / "c.npz"), format=target)


REFUSED = {
  "cascade": (changed(COCA, {"attentional_pool": "cascade"}), "cascade"),
  "parallel": (changed(COCA, {"attentional_pool": "parallel"}), "parallel"),
  "coca_base": (
    changed(COCA, {"attentional_pool": False}), "vision_cfg.attentional_pool"
  ),
  "no token": (changed(COCA, text={"embed_cls": False}), "text_cfg.embed_cls"),
  "layer scale": (
    changed(COCA, multimodal_cfg=DECODER | {"ls_init_value": 1e-4}),
    "multimodal_cfg.ls_init_value",
  ),
  "another's text tower": (
    changed(COCA, text={"hf_model_name": "roberta-base"}), "hf_model_name"
  ),
  "two eps": (
    changed(COCA, {"norm_kwargs": {"eps": 1e-6}}), "norm_kwargs.eps"
  ),
  "another width": (
    changed(COCA, multimodal_cfg=DECODER | {"width": 32}), "decoder.width"
  ),
  "not causal": (changed(COCA, text={"no_causal_mask": True}), "causal"),
  "no object": (COCA | {"multimodal_cfg": 3}, "multimodal_cfg"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_our_model_does_not_compute_is_refused(name, tmp_path):
  config, said = REFUSED[name]
  path = test_open_clip.save(make(COCA), config, tmp_path / "a")
  with pytest.raises(errors.UserError, match=said) as e:
    model_files.read(path)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "coca_ViT-L-14"])
def test_published_models_have_these_names_and_shapes(name):
  config = open_clip.get_model_config(name)
  del config["custom_text"]
  with torch.device("meta"):
    peer = open_clip.CoCa(**config)
  expected = {k: tuple(v.shape) for k, v in peer.state_dict().items()}
  assert ours.names(config, True) == expected


def test_texts_have_76_tokens_and_one_place_more(tmp_path):
  """As OpenCLIP's tokenizer makes them: the last place is the learned one."""
  sizes = {"context_length": 76, "vocab_size": 49408, "layers": 1}
  config = changed(COCA, text=sizes, multimodal_cfg=DECODER | sizes)
  path = test_open_clip.save(make(config), config, tmp_path / "a")
  model = model_files.read(path)
  assert model.params["txt"]["pos"].shape == (77, 24)
  texts = ["a photo of a cat", "dogs &amp; cats " * 40]
  expected = open_clip.get_tokenizer(f"local-dir:{path}")(texts).numpy()
  assert expected.shape == (2, 76)
  np.testing.assert_array_equal(model.make_tokenizer().rows(texts), expected)
  assert model.text_sizes.bos_id == 49406
  assert model.build(model.make_tokenizer()).abstract.dec.length == 75


def test_training_steps_are_theirs(tmp_path):
  """OpenCLIP's loss, gradients and parameters, by SGD, for three steps."""
  lr, steps = 0.05, 3
  peer = make(COCA)
  model = model_files.read(test_open_clip.save(peer, COCA, tmp_path / "first"))
  ids = types.SimpleNamespace(
    length=LENGTH, vocab_size=VOCAB, pad_id=PAD, bos_id=BOS, eos_id=EOS
  )
  built = model.build(ids)
  mesh = sharding.make_mesh(devices=jax.devices()[:2])
  images, tokens = inputs()
  setting = objectives.Setting(built, mesh, len(images), None, 10, {}, ids)
  method = coca.build(setting).freeze(frozenset())
  names = frozenset(rules.flatten(built.shapes))
  placed = step.place(
    step.Step(method, optax.sgd(lr), lambda s: lr, names, 0), mesh,
    placement.EVERYTHING,
  )  # fmt: skip
  state = placed.init()
  where = jax.tree.map(lambda x: x.sharding, state.params)
  state = state._replace(params=jax.device_put(model.params, where))
  loss_of = open_clip.loss.CoCaLoss(
    caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=PAD
  )
  optimizer = torch.optim.SGD(peer.parameters(), lr=lr)
  pixels, words = peers.pixels(images), torch.from_numpy(tokens).long()
  local = {
    "image": images, "text": tokens.astype(np.int32),
    "id": np.arange(len(images), dtype=np.int32),
  }  # fmt: skip
  for _ in range(steps):
    out = peer(pixels, words)
    clip, caption = loss_of(
      out["image_features"], out["text_features"], out["logits"],
      out["labels"], out["logit_scale"],
    )  # fmt: skip
    optimizer.zero_grad()
    (clip + caption).backward()
    optimizer.step()
    batch = sharding.to_global(local, len(images), mesh)
    with jax.default_matmul_precision("highest"):
      state, metrics = placed.update(state, batch)
    np.testing.assert_allclose(metrics["pair_loss"], clip.item(), rtol=1e-4)
    np.testing.assert_allclose(
      2 * metrics["caption_loss"], caption.item(), rtol=1e-4
    )
  path = test_open_clip.save(peer, COCA, tmp_path / "last")
  expected = rules.flatten(model_files.read(path).params)
  found = rules.flatten(jax.device_get(state.params))
  assert found.keys() == expected.keys()
  for name, value in found.items():
    np.testing.assert_allclose(
      value, expected[name], rtol=2e-3, atol=2e-4, err_msg=name
    )
  start = rules.flatten(model.params)
  assert any(np.abs(found[k] - start[k]).max() > 1e-2 for k in found)
