"""BLIP in Hugging Face directories, judged by transformers itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from jax.nn import log_softmax

import big_contrastive
import peers
from big_contrastive import convert, objectives
from big_contrastive.config import errors, rules
from big_contrastive.data.source import Source
from big_contrastive.inference import captions
from big_contrastive.interop import model_files, preprocessing, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import hugging_face
from big_contrastive.interop.hugging_face import blip
from big_contrastive.models.captioning import captioner, generation, teaching
from big_contrastive.models.model import merge, unit
from big_contrastive.objectives import captions as caption_objective
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import step

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
ROWS, LENGTH, PAD, CLS, SEP, DEC, ENC = 40, 12, 0, 2, 3, 38, 39
SIZE = dict(num_attention_heads=2, num_hidden_layers=2)
VISION = SIZE | dict(
  hidden_size=24, intermediate_size=40, image_size=24, patch_size=8
)
TEXT = SIZE | dict(
  hidden_size=32, intermediate_size=44, vocab_size=ROWS, pad_token_id=PAD,
  max_position_embeddings=LENGTH, bos_token_id=DEC, sep_token_id=SEP,
)  # fmt: skip


def make(name, vision=None, text=None, seed=0):
  """A random model of one of transformers' classes."""
  peers.torch()
  import transformers

  config = transformers.BlipConfig(
    vision_config=VISION | (vision or {}), text_config=TEXT | (text or {}),
    image_text_hidden_size=20,
  )  # fmt: skip
  model = peers.randomise(getattr(transformers, name)(config), seed)
  for key, p in model.named_parameters():
    if key.endswith("LayerNorm.weight"):
      p.data += 1
  return model


def inputs(first=CLS):
  """Images, and texts of several lengths between `first` and SEP."""
  r = np.random.default_rng(0)
  images = r.integers(0, 256, (4, 24, 24, 3)).astype(np.uint8)
  tokens = r.integers(4, DEC, (4, LENGTH)).astype(np.int32)
  for row, end in zip(tokens, (3, 6, LENGTH - 1, 1), strict=True):
    row[0], row[end], row[end + 1 :] = first, SEP, PAD
  return images, tokens


def ours(path_or_bundle, **changes):
  """The bundle and its model."""
  bundle = path_or_bundle
  if not isinstance(bundle, ModelBundle):
    bundle = model_files.read(bundle)
  text = bundle.model["text"] | changes
  graph = bundle.build(text=text).graph
  return bundle, merge(graph, jax.tree.map(jnp.asarray, bundle.params))


def seen(model, images):
  return model.img.features(jnp.asarray(images)).tokens


def matched(model, images, tokens):
  """ITM's logits, and cosines of pairs."""
  state = model.txt.grounded(jnp.asarray(tokens), seen(model, images))
  cosines = (
    model.embed_image(jnp.asarray(images))
    @ model.embed_text(jnp.asarray(tokens)).T
  )
  return np.asarray(model.txt.matched(state)), np.asarray(cosines)


def their_matches(model, images, tokens):
  t = peers.torch()
  ids = t.from_numpy(tokens).long()
  fixed = dict(
    pixel_values=peers.pixels(images, MEAN, STD), input_ids=ids,
    attention_mask=(ids != PAD).long(),
  )  # fmt: skip
  with t.no_grad():
    both = [model(**fixed, use_itm_head=x).itm_score for x in (True, False)]
  return [x.numpy() for x in both]


def told(model, images, tokens):
  x = model.txt.decoded(
    model.txt.embedded(jnp.asarray(tokens)), seen(model, images)
  )
  return np.asarray(model.txt.scores(x))


def their_logits(model, images, tokens):
  """Logits, and the loss."""
  t = peers.torch()
  ids = t.from_numpy(tokens).long()
  with t.no_grad():
    out = model(
      pixel_values=peers.pixels(images, MEAN, STD), input_ids=ids,
      attention_mask=(ids != PAD).long(),
      labels=ids.masked_fill(ids == PAD, -100),
    )  # fmt: skip
  return out.logits.numpy(), float(out.loss)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.peers
def test_retrieval_equals_transformers_both_ways_bit_for_bit(act, tmp_path):
  sizes = {"hidden_act": act}
  model = make("BlipForImageTextRetrieval", sizes, sizes)
  source, target = tmp_path / "hf", tmp_path / "out"
  model.save_pretrained(source)
  images, tokens = inputs()
  bundle, as_it_comes = ours(source, enc_id=None)
  wanted = their_matches(model, images, tokens)
  found = matched(as_it_comes, images, tokens)
  for a, b in zip(found, wanted, strict=True):
    assert np.ptp(b, axis=0).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
  # [ENC] in place of [CLS], for matches alone.
  _, read = ours(bundle)
  wanted[0] = their_matches(model, images, inputs(ENC)[1])[0]
  for a, b in zip(matched(read, images, tokens), wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)

  target.mkdir()
  hugging_face.write(bundle, target)
  peers.check_tensors(source, target)
  again, info = type(model).from_pretrained(target, output_loading_info=True)
  assert not info["missing_keys"] and not info["unexpected_keys"]
  same = their_matches(again.eval(), images, tokens)
  for a, b in zip(same, their_matches(model, images, tokens), strict=True):
    assert a.tolist() == b.tolist()
  assert model_files.read(target).model == bundle.model


@pytest.mark.peers
def test_captions_equal_transformers_both_ways_bit_for_bit(tmp_path):
  model = make("BlipForConditionalGeneration")
  source, target = tmp_path / "hf", tmp_path / "out"
  model.save_pretrained(source)
  bundle, read = ours(source)
  images, tokens = inputs()
  wanted, loss = their_logits(model, images, inputs(DEC)[1])
  found, real = told(read, images, tokens), tokens != PAD
  np.testing.assert_allclose(found[real], wanted[real], rtol=1e-4, atol=1e-4)

  ids = bundle.text_sizes._replace(bos_id=CLS)
  taught = teaching.taught(jnp.asarray(tokens), ids)
  x = read.txt.decoded(read.txt.embedded(taught.inputs), seen(read, images))
  likely = log_softmax(read.txt.scores(x))
  each = jnp.take_along_axis(likely, taught.targets[..., None], -1)[..., 0]
  mean = -float((each * taught.real).sum() / taught.real.sum())
  np.testing.assert_allclose(mean, loss, rtol=1e-5)

  target.mkdir()
  hugging_face.write(bundle, target)
  peers.check_tensors(source, target)
  again, info = type(model).from_pretrained(target, output_loading_info=True)
  assert not info["missing_keys"] and not info["unexpected_keys"]
  same, _ = their_logits(again.eval(), images, inputs(DEC)[1])
  assert same.tolist() == wanted.tolist()
  assert model_files.read(target).model == bundle.model


@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize(
  ("method", "beams", "most", "least", "penalty"),
  [("greedy", 1, 9, 1, 1.0), ("greedy", 1, 9, 5, 1.3), ("beam", 3, 9, 1, 1.0),
   ("beam", 3, 8, 4, 1.0), ("beam", 2, 9, 2, 1.2)],
)  # fmt: skip
@pytest.mark.peers
def test_generated_captions_are_theirs(
  prompt, method, beams, most, least, penalty, tmp_path
):
  """Their lengths count [DEC] and the prompt, which ours leave out."""
  t = peers.torch()
  model = make("BlipForConditionalGeneration", seed=2)
  with t.no_grad():  # So that captions end at many places.
    bias = model.text_decoder.cls.predictions.bias
    bias[SEP], bias[DEC] = 3.0, -9.0
  model.save_pretrained(tmp_path / "hf")
  bundle, read = ours(tmp_path / "hf")
  r = np.random.default_rng(3)
  images = r.integers(0, 256, (8, 24, 24, 3)).astype(np.uint8)
  first = r.integers(4, DEC, (8, prompt + 2)).astype(np.int32)
  first[:, 0], first[:, -1] = CLS, SEP
  given = {"input_ids": t.from_numpy(first).long()} if prompt else {}
  wanted = model.generate(
    peers.pixels(images, MEAN, STD), **given, num_beams=beams, max_length=most,
    min_length=least, repetition_penalty=penalty,
  ).numpy()  # fmt: skip
  q = 1 + prompt
  how = generation.Decoding(
    method, max_tokens=most - q, min_tokens=max(1, least - q + 1), beams=beams,
    repetition_penalty=penalty,
  )  # fmt: skip
  sizes = bundle.text_sizes
  found, _ = generation.generate(
    lambda ids, state: captioner.advance(read, ids, state), captioner.picked,
    captioner.start(read, seen(read, images), None, most),
    jnp.asarray(first[:, :q]), how, generation.Ids(sizes.eos_id, sizes.pad_id),
  )  # fmt: skip
  wanted = np.pad(wanted[:, q:], ((0, 0), (0, most - wanted.shape[1])))
  # Their beam search pads with EOS where the padding is 0.
  before = np.cumsum(wanted == SEP, axis=1) - (wanted == SEP)
  wanted = np.where(before > 0, PAD, wanted)
  np.testing.assert_array_equal(found, wanted)
  assert len({tuple(row) for row in wanted.tolist()}) > 2
  if (method, least) == ("greedy", 1):
    assert len({*(wanted != PAD).sum(-1).tolist()}) > 2


def config(part="encoder", **fields):
  text = {k: v for k, v in TEXT.items()} | {"num_attention_heads": 2}
  return {
    "model_type": "blip", "architectures": [blip.CLASSES[part]],
    "vision_config": dict(VISION), "text_config": text,
    "image_text_hidden_size": 20,
  } | fields  # fmt: skip


def both(seed=0):
  """A bundle that is encoder and decoder, with a temperature."""
  _, model, _ = blip.describe(config(), "config.json")
  model["text"]["decoder"] = True
  model["scale"] = 1.0
  text = {k: model["text"][k] for k in ("pad_id", "eos_id")}
  shapes = sections.shapes(model, ROWS, LENGTH, False)
  r = np.random.default_rng(seed)
  flat = {k: np.float32(r.normal(0, 0.2, v)) for k, v in shapes.items()}
  ops = [["resize", {"size": [24, 24], "method": "bicubic"}]]
  assert text == {"pad_id": PAD, "eos_id": SEP}
  return ModelBundle(model, rules.unflatten(flat), image=ops)


def test_each_half_is_a_directory_and_back(tmp_path, caplog):
  """Their classes are either; the halves compute what the whole does."""
  whole = both()
  with pytest.raises(errors.UserError, match=r"text.decoder = True"):
    model_files.write(whole, tmp_path / "no", "hugging_face")
  images, tokens = inputs()
  _, model = ours(whole)
  for part, compute in (("encoder", matched), ("decoder", told)):
    half = blip.half(whole, part)
    model_files.write(half, tmp_path / part, "hugging_face")
    read, again = ours(tmp_path / part)
    flat, found = rules.flatten(half.params), rules.flatten(read.params)
    assert found.keys() == flat.keys() - {"t"}
    for k, v in found.items():
      assert v.tobytes() == flat[k].tobytes(), k
    for a, b in zip(
      jax.tree.leaves(compute(again, images, tokens)),
      jax.tree.leaves(compute(model, images, tokens)),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
    written = json.loads((tmp_path / part / "config.json").read_text())
    assert written["architectures"] == [blip.CLASSES[part]]
    assert written["text_config"]["bos_token_id"] == DEC
    assert read.model["text"]["enc_id"] == ENC
  assert "exp(t) = " in caplog.text


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"architectures": ["BlipForQuestionAnswering"]},
     "architectures = 'BlipForQuestionAnswering'; expected BlipForImage"),
    ({"architectures": ["BlipModel"]}, "architectures = 'BlipModel'"),
    ({"architectures": None}, "architectures is missing"),
    ({"text_config": TEXT | {"is_decoder": False}}, "is_decoder = False"),
    ({"vision_config": VISION | {"hidden_act": "silu"}}, "hidden_act = 'silu'"),
    ({"vision_config": VISION | {"image_size": [24, 16]}}, "image_size"),
  ],
)  # fmt: skip
def test_what_is_not_represented_is_one_clear_line(fields, said):
  with pytest.raises(errors.UserError, match=said) as e:
    blip.describe(config(**fields), "config.json")
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("section", "fields", "said"),
  [
    ("image", {"out_bias": False}, "image.out_bias = False; expected True"),
    ("image", {"pre_norm": True}, "image.pre_norm = True"),
    ("image", {"pool": "map"}, "image.pool = 'map'"),
    ("text", {"match": False}, "text.match = False"),
    ("text", {"out_dim": None}, "text.out_dim"),
  ],
)
def test_a_model_that_their_class_has_not_is_named(section, fields, said):
  half = blip.half(both(), "encoder")
  flat = rules.flatten(half.params)
  changed = half.model[section] | fields
  model = half.model | {section: changed}
  with pytest.raises(errors.UserError, match=said):
    blip.check(model["image"], model["text"], flat)


def test_copies_of_tied_tensors_are_left_out_unless_they_differ(tmp_path):
  """As older versions saved them, and positions that count from 0."""
  path = tmp_path / "a"
  model_files.write(blip.half(both(), "decoder"), path, "hugging_face")
  before = rules.flatten(model_files.read(path).params)
  file = path / "model.safetensors"
  arrays = safetensors.numpy.load_file(file)
  told, table = "text_decoder.cls.predictions", "text_decoder.bert.embeddings"
  arrays[f"{told}.decoder.weight"] = arrays[f"{table}.word_embeddings.weight"]
  arrays[f"{told}.decoder.bias"] = arrays[f"{told}.bias"]
  arrays[f"{table}.position_ids"] = np.arange(LENGTH)[None]
  safetensors.numpy.save_file(arrays, file)
  after = rules.flatten(model_files.read(path).params)
  assert after.keys() == before.keys()
  arrays[f"{told}.decoder.weight"] = -arrays[f"{told}.decoder.weight"]
  safetensors.numpy.save_file(arrays, file)
  with pytest.raises(errors.UserError, match=r"predictions.decoder.weight'?;"):
    model_files.read(path)


# As transformers counts those of its classes by default, tied ones once.
PARAMETERS = {"encoder": 223_744_258, "decoder": 223_971_644}


def test_published_configs_have_these_shapes():
  """BERT's vocabulary with two more, and texts no longer than BLIP's."""
  for part in ("encoder", "decoder"):
    sparse = {"model_type": "blip", "architectures": [blip.CLASSES[part]]}
    sparse["text_config"] = {"num_attention_heads": 12}
    _, model, shapes = blip.describe(sparse, "config.json")
    assert shapes["txt/embed/embedding"] == (30524, 768)
    assert shapes["img/pos"] == (577, 768)
    text = model["text"]
    assert (text["dec_id"], text["enc_id"], text["eos_id"]) == (
      30522, 30523, 102,
    )  # fmt: skip
    assert text["variant"] == "B" and text["positions"] == 512
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    assert count == PARAMETERS[part]


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "cat", "dog", "[MASK]"]


def save(name, path):
  """A model with BERT's tokenizer, as transformers saves it."""
  peers.torch()
  import transformers

  text = {"vocab_size": 11, "bos_token_id": 9}
  make(name, text=text).save_pretrained(path)
  words = path.parent / "vocab.txt"
  words.write_text("\n".join(VOCAB))
  words = transformers.BertTokenizerFast(str(words))
  image = transformers.BlipImageProcessor(size={"height": 24, "width": 24})
  transformers.BlipProcessor(image, words).save_pretrained(path)
  return path


@pytest.fixture
def directory(tmp_path):
  return save("BlipForImageTextRetrieval", tmp_path / "hf")


TEXTS = ["A red cat", "a dog, a cat and a red dog: a cat, a cat, a dog"]


@pytest.mark.peers
def test_tokenizer_and_preprocessing_are_theirs_both_ways(directory, tmp_path):
  import transformers
  from PIL import Image

  bundle = model_files.read(directory)
  tokenizer = bundle.make_tokenizer()
  assert (tokenizer.length, tokenizer.vocab_size) == (LENGTH, 9)
  assert bundle.model["text"]["dec_id"] == 9
  model_files.write(bundle, tmp_path / "out", "hugging_face")
  r = np.random.default_rng(0)
  picture = Image.fromarray(r.integers(0, 256, (37, 50, 3)).astype(np.uint8))
  found = []
  for path in (directory, tmp_path / "out"):
    processor = transformers.AutoProcessor.from_pretrained(path)
    assert isinstance(processor, transformers.BlipProcessor)
    batch = processor(
      images=picture, text=TEXTS, padding="max_length", max_length=LENGTH,
      truncation=True, return_tensors="np",
    )  # fmt: skip
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    np.testing.assert_array_equal(tokenizer.rows(TEXTS), batch["input_ids"])
    np.testing.assert_array_equal(
      batch["attention_mask"], batch["input_ids"] != PAD
    )
    found.append(np.asarray(batch["pixel_values"]))
  np.testing.assert_array_equal(*found)
  assert model_files.read(tmp_path / "out").image == bundle.image


@pytest.mark.parametrize("part", blip.CLASSES)
@pytest.mark.peers
def test_converted_there_and_back_transformers_agrees(part, tmp_path, caplog):
  """And what the checkpoint says of pictures and texts is the same."""
  source = save(blip.CLASSES[part], tmp_path / "hf")
  found = convert.convert(str(source), str(tmp_path / "ours"))
  told = {"encoder": "text", "decoder": "captions"}[part]
  assert f"source, in its own library: {told}" in found
  found = convert.convert(str(tmp_path / "ours"), str(tmp_path / "again"))
  assert f"target, in its own library: {told}" in found
  assert "not compared" not in caplog.text
  peers.check_tensors(source, tmp_path / "again")
  r = np.random.default_rng(2)
  pictures = list(r.integers(0, 256, (3, 30, 40, 3)).astype(np.uint8))
  models = [big_contrastive.load(tmp_path / x) for x in ("hf", "ours")]
  if part == "encoder":
    both = [m.logits(pictures, TEXTS) for m in models]
    assert both[0].shape == (3, 2) and models[0].embedder.captions is None
  else:
    records = [
      {"image": x, "label": 0, "id": i} for i, x in enumerate(pictures)
    ]
    how = generation.Decoding("beam", max_tokens=6)
    spoken = [captions.bound(m.embedder, m.params, lambda: 0) for m in models]
    both = [s.generate(_Records(records), how)[1] for s in spoken]
    assert spoken[0].room() == LENGTH
    with pytest.raises(errors.UserError, match="it embeds images only"):
      models[0].encode_text(TEXTS)
  np.testing.assert_array_equal(*both)


class _Records(Source):
  def __init__(self, records):
    self._records = records

  def __len__(self):
    return len(self._records)

  def __getitem__(self, i):
    return self._records[i]


@pytest.mark.peers
def test_images_are_squashed_as_theirs():
  transformers = pytest.importorskip("transformers")
  from big_contrastive.data.transforms import operations

  peers.torch()
  from PIL import Image

  theirs = transformers.BlipImageProcessorPil(size={"height": 24, "width": 24})
  ops, mean, std = preprocessing.from_hugging_face(theirs.to_dict())
  assert (tuple(mean), tuple(std)) == (MEAN, STD)
  r = np.random.default_rng(1)
  image = r.integers(0, 256, (31, 57, 3)).astype(np.uint8)
  pixels = operations.parse(ops, "image", train=False)(image)
  wanted = theirs(Image.fromarray(image), return_tensors="np")["pixel_values"]
  wanted = np.asarray(wanted)[0].transpose(1, 2, 0) * STD + MEAN
  np.testing.assert_allclose(pixels / 255, wanted, atol=1e-5)


def test_what_their_image_processor_does_not_do_is_an_error():
  crop = [["resize_shortest", {"size": 24}], ["center_crop", {"size": 24}]]
  with pytest.raises(errors.UserError, match="BlipImageProcessor"):
    preprocessing.to_hugging_face(crop, "blip")
  square = preprocessing.to_hugging_face([["resize", {"size": 24}]], "blip")
  assert square["size"] == {"height": 24, "width": 24}
  assert "do_center_crop" not in square
  bare = {"image_processor_type": "BlipImageProcessor", "size": 24}
  ops, mean, _ = preprocessing.from_hugging_face(bare)
  assert ops[0][1]["size"] == [24, 24] and tuple(mean) == MEAN
  assert unit(jnp.ones((1, 4))).shape == (1, 4)


@pytest.mark.peers
def test_steps_of_captions_are_those_of_transformers(tmp_path):
  """Its loss with smoothed labels, and parameters after steps of SGD."""
  t, lr = peers.torch(), 0.05
  peer = make("BlipForConditionalGeneration", text={"label_smoothing": 0.1})
  peer.save_pretrained(tmp_path / "first")
  bundle = model_files.read(tmp_path / "first")
  ids = bundle.text_sizes._replace(bos_id=CLS, eos_id=SEP)
  built = bundle.build(ids)
  images, tokens = inputs()
  mesh = sharding.make_mesh(devices=jax.devices()[:2])
  setting = objectives.Setting(built, mesh, len(images), 2, 10, {}, ids)
  method = caption_objective.build(setting, smoothing=0.1)
  names = frozenset(rules.flatten(built.shapes))
  placed = step.place(
    step.Step(
      method.freeze(frozenset()), optax.sgd(lr), lambda s: lr, names, 0
    ), mesh, placement.EVERYTHING,
  )  # fmt: skip
  state = placed.init()
  where = jax.tree.map(lambda x: x.sharding, state.params)
  state = state._replace(params=jax.device_put(bundle.params, where))
  optimizer = t.optim.SGD(peer.parameters(), lr=lr)
  words = t.from_numpy(inputs(DEC)[1]).long()
  batch = sharding.to_global({"image": images, "text": tokens}, 4, mesh)
  for _ in range(3):
    loss = peer(
      pixel_values=peers.pixels(images, MEAN, STD), input_ids=words,
      attention_mask=(words != PAD).long(),
      labels=words.masked_fill(words == PAD, -100),
    ).loss  # fmt: skip
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with jax.default_matmul_precision("highest"):
      state, metrics = placed.update(state, batch)
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-4)
  peer.save_pretrained(tmp_path / "last")
  expected = rules.flatten(model_files.read(tmp_path / "last").params)
  found = rules.flatten(jax.device_get(state.params))
  start = rules.flatten(bundle.params)
  assert found.keys() == expected.keys()
  for name, value in found.items():
    np.testing.assert_allclose(
      value, expected[name], rtol=2e-3, atol=2e-4, err_msg=name
    )
  assert any(np.abs(found[k] - start[k]).max() > 1e-2 for k in found)
