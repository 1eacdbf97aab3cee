"""config.init: a whole model or one tower to begin with."""

import dataclasses
import logging
import types

import numpy as np
import PIL.Image
import pytest
import test_big_vision
import test_convert

import tiny
from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment, warm_start
from big_contrastive.interop import model_files, resample
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.training import loop


def begin(config):
  """The parameters that training would begin with, flat; nothing compiles."""
  built = experiment.build(config)
  return built, rules.flatten(built.load(built.placed.abstract.params))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
  """A checkpoint with an activation that is no default, and its arrays."""
  workdir = tmp_path_factory.mktemp("siglip") / "workdir"
  changes = [f"--config.model.{t}.activation=gelu" for t in ("image", "text")]
  config = tiny.load("siglip", "smoke", *changes)
  built = experiment.build(config)
  r = np.random.default_rng(0)
  flat = {
    k: np.asarray(r.normal(size=shape), np.float32)
    for k, shape in rules.shapes(built.placed.abstract.params).items()
  }
  words = built.tokenizer
  model = ModelBundle(
    config["model"], rules.unflatten(flat), words.spec, words.blob,
    config["eval_image"],
  )  # fmt: skip
  model_files.write(model, workdir, "checkpoint")
  return workdir, flat


def test_a_whole_model_comes_with_its_section_and_tokenizer(siglip):
  workdir, flat = siglip
  config = tiny.load("finetune", f"smoke,init={workdir},res=32")
  built, params = begin(config)
  assert params.keys() == flat.keys()
  for name, value in flat.items():
    np.testing.assert_array_equal(params[name], value, name)
  model = built.meta(0)["config"]["model"]
  assert model["text"]["activation"] == model["image"]["activation"] == "gelu"
  assert model["dtype"] == "bfloat16"
  assert built.tokenizer.spec["length"] == 32


def test_nothing_decays_when_a_pretrained_model_is_tuned(siglip):
  config = tiny.load("finetune", f"smoke,init={siglip[0]},res=32")
  names = experiment.build(config).placed.abstract.params
  decay = rules.match(config["decay"], rules.flatten(names), "config.decay")
  assert set(decay.values()) == {0.0}


def test_positions_of_another_resolution_and_text_length(siglip, caplog):
  workdir, flat = siglip
  config = tiny.load(
    "finetune", f"smoke,init={workdir},res=48", "--config.tokenizer.length=8"
  )
  with caplog.at_level(logging.WARNING):
    _, params = begin(config)
  np.testing.assert_array_equal(params["txt/pos"], flat["txt/pos"][:8])
  wide = resample.grid(flat["img/pos"], 6)
  np.testing.assert_array_equal(params["img/pos"], wide)
  same = params.keys() - {"img/pos", "txt/pos"}
  assert all(np.array_equal(params[k], flat[k]) for k in same)
  assert "img/pos, learned for 16 positions, resampled for 36" in caplog.text
  assert "txt/pos, learned for 32 positions, cut for 8" in caplog.text


@pytest.mark.parametrize("side", [2, 3, 8, 11])
def test_positions_are_resampled_as_pillow_resizes_pictures(side):
  """Bilinear with antialiasing, half-pixel centers: what Pillow's is."""
  array = np.random.default_rng(0).normal(size=(36, 5)).astype("f4")
  found = resample.grid(array, side).reshape(side, side, 5)
  for channel in range(5):
    picture = PIL.Image.fromarray(array.reshape(6, 6, 5)[..., channel])
    size, kind = (side, side), PIL.Image.Resampling.BILINEAR
    expected = np.asarray(picture.resize(size, kind))
    np.testing.assert_allclose(found[..., channel], expected, atol=5e-6)


def test_all_that_does_not_fit_is_told_at_once(siglip):
  workdir, _ = siglip
  changes = ["--config.tokenizer.length=64", "--config.model.image.depth=2"]
  config = tiny.load("finetune", f"smoke,init={workdir},res=32", *changes)
  with pytest.raises(errors.UserError) as e:
    experiment.build(config)
  said = str(e.value)
  assert "txt/pos (32, 32) for (64, 32)" in said
  assert "img/encoder/blocks/norm1/scale (1, 32) for (2, 32)" in said
  assert str(workdir) in said and "\n" not in said


def test_a_bias_is_taken_or_left_as_config_model_says(siglip, caplog):
  workdir, flat = siglip
  config = tiny.load(
    "finetune", f"smoke,init={workdir},res=32,loss=softmax",
    "--config.model.bias=None",
  )  # fmt: skip
  with caplog.at_level(logging.WARNING):
    _, params = begin(config)
  assert "b" not in params and "bias is left out" in caplog.text
  np.testing.assert_array_equal(params["t"], flat["t"])


@pytest.mark.parametrize(
  "variant, sizes",
  [
    ("S/16", {"width": 32, "depth": 2, "mlp": 64, "heads": 2}),
    ("RN50", {"width": 16, "layers": [1, 1, 1, 1], "heads": 2}),
  ],
)
def test_sizes_stay_with_their_variant(variant, sizes):
  bundle = types.SimpleNamespace(model={"image": {"variant": variant, **sizes}})
  same = warm_start.model_with(bundle, "init", {"image": {"res": 64}})
  assert same["image"] == {"variant": variant, "res": 64, **sizes}
  other = warm_start.model_with(bundle, "init", {"image": {"variant": "other"}})
  assert other["image"] == {"variant": "other"}


def test_one_tower_of_another_resolution(siglip):
  workdir, flat = siglip
  config = tiny.load("lit", f"smoke,pool=map,init={workdir}")
  config["model"]["image"]["activation"] = "gelu"
  config["model"]["image"]["res"] = 48
  config["train_image"] = config["eval_image"] = [("resize", {"size": 48})]
  _, params = begin(config)
  assert params["img/pos"].shape == (36, 32)
  probe = "img/head/probe"
  np.testing.assert_array_equal(params[probe], flat[probe])


def test_a_tower_that_was_made_to_compute_otherwise_is_told(siglip, caplog):
  config = tiny.load("siglip", "smoke") | {"init": {"img": str(siglip[0])}}
  begin(config)
  told = [r.getMessage() for r in caplog.records if "trained" in r.getMessage()]
  assert len(told) == 1 and "'gelu'" in told[0]
  assert "config.model.image.activation is 'gelu_tanh'" in told[0]
  caplog.clear()
  config["model"]["image"]["activation"] = "gelu"
  begin(config)
  assert "trained" not in caplog.text


def test_finetune_trains_and_its_checkpoint_says_with_what(siglip, tmp_path):
  config = tiny.load("finetune", f"smoke,init={siglip[0]},res=32")
  config["total"] = "2 steps"
  config["evals"] = {}
  result = loop.fit(experiment.build(config), tmp_path)
  assert np.isfinite(result["train/loss"])
  meta = checkpointer.read_meta(find.find(str(tmp_path), "x"))
  assert meta["config"]["init"] == str(siglip[0])
  assert meta["config"]["model"]["image"]["activation"] == "gelu"


@pytest.mark.slow
def test_a_hugging_face_directory_begins_a_run(one_device, tmp_path):
  source = test_convert.model()
  model_files.write(source, tmp_path / "hf", "hugging_face")
  config = tiny.load("finetune", f"smoke,init={tmp_path / 'hf'},res=16")
  config |= {"total": "2 steps", "evals": {}}
  built, params = begin(config)
  flat = rules.flatten(source.params)
  assert params.keys() == flat.keys()
  for name, value in flat.items():
    np.testing.assert_array_equal(params[name], value, name)
  told = "two cats and a red dog"
  np.testing.assert_array_equal(built.tokenizer(told), test_convert.WORDS(told))
  result = loop.fit(built, tmp_path / "run")
  assert np.isfinite(result["train/loss"])


def test_an_npz_needs_a_tokenizer_beside_it(tmp_path):
  rows = {"txt/Embed_0/embedding": (300, 48)}
  shapes = test_big_vision.two_towers(
    test_big_vision.TINY, (48, 2, 96, 4), 300, 8, 8, 4
  )
  stored = test_big_vision.arrays(shapes | rows)
  file = test_big_vision.save(tmp_path / "a.npz", stored)
  config = tiny.load("finetune", f"smoke,init={file},res=32")
  with pytest.raises(errors.UserError, match="holds no tokenizer"):
    experiment.build(config)
  config["tokenizer"] = {"kind": "bytes", "length": 8}
  built, params = begin(config)
  assert built.config["model"]["text"]["vocab_size"] == 300
  pos = stored["txt/pos_embedding"][0]
  np.testing.assert_array_equal(params["txt/pos"], pos)
  last = stored["img/Transformer/encoderblock_2/MlpBlock_0/Dense_1/bias"]
  np.testing.assert_array_equal(
    params["img/encoder/blocks/mlp/fc2/bias"][2], last
  )


def test_longer_texts_have_positions_if_they_are_asked_for(siglip, caplog):
  """Of 32: long_clip keeps 20, and of 44 = 20 + 2 * 12 each second one."""
  workdir, flat = siglip
  long = "--config.tokenizer.length=44"
  config = tiny.load("finetune", f"smoke,init={workdir},res=32", long)
  with pytest.raises(errors.UserError, match="more with config.long_texts"):
    begin(config)
  config["long_texts"] = "long_clip"
  with caplog.at_level(logging.WARNING):
    _, params = begin(config)
  assert "learned for 32 positions, long_clip: for 44" in caplog.text
  old, new = flat["txt/pos"], params["txt/pos"]
  np.testing.assert_array_equal(new[:20], old[:20])
  np.testing.assert_allclose(new[20::2], old[20:], rtol=1e-6)
  np.testing.assert_allclose(new[21:43:2], (old[20:31] + old[21:]) / 2, 1e-5)
  with pytest.raises(errors.UserError, match="long_texts = 'long'; .*long_cl"):
    experiment.build(config | {"long_texts": "long"})
  with pytest.raises(errors.UserError, match="None without config.init"):
    experiment.build(tiny.load("siglip", "smoke") | {"long_texts": "long_clip"})


def test_long_clip_makes_248_positions_of_77():
  """A loop of the paper's formula: four places from each to the next."""
  pos = np.random.default_rng(0).normal(size=(77, 5))
  wanted = [*pos[:20]]
  for i in range(20, 77):
    step = pos[i + 1] - pos[i] if i < 76 else pos[i] - pos[i - 1]
    wanted += [pos[i] + k * step / 4 for k in range(4)]
  found = resample.stretched(pos, 248, 20)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "size"), [(8, 16), (8, 11), (2, 5)])
def test_interpolation_is_that_of_pixels_with_centers(n, size):
  pos = np.random.default_rng(0).normal(size=(n, 3))
  found = resample.stretched(pos, size, 0)
  at = [np.clip((j + 0.5) * n / size - 0.5, 0, n - 1) for j in range(size)]
  wanted = [np.interp(at, range(n), column) for column in pos.T]
  np.testing.assert_allclose(found, np.transpose(wanted), atol=1e-12)


@pytest.mark.peers
def test_interpolation_is_that_of_open_clip():
  torch = pytest.importorskip("torch")
  pos = np.random.default_rng(0).normal(size=(77, 3))
  theirs = torch.nn.functional.interpolate(
    torch.tensor(pos.T[None]), size=120, mode="linear", align_corners=False
  )
  found = resample.stretched(pos, 120, 0)
  np.testing.assert_allclose(found, theirs[0].numpy().T, atol=1e-9)


def test_a_token_behind_the_text_keeps_its_position():
  pos = np.random.default_rng(0).normal(size=(31, 3)).astype(np.float32)
  found = resample.positions(
    "txt/pos", pos, (51, 3), "x", last=True, long_texts="long_clip"
  )
  np.testing.assert_array_equal(found[-1], pos[-1])
  np.testing.assert_array_equal(
    found[:-1], resample.stretched(pos[:-1], 50, 20)
  )


@pytest.mark.parametrize(
  ("rows", "how", "fits"),
  [(21, "long_clip", False), (22, "long_clip", True), (1, "interpolate", False),
   (2, "interpolate", True), (40, None, False)],
)  # fmt: skip
def test_too_few_positions_are_an_error(rows, how, fits):
  stored = {"txt": {"pos": np.zeros((rows, 3), np.float32)}}
  expected = {"txt": {"pos": np.zeros((50, 3), np.float32)}}
  if fits:
    read = resample.fit(stored, expected, "x", how)
    assert read()["txt"]["pos"].shape == (50, 3)
    return
  with pytest.raises(errors.UserError, match="weights of x = 'txt/pos"):
    resample.fit(stored, expected, "x", how)


def test_an_init_that_is_not_there_is_told():
  config = tiny.load("finetune", "smoke,init=nowhere,res=32")
  with pytest.raises(errors.UserError, match="'nowhere'.*No such file"):
    experiment.build(config)


def test_an_init_of_another_type_is_told():
  config = tiny.load("siglip", "smoke")
  with pytest.raises(errors.UserError, match="config.init = 3"):
    experiment.build(config | {"init": 3})


def test_a_converted_model_without_a_tokenizer_begins_a_run(tmp_path):
  source = test_convert.model()
  bare = dataclasses.replace(source, tokenizer={}, blob=b"")
  model_files.write(bare, tmp_path / "ours", "checkpoint")
  config = tiny.load("finetune", f"smoke,init={tmp_path / 'ours'},res=16")
  with pytest.raises(errors.UserError, match="holds no tokenizer"):
    experiment.build(config)
  with pytest.raises(errors.UserError, match="holds no tokenizer"):
    words = {"kind": "checkpoint", "path": str(tmp_path / "ours")}
    experiment.build(config | {"tokenizer": words})
  config["tokenizer"] = {"kind": "bytes", "length": 9}
  _, params = begin(config)
  for name, value in rules.flatten(source.params).items():
    np.testing.assert_array_equal(params[name], value, name)


def test_an_image_tower_alone_is_one_tower_of_a_run(siglip, tmp_path):
  workdir, flat = siglip
  whole = model_files.read(workdir)
  sections = {"image": whole.model["image"]}
  alone = ModelBundle(sections, {"img": whole.params["img"]}, image=whole.image)
  model_files.write(alone, tmp_path / "alone", "checkpoint")
  _, params = begin(
    tiny.load("siglip", "smoke") | {"init": {"img": str(tmp_path / "alone")}}
  )
  for name in (k for k in flat if k.startswith("img/")):
    np.testing.assert_array_equal(params[name], flat[name], name)
  config = tiny.load("finetune", f"smoke,init={tmp_path / 'alone'},res=32")
  config["tokenizer"] = {"kind": "bytes", "length": 9}
  with pytest.raises(errors.UserError, match="image tower alone") as e:
    experiment.build(config)
  assert "\n" not in str(e.value)
