"""Pixels are those of transformers' image processors and of OpenCLIP."""

import io
import itertools
import json
import pathlib
import tarfile

import numpy as np
import PIL.Image
import pytest

import peers
from big_contrastive.config import errors
from big_contrastive.data.transforms import operations
from big_contrastive.interop import preprocessing

PHOTOS = (
  pathlib.Path(__file__).parents[3] / "shared" / "data" / "grocery/images.tar"
)
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
SQUASH = [["resize", {"size": [90, 97], "method": "bicubic"}]]
SHORTEST = [
  ["resize_shortest", {"size": 96, "method": "bilinear", "rounding": "down"}],
  ["center_crop", {"size": [90, 91]}],
]
OPEN_CLIP = [
  {"size": 96, "resize_mode": "shortest", "interpolation": "bicubic"},
  {"size": 97, "resize_mode": "shortest", "interpolation": "bilinear"},
  {"size": [90, 97], "resize_mode": "squash", "interpolation": "bicubic"},
]
SIDES = ((301, 500), (64, 31), (97, 333), (225, 230), (130, 100))
NOISE = len(SIDES)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
  """Photos where there are, and noise of all shapes."""
  found = []
  if PHOTOS.exists():
    with tarfile.open(PHOTOS) as tar:
      files = (m for m in tar if m.isfile())
      some = itertools.islice(files, 0, 2400, 80)
      found = [tar.extractfile(m).read() for m in some]
  r = np.random.default_rng(0)
  for h, w in SIDES:
    out = io.BytesIO()
    pixels = r.integers(0, 256, (h, w, 3)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(out, "PNG")
    found.append(out.getvalue())
  return found


def ours(ops, mean, std, pictures) -> np.ndarray:
  run = operations.parse(ops, "ops", train=False)
  x = np.stack([run(p) for p in pictures]) / np.float32(255)
  return (x - np.float32(mean)) / np.float32(std)


@pytest.mark.parametrize("backend", ["Pil", ""])
@pytest.mark.parametrize("family", ["siglip", "clip"])
@pytest.mark.peers
def test_pixels_are_those_of_transformers_image_processors(
  family, backend, pictures
):
  peers.torch()
  transformers = pytest.importorskip("transformers")
  ops = {"siglip": SQUASH, "clip": SHORTEST}[family]
  config = preprocessing.to_hugging_face(ops, family, MEAN, STD)
  found, mean, std = preprocessing.from_hugging_face(config)
  assert (mean, std) == (MEAN, STD)
  if not backend:
    pytest.importorskip("torchvision")
    if not PHOTOS.exists():
      pytest.skip("no shared/")
  name = config["image_processor_type"] + backend
  processor = getattr(transformers, name).from_dict(
    json.loads(json.dumps(config))
  )
  images = [PIL.Image.open(io.BytesIO(p)).convert("RGB") for p in pictures]
  theirs = processor(images, return_tensors="np")["pixel_values"]
  apart = theirs.transpose(0, 2, 3, 1) - ours(found, mean, std, pictures)
  levels = np.abs(apart * np.float32(std) * 255)
  # torchvision rounds otherwise than PIL, and otherwise between its two
  # passes, which noise shows; ours are PIL's pixels.
  assert levels.max() < 1e-3 if backend else levels[:-NOISE].max() < 1.001


@pytest.mark.parametrize("config", OPEN_CLIP)
@pytest.mark.peers
def test_pixels_are_those_of_open_clips_transform(config, pictures):
  peers.torch()
  open_clip = pytest.importorskip("open_clip")
  config = config | {"mean": MEAN, "std": STD}
  ops, mean, std = preprocessing.from_open_clip(config)
  chosen = open_clip.transform.PreprocessCfg(**config)
  run = open_clip.transform.image_transform_v2(chosen, is_train=False)
  images = [PIL.Image.open(io.BytesIO(p)).convert("RGB") for p in pictures]
  theirs = np.stack([run(i).numpy().transpose(1, 2, 0) for i in images])
  np.testing.assert_allclose(
    ours(ops, mean, std, pictures), theirs, rtol=0, atol=1e-5
  )


@pytest.mark.parametrize("config", OPEN_CLIP)
def test_open_clips_section_comes_back_as_it_was(config):
  config = config | {"mean": MEAN, "std": STD, "mode": "RGB", "fill_color": 0}
  there = preprocessing.from_open_clip(config)
  assert preprocessing.to_open_clip(*there) == config


@pytest.mark.parametrize(
  ("ops", "family"), [(SQUASH, "siglip"), (SHORTEST, "clip")]
)
def test_our_operations_come_back_as_they_were(ops, family):
  config = preprocessing.to_hugging_face(ops, family, MEAN, STD)
  back = preprocessing.from_hugging_face(json.loads(json.dumps(config)))
  assert back == (ops, MEAN, STD)


def test_old_files_of_clip_mean_the_shorter_side_and_of_siglip_a_square():
  clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224}
  ops, mean, _ = preprocessing.from_hugging_face(clip)
  assert [name for name, _ in ops] == ["resize_shortest", "center_crop"]
  assert mean[0] == pytest.approx(0.4815, abs=1e-4)
  siglip = {"image_processor_type": "SiglipImageProcessor", "size": 224}
  ops, mean, std = preprocessing.from_hugging_face(siglip)
  assert ops == [["resize", {"size": [224, 224], "method": "bicubic"}]]
  assert mean == std == [0.5, 0.5, 0.5]


HUGGING_FACE = {
  "resample": {"resample": 4},
  "size": {"size": {"longest_edge": 224}},
  "do_rescale": {"do_rescale": False},
  "rescale_factor": {"rescale_factor": 1 / 127.5},
  "image_mean": {"image_mean": 0.5},
  "image_processor_type": {"image_processor_type": "BeitImageProcessor"},
}


@pytest.mark.parametrize("field", HUGGING_FACE)
def test_what_we_cannot_do_of_theirs_is_one_line(field):
  config = {"image_processor_type": "SiglipImageProcessor"}
  with pytest.raises(errors.UserError, match=field) as e:
    preprocessing.from_hugging_face(config | HUGGING_FACE[field])
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("resize_mode", "longest"),
    ("interpolation", "random"),
    ("mode", "L"),
    ("size", "224"),
    ("std", [1.0]),
  ],
)
def test_what_we_cannot_do_of_open_clips_is_one_line(field, value):
  with pytest.raises(errors.UserError, match=field):
    preprocessing.from_open_clip({field: value})


@pytest.mark.parametrize(
  "ops",
  [
    [["resize", {"size": 8, "antialias": False}]],
    [["resize", {"size": 9}], ["resize", {"size": 8}]],
    [["center_crop", {"size": 9}], ["resize", {"size": 8}]],
  ],
)
def test_what_they_cannot_do_of_ours_is_one_line(ops):
  with pytest.raises(errors.UserError, match="eval_image"):
    preprocessing.to_hugging_face(ops, "siglip")
  with pytest.raises(errors.UserError, match="eval_image"):
    preprocessing.to_open_clip(ops)
