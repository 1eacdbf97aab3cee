"""Files of CLIP's ResNets, as far as they need no other library."""

import dataclasses
import json
import types

import numpy as np
import pytest
import safetensors.numpy

from big_contrastive.config import errors, rules
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.open_clip import archive, resnet
from big_contrastive.models.build import build_model

IMAGE = {
  "tower": "clip_resnet", "variant": "RN50", "res": 64, "layers": [1, 2, 1, 1],
  "width": 8, "heads": 4, "out_dim": 20,
}  # fmt: skip
OPS = [
  ["resize_shortest",
   {"size": 64, "method": "bicubic", "rounding": "down"}],
  ["center_crop", {"size": [64, 64], "rounding": "nearest"}],
]  # fmt: skip


def bundle():
  """A CLIP with a ResNet, far from its initial values."""
  model = {
    "image": IMAGE,
    "text": {
      "variant": "mu", "pool": "argmax", "causal": True, "out_dim": 20,
      "out_bias": False, "eps": 1e-5, "activation": "quick_gelu",
      "vocab_size": 30, "positions": 9,
    },
    "scale": 4.0,
  }  # fmt: skip
  sizes = types.SimpleNamespace(
    length=9, vocab_size=30, pad_id=None, eos_id=None
  )
  r = np.random.default_rng(0)
  flat = {
    k: np.asarray(r.normal(size=s), np.float32)
    for k, s in rules.shapes(build_model(model, sizes).variables).items()
  }
  return ModelBundle(model, rules.unflatten(flat), image=OPS)


@pytest.fixture
def written(tmp_path):
  model_files.write(bundle(), tmp_path / "a", "open_clip")
  return tmp_path / "a"


def test_openclips_files_give_back_every_byte(written, tmp_path):
  model, found = bundle(), model_files.read(written)
  for one in (found, model):
    model_files.write(one, tmp_path / str(id(one)), "checkpoint")
  again = [model_files.read(tmp_path / str(id(x))) for x in (found, model)]
  for other in (found, *again):
    assert other.image == OPS
    assert resnet.sizes(other.model["image"]) == resnet.sizes(IMAGE)
    a, b = rules.flatten(model.params), rules.flatten(other.params)
    assert a.keys() == b.keys()
    for name, x in a.items():
      assert x.dtype == b[name].dtype and x.shape == b[name].shape, name
      assert x.tobytes() == np.asarray(b[name]).tobytes(), name


def test_a_convolution_has_pytorchs_axes(written):
  arrays = safetensors.numpy.load_file(written / "open_clip_model.safetensors")
  kernel = bundle().params["img"]["stem"]["conv1"]["conv"]["kernel"]
  theirs = arrays["visual.conv1.weight"]
  assert theirs.shape == (4, 3, 3, 3) and kernel.shape == (3, 3, 3, 4)
  assert theirs[3, 2, 0, 1] == kernel[0, 1, 2, 3]


def test_counters_are_of_int64_and_zero(written):
  arrays = safetensors.numpy.load_file(written / "open_clip_model.safetensors")
  counters = [v for k, v in arrays.items() if k.endswith("batches_tracked")]
  means = [k for k in arrays if k.endswith("running_mean")]
  assert len(counters) == len(means) == 22
  assert all(x.dtype == np.int64 and x == 0 for x in counters)


@pytest.mark.parametrize("format", ["hugging_face", "big_vision"])
def test_other_formats_have_no_resnet(format, tmp_path):
  with pytest.raises(errors.UserError, match="image.tower = 'clip_resnet'"):
    model_files.write(bundle(), tmp_path / "b", format)


def test_openclip_has_no_tower_of_another_file(tmp_path):
  model = bundle()
  image = model.model["image"] | {"tower": "mine.py"}
  model = dataclasses.replace(model, model=model.model | {"image": image})
  with pytest.raises(errors.UserError, match="image.tower = 'mine.py'"):
    model_files.write(model, tmp_path / "b", "open_clip")


@pytest.mark.parametrize(
  ("vision", "said"),
  [
    ({"layers": [1, 2, 1]}, "layers"),
    ({"layers": [1, 3, 1, 1]}, "visual.layer2.2.bn1.bias"),
    ({"width": "8"}, "width"),
    ({"image_size": 96}, r"positional_embedding \(5, 256\) for \(10, 256\)"),
    ({"head_width": 48}, "heads"),
  ],
)
def test_a_config_that_does_not_fit_is_one_line(vision, said, written):
  path = written / "open_clip_config.json"
  config = json.loads(path.read_text())
  config["model_cfg"]["vision_cfg"] |= vision
  path.write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match=said) as e:
    model_files.read(written)
  assert "\n" not in str(e.value)


def test_a_published_size_has_its_name_alone():
  cfg = {"layers": [3, 4, 23, 3], "width": 64, "image_size": 224}
  section = resnet.read_image({"embed_dim": 512}, cfg)
  assert section == {"tower": "clip_resnet", "variant": "RN101", "res": 224}
  other = resnet.read_image({"embed_dim": 640}, cfg | {"head_width": 32})
  assert other == section | {"out_dim": 640, "heads": 64}


def test_a_tensor_does_not_reach_past_its_storage():
  storage = np.arange(6, dtype=np.float32)
  inside = archive._tensor(storage, 1, (2, 2), (2, 1))
  np.testing.assert_array_equal(inside, [[1, 2], [3, 4]])
  for wrong in (
    (1, (2, 3), (3, 1)), (-1, (2,), (1,)), (0, (2, 2), (-1, 1)), (6, (), ()),
  ):  # fmt: skip
    with pytest.raises(ValueError, match="storage"):
      archive._tensor(storage, *wrong)
