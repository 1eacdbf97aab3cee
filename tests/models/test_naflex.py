"""NaFlex: images of any shape as patches, judged by transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import test_convert

import peers
import tiny
from big_contrastive import convert
from big_contrastive.config import errors
from big_contrastive.data.transforms import naflex as patches
from big_contrastive.data.transforms import operations
from big_contrastive.factory import experiment
from big_contrastive.inference.model import load
from big_contrastive.interop import formats, model_files
from big_contrastive.interop.formats import big_vision
from big_contrastive.models import naflex
from big_contrastive.models.build import build_model
from big_contrastive.models.model import merge
from big_contrastive.training import loop

PATCH, MOST = 8, 20
# Width and height: wide, high, square, tiny, one patch high, enlarged.
SIZES = [(90, 41), (37, 120), (64, 64), (3, 2), (300, 9), (16, 24)]
OPS = [["naflex", {"patch": PATCH, "most": MOST, "method": "bilinear"}]]
SMALL = {"width": 48, "depth": 2, "mlp": 80, "heads": 4}


def pictures():
  """Pictures with large patterns, so that neighbors are alike."""
  r = np.random.default_rng(0)
  coarse = [r.integers(0, 256, (6, 7, 3)).astype(np.uint8) for _ in SIZES]
  return [
    np.asarray(
      PIL.Image.fromarray(x).resize(size, PIL.Image.Resampling.BICUBIC)
    )
    for x, size in zip(coarse, SIZES, strict=True)
  ]


def packed(most=MOST):
  how = [["naflex", {"patch": PATCH, "most": most}]]
  ops = operations.parse(how, "ops", train=False)
  return np.stack([ops(x) for x in pictures()])


def model():
  """A NaFlex SigLIP of ours, far from its initial values."""
  words = test_convert.WORDS
  sections = {
    "image": {"variant": "mu/8", "res": 40, "max_patches": MOST, **SMALL},
    "text": {
      "variant": "mu", "out_dim": 48, "vocab_size": words.vocab_size, **SMALL
    },
    "scale": 4.0, "bias": -3.0,
  }  # fmt: skip
  return test_convert.filled(sections, OPS)


def theirs(seed=0):
  """A random Siglip2Model, whose table of positions is 5 x 5."""
  import transformers

  size = dict(
    hidden_size=48, num_attention_heads=4, intermediate_size=80,
    num_hidden_layers=2,
  )  # fmt: skip
  config = transformers.Siglip2Config(
    vision_config=size | {"patch_size": PATCH, "num_patches": 25},
    text_config=size | {"vocab_size": 99, "max_position_embeddings": 7},
  )
  return peers.randomise(transformers.Siglip2Model(config), seed)


def processor():
  import transformers

  return transformers.Siglip2ImageProcessorPil(
    patch_size=PATCH, max_num_patches=MOST
  )


def test_positions_are_resized_as_pillow_resizes_pictures():
  """Any grid, of more and of fewer cells than the table."""
  r = np.random.default_rng(0)
  table = r.normal(size=(6, 6, 3)).astype(np.float32)
  grid = jnp.array([(6, 6), (2, 9), (11, 1), (4, 5), (1, 1), (3, 20)])
  n = 64
  found = naflex.positions(jnp.asarray(table).reshape(36, 3), grid, n)
  real = np.asarray(naflex.real(grid, n))
  np.testing.assert_array_equal(real.sum(axis=1), grid.prod(axis=1))
  for (h, w), pos, there in zip(
    grid.tolist(), np.asarray(found), real, strict=True
  ):
    for channel in range(3):
      picture = PIL.Image.fromarray(table[..., channel])
      wanted = picture.resize((w, h), PIL.Image.Resampling.BILINEAR)
      np.testing.assert_allclose(
        pos[there, channel], np.asarray(wanted).ravel(), atol=2e-6
      )


def test_as_many_patches_as_fit_in_the_picture_s_shape():
  for size in SIZES:
    w, h = patches.fit(size, PATCH, MOST)
    assert 1 <= w * h <= MOST
    aspect = (size[0] / size[1]) / (w / h)
    if min(w, h) > 1:
      assert max(aspect, 1 / aspect) <= (1 + 1 / min(w, h)) ** 2
  assert patches.fit((64, 64), PATCH, 16) == (4, 4)
  assert patches.fit((300, 9), PATCH, MOST) == (20, 1)


def test_patches_are_the_resized_picture_cut_row_by_row():
  pixels = np.arange(16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)
  found = patches.pack(pixels, 8, 7)
  assert found.shape == (8, 64, 3)
  np.testing.assert_array_equal(found[4].reshape(8, 8, 3), pixels[8:16, 8:16])
  assert not found[6].any()
  _, grid = naflex.unpack(jnp.asarray(found[None]))
  assert grid.tolist() == [[2, 3]]
  long = patches.pack(np.zeros((8, 8 * 700, 3), np.uint8), 8, 700)
  assert naflex.unpack(jnp.asarray(long[None]))[1].tolist() == [[1, 700]]


def test_more_padding_changes_nothing():
  """The same pictures among 20 and among 45 patches of room."""
  few, pads = packed(), 25
  many = np.concatenate(
    [few[:, :-1], np.full((len(few), pads, PATCH**2, 3), 200, np.uint8),
     few[:, -1:]], axis=1,
  )  # fmt: skip
  zimg = []
  for most, images in ((MOST, few), (MOST + pads, many)):
    sections = model().model
    sections["image"]["max_patches"] = most
    graph = build_model(sections, test_convert.WORDS).graph
    params = jax.tree.map(jnp.asarray, model().params)
    towers = merge(graph, params)
    zimg.append(jax.jit(towers.embed_image)(jnp.asarray(images)))
  np.testing.assert_allclose(*zimg, atol=2e-6)
  assert np.abs(np.corrcoef(zimg[0])[0, 1]) < 0.999


def test_a_batch_of_any_shapes_trains(tmp_path):
  ops = [["naflex", {"patch": 8, "most": 12}]]
  config = tiny.load(
    "siglip", "smoke", "--config.total=2", "--config.model.image.max_patches=12"
  )
  for name in ("train_image", "eval_image"):
    config[name] = ops
  result = loop.fit(experiment.build(config), tmp_path)
  assert np.isfinite(result["train/loss"])
  found = load(str(tmp_path)).encode_image(pictures())
  assert found.shape[0] == len(SIZES) and np.isfinite(found).all()


@pytest.mark.parametrize(("changes", "said"), [
  ({"max_patches": 30}, "config.train_image .*naflex.*'most': 30"),
  ({"max_patches": None}, "config.train_image .*images of 32 x 32"),
  ({"keep": 0.5}, "config.model.image.keep = 0.5.*1.0 with max_patches"),
  ({"pool": "gap"}, "config.model.image.pool = 'gap'"),
  ({"max_patches": 0}, "config.model.image.max_patches = 0"),
])  # fmt: skip
def test_what_does_not_go_together_is_told(changes, said):
  config = tiny.load("siglip", "smoke")
  config["model"]["image"].update({"max_patches": 12} | changes)
  config["train_image"] = [["naflex", {"patch": 8, "most": 12}]]
  with pytest.raises(errors.UserError, match=said):
    experiment.build(config)


def test_255_patches_of_16_are_no_image_of_256_though_of_its_shape():
  cut = ("naflex", {"patch": 16, "most": 255})
  square = ("resize", {"size": 256})
  for given, most in ((square, 255), (cut, None)):
    config = tiny.load("siglip", "smoke")
    size = {"variant": "mu/16", "res": 256, "max_patches": most}
    config["model"]["image"].update(size)
    config["train_image"] = config["eval_image"] = [given]
    with pytest.raises(errors.UserError, match="config.*_image"):
      experiment.build(config)


@pytest.mark.parametrize(("ops", "said"), [
  ([*OPS, ("resize", {"size": 8})], "ops.0.*the last operation"),
  ([("naflex", {"patch": 8})], "ops.0..most is missing"),
  ([("naflex", {"patch": 8.0, "most": 4})], "patch = 8.0"),
])  # fmt: skip
def test_wrong_operations_are_told(ops, said):
  with pytest.raises(errors.UserError, match=said):
    operations.parse(ops, "ops", train=False)


def test_a_hugging_face_directory_and_back_is_the_same(tmp_path):
  model_files.write(model(), tmp_path / "hf", "hugging_face")
  convert.convert(str(tmp_path / "hf"), str(tmp_path / "ours"))
  convert.convert(str(tmp_path / "ours"), str(tmp_path / "again"))
  for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
    first, second = (tmp_path / d / name for d in ("hf", "again"))
    assert first.read_bytes() == second.read_bytes(), name
  assert json.loads(first.read_text())["max_num_patches"] == MOST
  loaded = load(str(tmp_path / "hf"))
  zimg = loaded.encode_image(pictures())
  ours = load(str(tmp_path / "ours"))
  np.testing.assert_array_equal(zimg, ours.encode_image(pictures()))


def test_the_image_processor_is_read_wherever_transformers_saves_it(tmp_path):
  """Version 5 saves it as a section of processor_config.json, which rules."""
  model_files.write(model(), tmp_path / "hf", "hugging_face")
  alone = tmp_path / "hf" / "preprocessor_config.json"
  whole = tmp_path / "hf" / "processor_config.json"
  classes = {"processor_class": "Siglip2Processor"}
  whole.write_text(json.dumps(classes))
  assert model_files.read(tmp_path / "hf").image == OPS
  section = json.loads(alone.read_text())
  alone.write_text(json.dumps(section | {"max_num_patches": 9}))
  section |= {"image_mean": [0.1, 0.2, 0.3]}
  whole.write_text(json.dumps(classes | {"image_processor": section}))
  for _ in range(2):
    read = model_files.read(tmp_path / "hf")
    assert read.image == OPS and read.model["image"]["max_patches"] == MOST
    assert read.model["image"]["mean"] == [0.1, 0.2, 0.3]
    alone.unlink(missing_ok=True)


@pytest.mark.peers
def test_what_their_processor_saves_is_read(tmp_path):
  peers.torch()
  import transformers

  path = tmp_path / "hf"
  model_files.write(model(), path, "hugging_face")
  (path / "preprocessor_config.json").unlink()
  words = transformers.PreTrainedTokenizerFast.from_pretrained(path)
  transformers.Siglip2Processor(
    transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=MOST),
    words,
  ).save_pretrained(path)
  assert model_files.read(path).image == OPS


def test_other_formats_hold_it_or_say_that_they_can_t(tmp_path):
  with pytest.raises(errors.UserError, match="max_patches"):
    model_files.write(model(), tmp_path / "oc", "open_clip")
  big_vision.write(model(), tmp_path / "a.npz")
  stored = np.load(tmp_path / "a.npz")
  assert stored["params/img/embedding/kernel"].shape == (PATCH**2 * 3, 48)
  assert stored["params/img/pos_embedding"].shape == (5, 5, 48)
  found = big_vision.read(tmp_path / "a.npz")
  test_convert.assert_same(found, model())
  assert found.image == [
    ["naflex", {"patch": PATCH, "most": 256, "method": "bilinear"}]
  ]


@pytest.mark.peers
def test_patches_are_those_of_transformers():
  peers.torch()
  r = np.random.default_rng(1)
  sizes = [*SIZES, *r.integers(8, 700, (30, 2)).tolist()]
  for size in sizes:
    coarse = PIL.Image.fromarray(r.integers(0, 256, (9, 9, 3)).astype(np.uint8))
    picture = coarse.resize(size)
    for most in (MOST, 256):
      ours = operations.parse(
        [["naflex", {"patch": PATCH, "most": most}]], "ops", train=False
      )(np.asarray(picture))
      wanted = processor()(
        picture, max_num_patches=most, return_tensors="np", do_rescale=False,
        do_normalize=False,
      )  # fmt: skip
      found, grid = naflex.unpack(jnp.asarray(ours[None]))
      assert grid.tolist() == wanted["spatial_shapes"].tolist(), size
      pixels = np.asarray(found).reshape(1, most, -1)
      np.testing.assert_array_equal(pixels, wanted["pixel_values"])


@pytest.mark.peers
def test_pixels_are_those_of_torchvision_but_for_a_last_digit():
  """transformers' default rounds otherwise than Pillow: by 1 of 255."""
  peers.torch()
  pytest.importorskip("torchvision")
  import transformers

  theirs = transformers.Siglip2ImageProcessor(
    patch_size=PATCH, max_num_patches=MOST, do_rescale=False, do_normalize=False
  )([x.copy() for x in pictures()], return_tensors="np")
  found, grid = naflex.unpack(jnp.asarray(packed()))
  np.testing.assert_array_equal(grid, theirs["spatial_shapes"])
  pixels = np.asarray(found, np.float32).reshape(len(SIZES), MOST, -1)
  np.testing.assert_allclose(pixels, theirs["pixel_values"], rtol=0, atol=1)


@pytest.mark.peers
def test_towers_equal_transformers_both_ways_bit_for_bit(tmp_path):
  torch = peers.torch()
  import transformers

  peer, source, target = theirs(), tmp_path / "hf", tmp_path / "out"
  peer.save_pretrained(source)
  processor().save_pretrained(source)
  read = model_files.read(source)
  assert read.model["image"]["max_patches"] == MOST and read.image == OPS
  _, tokens = peers.inputs(8, 97, 7)
  tokens = np.concatenate([tokens, tokens[:2] + 1])

  def embed(model):
    images = [PIL.Image.fromarray(x) for x in pictures()]
    prepared = processor()(images, return_tensors="pt")
    with torch.no_grad():
      out = model(**prepared, input_ids=torch.from_numpy(tokens).long())
    parts = out.image_embeds, out.text_embeds, out.logits_per_image
    return [x.numpy() for x in parts]

  wanted = embed(peer)
  assert np.abs(np.corrcoef(wanted[0])[0, 1]) < 0.999
  peers.check(peers.ours(read, packed(), tokens), wanted)
  target.mkdir()
  formats.module("hugging_face").write(read, target)
  peers.check_tensors(source, target)
  again, info = transformers.AutoModel.from_pretrained(
    target, output_loading_info=True
  )
  assert not info["missing_keys"] and not info["unexpected_keys"]
  assert embed(again.eval())[2].tolist() == wanted[2].tolist()


@pytest.mark.peers
def test_convert_asks_transformers_on_both_sides(tmp_path):
  peers.torch()
  model_files.write(model(), tmp_path / "ours", "checkpoint")
  there = tmp_path / "hf"
  told = convert.convert(str(tmp_path / "ours"), str(there))
  assert told["target, in its own library: image"] < 1e-5
  assert told["target, in its own library: logits"] < 1e-5
  told = convert.convert(str(there), str(tmp_path / "back"))
  assert told["source, in its own library: image"] < 1e-5
