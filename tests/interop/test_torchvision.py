"""torchvision's ResNets: state dicts in and out, against torchvision."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import big_contrastive
import peers
import tiny
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import torchvision as format
from big_contrastive.models import build
from big_contrastive.models.image import resnet
from big_contrastive.models.model import merge

OPS = [["resize", {"size": 32}]]


def filled(**fields):
  """A ResNet of ours, far from its initial values."""
  model = {"image": {"tower": "resnet", "depth": 18, "res": 32, **fields}}
  r = np.random.default_rng(0)
  flat = {
    k: np.float32(0.1 * r.normal(size=s) + k.endswith(("var", "scale")))
    for k, s in rules.shapes(build.build_model(model).variables).items()
  }
  return ModelBundle(model, rules.unflatten(flat), image=OPS)


def stored(classes=7, width=1, side=7, **more):
  """Names and arrays of torchvision's ResNet-18, by its published layout."""
  w = 64 * width
  shapes = {"conv1.weight": (w, 3, side, side), **norm("bn1", w)}
  before = w
  for i in range(4):
    after = w * 2**i
    for j in range(2):
      block = f"layer{i + 1}.{j}"
      shapes[f"{block}.conv1.weight"] = (after, before, 3, 3)
      shapes[f"{block}.conv2.weight"] = (after, after, 3, 3)
      shapes |= norm(f"{block}.bn1", after) | norm(f"{block}.bn2", after)
      if before != after:
        shapes[f"{block}.downsample.0.weight"] = (after, before, 1, 1)
        shapes |= norm(f"{block}.downsample.1", after)
      before = after
  if classes:
    shapes |= {"fc.weight": (classes, before), "fc.bias": (classes,)}
  r = np.random.default_rng(1)
  arrays = {
    k: np.asarray(r.normal(size=s), np.float32) for k, s in shapes.items()
  }
  counters = [k for k in arrays if k.endswith("running_mean")]
  for k in counters:
    name = k.replace("running_mean", "num_batches_tracked")
    arrays[name] = np.asarray(30, np.int64)
  return arrays | more


def norm(name, width):
  rows = ("weight", "bias", "running_mean", "running_var")
  return {f"{name}.{row}": (width,) for row in rows}


def save(path, arrays):
  safetensors.numpy.save_file(arrays, path)
  return path


@pytest.mark.parametrize("side", [7, 3])
def test_a_state_dict_comes_back_bit_for_bit(side, tmp_path, caplog):
  file = save(tmp_path / "a.safetensors", stored(side=side))
  model = model_files.read(file)
  assert "its classifier, fc, is left out" in caplog.text
  section = model.model["image"]
  stem, res = {7: ("imagenet", 224), 3: ("cifar", 32)}[side]
  assert (section["depth"], section["width"]) == (18, 1)
  assert (section["stem"], section["res"]) == (stem, res)
  first = stored(side=side)["conv1.weight"][5, 2, 0, 1]
  assert model.params["img"]["stem"]["conv"]["kernel"][0, 1, 2, 5] == first
  model_files.write(model, tmp_path / "b.safetensors", "torchvision")
  again = safetensors.numpy.load_file(tmp_path / "b.safetensors")
  expected = {k: v for k, v in stored(0, side=side).items()}
  assert again.keys() == expected.keys()
  for name, value in expected.items():
    if name.endswith("num_batches_tracked"):
      value = np.zeros((), np.int64)
    assert again[name].dtype == value.dtype, name
    np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.slow
def test_convert_goes_to_ours_and_back(tmp_path):
  file = save(tmp_path / "a.safetensors", stored(side=3))
  there, back = tmp_path / "ours", tmp_path / "b.safetensors"
  told = convert.convert(str(file), str(there))
  assert told == {"checkpoint, read back: image": 0}
  told = convert.convert(str(there), str(back))
  assert told == {"torchvision, read back: image": 0}
  a, b = (model_files.read(p) for p in (file, back))
  chex.assert_trees_all_equal(a.params, b.params)
  assert a.image == b.image


@pytest.mark.parametrize("out_bias", [False, True])
def test_a_file_of_ours_holds_what_a_state_dict_lacks(out_bias, tmp_path):
  model = filled(
    stem="cifar", out_dim=5, out_bias=out_bias, mean=[0, 0, 0], std=[1, 1, 1]
  )
  path = tmp_path / "a.safetensors"
  model_files.write(model, path, "torchvision")
  held = safetensors.numpy.load_file(path)
  kernel = model.params["img"]["project"]["kernel"]
  np.testing.assert_array_equal(held["fc.weight"], kernel.T)
  assert held["fc.bias"].any() == out_bias
  found = model_files.read(path)
  chex.assert_trees_all_equal(found.params, model.params)
  section = found.model["image"]
  assert section == model.model["image"] | {"width": 1}
  assert found.image == OPS


def test_heads_are_left_out(tmp_path, caplog):
  model = filled()
  model.params["projector"] = {"fc1": {"kernel": np.zeros((512, 8), "f4")}}
  model_files.write(model, tmp_path / "a.safetensors", "torchvision")
  assert "the image tower alone; left out: projector" in caplog.text
  found = model_files.read(tmp_path / "a.safetensors").params
  assert found.keys() == {"img"}


def test_what_is_no_resnet_of_theirs_is_told(tmp_path):
  whole = stored()
  for name, shape, said in [
    ("layer1.2.conv1.weight", (3,), r"blocks of .*\(3, 2, 2, 2\)"),
    ("conv1.weight", (64, 3, 5, 5), "conv1.weight of .*5, 5"),
    ("conv1.weight", (64, 4, 7, 7), "conv1.weight of .*64, 4"),
    ("head.weight", (3,), "unknown: head.weight"),
    ("layer1.0.conv1.weight", (64, 4, 3, 3), "misshapen: layer1.0.conv1"),
  ]:
    change = {name: np.zeros(shape, np.float32)}
    file = save(tmp_path / "a.safetensors", whole | change)
    with pytest.raises(errors.UserError, match=said) as e:
      model_files.read(file)
    assert "\n" not in str(e.value)
  del whole["bn1.running_var"]
  file = save(tmp_path / "a.safetensors", whole)
  with pytest.raises(errors.UserError, match="missing: bn1.running_var"):
    model_files.read(file)


@pytest.mark.parametrize(
  ("about", "said"),
  [
    ("{", "JSON"),
    ("[]", "a section with fields"),
    ('{"image": 3}', "a section with fields"),
    ('{"image": {"rez": 3}}', "config.model.image.rez"),
    ('{"image": {"tower": "nowhere.py"}}', None),
  ],
)
def test_metadata_is_checked_and_names_no_code(about, said, tmp_path):
  path = tmp_path / "a.safetensors"
  metadata = {"big_contrastive": about}
  safetensors.numpy.save_file(stored(), path, metadata=metadata)
  if said is None:
    assert model_files.read(path).model["image"]["tower"] == "resnet"
    return
  with pytest.raises(errors.UserError, match=said):
    model_files.read(path)


def test_others_can_not_be_written(tmp_path):
  path = tmp_path / "a.safetensors"
  vit = {"image": {"variant": "mu/8", "res": 16}}
  with pytest.raises(errors.UserError, match="'vit'; expected 'resnet'"):
    model_files.write(ModelBundle(vit, {"img": {}}), path, "torchvision")
  model = filled()
  model.params["txt"] = {}
  model.model["text"] = {"variant": "mu"}
  with pytest.raises(errors.UserError, match="config.model.text"):
    model_files.write(model, path, "torchvision")
  with pytest.raises(errors.UserError, match="ends with .safetensors"):
    model_files.write(filled(), tmp_path / "a.pth", "torchvision")
  for fields, said in (({"norm": "none"}, "'batch'"), ({"stages": 3}, "4")):
    with pytest.raises(errors.UserError, match=f"expected {said} in this"):
      model_files.write(filled(**fields), path, "torchvision")
  for name, place in (("big_vision", "a.npz"), ("hugging_face", "a")):
    with pytest.raises(errors.UserError, match="'vit' in this|--format"):
      model_files.write(filled(), tmp_path / place, name)


def test_only_resnets_are_recognized(tmp_path):
  clip = {f"visual.{k}": v for k, v in stored().items()}
  assert not format.recognize(save(tmp_path / "a.safetensors", clip))
  parallel = {f"module.{k}": v for k, v in stored().items()}
  file = save(tmp_path / "b.safetensors", parallel)
  assert format.recognize(file)
  model_files.read(file)
  (tmp_path / "c.pth").write_bytes(b"layer1.0.conv1")
  assert not format.recognize(tmp_path / "c.pth")
  assert not format.recognize(tmp_path)


def test_a_run_begins_with_it(tmp_path):
  file = save(tmp_path / "a.safetensors", stored(side=3))
  config = tiny.load("siglip", "smoke")
  image = {"tower": "resnet", "depth": 18, "res": 32, "stem": "cifar"}
  config["model"] |= {"image": image, "dtype": "float32"}
  config["model"]["text"]["out_dim"] = 512
  made = experiment.build(config | {"init": {"img": str(file)}, "evals": {}})
  loaded = made.load(made.placed.abstract.variables)
  params = jax.device_get(loaded["img"])
  expected = model_files.read(file).params["img"]
  chex.assert_trees_all_equal(params, expected)


# --- Against torchvision.


def torchvision(depth, seed=0):
  """Its ResNet with random weights and running statistics, in evaluation."""
  torch = peers.torch()
  pytest.importorskip("torchvision")
  from torchvision import models

  theirs = getattr(models, f"resnet{depth}")(weights=None)
  g = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, x in theirs.state_dict().items():
      if name.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "1.weight")):
        if x.ndim == 1:
          x.copy_(0.5 + torch.rand(x.shape, generator=g))
      elif name.endswith("running_var"):
        x.copy_(0.5 + torch.rand(x.shape, generator=g))
      elif name.endswith(("running_mean", "bias")):
        x.copy_(0.3 * torch.randn(x.shape, generator=g))
  return theirs.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("depth", "suffix"), [(18, ".pth"), (50, ".safetensors")]
)
@pytest.mark.peers
def test_features_are_torchvisions(depth, suffix, tmp_path):
  theirs = torchvision(depth)
  path = tmp_path / f"a{suffix}"
  torch = sys.modules["torch"]
  if suffix == ".pth":
    torch.save(theirs.state_dict(), path)
  else:
    import safetensors.torch

    safetensors.torch.save_file(theirs.state_dict(), path)
  model = model_files.read(path)
  assert model.model["image"]["depth"] == depth
  r = np.random.default_rng(0)
  images = r.integers(0, 256, (2, 70, 70, 3)).astype(np.uint8)
  grids = []
  theirs.layer4.register_forward_hook(lambda *args: grids.append(args[-1]))
  theirs.fc = torch.nn.Identity()
  with torch.no_grad():
    pooled = theirs(peers.pixels(images, resnet.MEAN, resnet.STD)).numpy()
  tokens = grids[0].permute(0, 2, 3, 1).reshape(2, -1, pooled.shape[1]).numpy()
  tower = merge(model.build().graph, jax.tree.map(jnp.asarray, model.params))
  found = jax.jit(lambda x: tower.features(x))(jnp.asarray(images))
  assert tokens.shape == found.tokens.shape and np.abs(pooled).max() > 1e-2
  for ours, other in ((found.tokens, tokens), (found.pooled, pooled)):
    scale = np.abs(other).max()
    np.testing.assert_allclose(ours, other, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.peers
def test_every_depth_has_the_names_and_shapes_of_torchvision(depth):
  peers.torch()
  pytest.importorskip("torchvision")
  import torch
  from torchvision import models

  with torch.device("meta"):
    theirs = getattr(models, f"resnet{depth}")(weights=None).state_dict()
  section = {"tower": "resnet", "depth": depth, "res": 32, "out_dim": 1000}
  model = {"image": section | {"out_bias": True}}
  shapes = rules.shapes(build.build_model(model).variables)
  names = format.mapping.names(format._rows(depth), shapes)
  expected = {k: tuple(v.shape) for k, v in theirs.items()}
  assert names == format.mapping.without_counters(expected)


@pytest.mark.slow
@pytest.mark.parametrize("out_dim", [None, 1000])
@pytest.mark.peers
def test_torchvision_takes_ours(out_dim, tmp_path):
  theirs = torchvision(18)
  import safetensors.torch
  import torch

  path = tmp_path / "a.safetensors"
  model = filled(stem="imagenet", out_dim=out_dim)
  model_files.write(model, path, "torchvision")
  if out_dim is None:
    theirs.fc = torch.nn.Identity()
  theirs.load_state_dict(safetensors.torch.load_file(path))
  images, _ = peers.inputs(32, 9, 9)
  with torch.no_grad():
    z = theirs(peers.pixels(images, resnet.MEAN, resnet.STD)).numpy()
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  found = big_contrastive.load(path).encode_image(list(images))
  np.testing.assert_allclose(found, z, atol=1e-5)
