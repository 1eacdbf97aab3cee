"""Color spaces, and the tower that sees lightness and color apart."""

import jax
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.models import build, colors
from big_contrastive.models.model import merge
from color_formulas import NORMS, SPACES, normalized

# Published constants are rounded: 7.787 for 841 / 108; YDbDr's to 3 digits.
ATOL = {"lab": 1e-3, "ycbcr": 1e-3, "ydbdr": 2e-3}


@pytest.mark.parametrize("space", SPACES)
def test_colors_are_those_of_the_definition(space):
  r = np.random.default_rng(0)
  image = r.integers(0, 256, (2, 8, 8, 3), np.uint8)
  image[0, 0, :4] = [[0] * 3, [255] * 3, [1, 2, 3], [10, 9, 0]]
  found = colors.normalized(image, space)
  assert found.dtype == np.float32
  std = np.array(NORMS[space][1])
  error = np.abs(found - normalized(image, space)) * std
  assert error.max() < ATOL[space]


def test_well_known_colors():
  """Of sRGB's corners, as tables have them."""
  corners = np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
  want = [
    [100, 0, 0],
    [0, 0, 0],
    [53.24, 80.09, 67.20],
    [32.30, 79.19, -107.86],
  ]
  np.testing.assert_allclose(colors.lab(corners), want, atol=0.02)
  want = [
    [235, 128, 128],
    [16, 128, 128],
    [81.48, 90.20, 240],
    [40.97, 240, 109.79],
  ]
  np.testing.assert_allclose(colors.ycbcr(corners), want, atol=0.01)


@pytest.mark.peers
def test_colors_are_scikit_images():
  color = pytest.importorskip("skimage.color")
  image = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), np.uint8)
  for name, space in colors.SPACES.items():
    theirs = getattr(color, f"rgb2{name}")(image[0])
    found = space.of(image[0].astype(np.float32) / 255)
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=2e-4)


CONVNET = {
  "tower": "convnet",
  "widths": [8],
  "depths": [0],
  "out_dim": 6,
}
RESNET = {"tower": "resnet", "depth": 18, "width": 0.125, "stem": "cifar"}


def two(each, **fields):
  image = {"tower": "two_colors", "res": 16, "each": each, **fields}
  return build.build_model({"image": image})


def test_each_tower_sees_its_own_channels():
  built = two(CONVNET)
  img, width = built.abstract.img, CONVNET["out_dim"]
  assert img.out_dim == 2 * width and img.widths == (width, width)
  assert img.flops(True) == img.light.flops(True) + img.color.flops(True)
  shape = jax.ShapeDtypeStruct((2, 16, 16, 3), np.uint8)
  features = jax.eval_shape(lambda img, x: img.features(x), img, shape)
  assert features.pooled.shape == (2, 16) and features.mask is None
  assert features.tokens.shape == (2, 64, 16)
  graph = built.graph
  variables = built.init(jax.random.key(0)), built.init_statistics()
  run = jax.jit(lambda x: merge(graph, *variables).img(x))
  floats = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("f4")
  z = run(floats)
  assert z.shape == (2, 2 * width)
  for channel, at in ((0, slice(None, width)), (2, slice(width, None))):
    other = floats.copy()
    other[..., channel] += 1
    moved = np.abs(run(other) - z) > 1e-3
    assert moved[:, at].any() and moved.sum() == moved[:, at].sum()


def test_cmcs_resnet_of_half_width_has_a_stem_of_64():
  each = {"tower": "resnet", "depth": 18, "width": 0.5, "stem_width": 64}
  shapes = two(each | {"out_dim": 128, "out_bias": True}).shapes["img"]
  assert shapes["light"]["stem"]["conv"]["kernel"].shape == (7, 7, 1, 64)
  assert shapes["color"]["stem"]["conv"]["kernel"].shape == (7, 7, 2, 64)
  assert shapes["light"]["project"]["kernel"].shape == (256, 128)
  assert shapes["light"]["project"]["bias"].shape == (128,)
  first = shapes["light"]["stage1"]["block0"]
  assert first["conv1"]["conv"]["kernel"].shape == (3, 3, 64, 32)
  assert first["shortcut"]["conv"]["kernel"].shape == (1, 1, 64, 32)


@pytest.mark.parametrize(
  ("each", "fields", "said"),
  [
    ({"tower": "vit"}, {}, "image.each.tower = 'vit'; expected a tower that"),
    ({}, {}, "image.each.tower"),
    (
      RESNET | {"width": 0.3},
      {},
      "image.each.width = 0.3; expected a multiple",
    ),
    (RESNET | {"width": 0}, {}, "image.each.width = 0"),
    (CONVNET | {"widths": []}, {}, "image.each.widths"),
    (CONVNET | {"wide": 3}, {}, "image.each.wide = 3"),
    (CONVNET, {"space": "rgb"}, "image.space = 'rgb'; expected one of"),
    (CONVNET | {"in_channels": 2}, {}, "each.in_channels = 2"),
  ],
)
def test_a_wrong_field_is_named(each, fields, said):
  with pytest.raises(errors.UserError, match=said):
    two(each, **fields)


def test_an_image_has_three_channels():
  image = {"tower": "convnet", "res": 16, "in_channels": 1}
  with pytest.raises(
    errors.UserError, match="image.in_channels = 1; expected 3"
  ):
    build.build_model({"image": image})
