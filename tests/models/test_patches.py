"""The tower over patches: what it cuts, and how it puts them together."""

import pathlib

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.models.build import build_model
from big_contrastive.models.image import patches

PLAIN = str(pathlib.Path(__file__).parents[1] / "plain_tower.py")
RES, GRID, HALF = 20, 4, 4


def tower(**patch):
  section = {"tower": PLAIN} | patch
  return patches.Patches(RES, grid=GRID, patch=section, rngs=nnx.Rngs(0))


def images(b=3):
  r = np.random.default_rng(0)
  return r.integers(0, 256, (b, RES, RES, 3)).astype(np.uint8)


def cut(image, y, x):
  """The patch in row y and column x."""
  rows, columns = (slice(HALF * i, HALF * (i + 2)) for i in (y, x))
  return image[:, rows, columns]


def test_patches_overlap_by_half_and_stay_bytes():
  image = images()
  found = tower().cut(jnp.asarray(image))
  assert found.shape == (3, GRID, GRID, 2 * HALF, 2 * HALF, 3)
  assert found.dtype == jnp.uint8
  for y in range(GRID):
    for x in range(GRID):
      np.testing.assert_array_equal(found[:, y, x], cut(image, y, x))
  # The last one ends where the image does.
  np.testing.assert_array_equal(found[:, -1, -1], image[:, -8:, -8:])


def test_the_vector_is_the_mean_of_patches_seen_alone():
  model, image = tower(), images()
  alone = np.stack([
    np.stack([model.patch(cut(image, y, x)) for x in range(GRID)], 1)
    for y in range(GRID)
  ], 1)  # fmt: skip
  grid = model.of_patches(model.cut(jnp.asarray(image)))
  np.testing.assert_allclose(grid, alone, atol=1e-6)
  mean = alone.mean((1, 2))
  np.testing.assert_allclose(model(jnp.asarray(image)), mean, atol=1e-6)
  features = model.features(jnp.asarray(image))
  np.testing.assert_allclose(features.pooled, mean, atol=1e-6)
  rows = alone.reshape(3, GRID**2, -1)
  np.testing.assert_allclose(features.tokens, rows, atol=1e-6)
  assert np.ptp(rows, axis=1).min() > 1e-3


def test_each_patch_draws_its_own_numbers_of_its_image():
  model = tower(noise=1.0)
  gray = jnp.full((2, RES, RES, 3), 90, jnp.uint8)
  keys = jax.random.split(jax.random.key(0), 2)
  z = model.of_patches(model.cut(gray), keys).reshape(2, GRID**2, -1)
  distances = jnp.abs(z[:, None] - z[:, :, None]).max(-1)
  assert (distances + jnp.eye(GRID**2)[None] > 1e-3).all()
  alone = model.of_patches(model.cut(gray[1:]), keys[1:])
  np.testing.assert_allclose(alone.reshape(GRID**2, -1), z[1], atol=1e-5)


def test_it_costs_its_patches():
  model = tower()
  assert model.flops(True) == GRID**2 * model.patch.flops(True)
  assert model.takes == (RES, RES) and model.out_dim == 8


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"res": 21}, r"image.res = 21; expected a multiple of .* 5. 20 is one"),
    ({"res": 3}, "image.res = 3; .* 5 is one"),
    ({"grid": 1}, "image.grid = 1"),
    ({"patch": None}, "image.patch = None; expected a section"),
    ({"patch": {"tower": "resnot"}}, "image.patch.tower = 'resnot'"),
    ({"patch": {"tower": "resnet", "depht": 18}}, "image.patch.depht = 18"),
    ({"patch": {"tower": "resnet"}}, "Set config.model.image.patch.depth"),
    ({"patch": {"tower": PLAIN, "res": 8}}, "image.patch.res = 8"),
    ({"patch": {"tower": "convnet"}}, "image.patch.res = 10"),
    ({"patch": {"tower": "vectors", "width": 4}}, "patch.tower = 'vectors'"),
    (
      {"patch": {"variant": "mu/5", "max_patches": 4}},
      "image.patch.tower = 'vit'; expected a tower of images of one size",
    ),
  ],
)
def test_a_wrong_field_is_one_line(fields, said):
  section = {"tower": "patches", "res": 25, "grid": 4, "patch": {}} | fields
  with pytest.raises(errors.UserError, match=said):
    build_model({"image": section})


def test_a_missing_tower_is_named():
  with pytest.raises(errors.UserError, match="image.patch is missing"):
    build_model({"image": {"tower": "patches", "res": 25}})
