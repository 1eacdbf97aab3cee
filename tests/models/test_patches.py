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


def test_in_training_a_patch_keeps_one_color_and_the_others_are_gray():
  """Each channel as often, with the noise of the paper; else nothing."""
  r = np.random.default_rng(0)
  x = jnp.asarray(r.normal(size=(600, 8, 8, 3)) * [0.5, 1, 2] + 3, jnp.float32)
  keys = jax.random.split(jax.random.key(0), 600)

  def of(x, p):
    return np.asarray(
      jax.vmap(lambda x, k: patches.augmented(x, k, drop_colors=p, jitter=0))(
        x, keys
      )
    )

  found = of(x, 1.0)
  same = (found == x).all((1, 2))
  assert (same.sum(1) == 1).all()
  # 200 of 600; a standard deviation is 11.5.
  assert np.abs(same.sum(0) - 200).max() < 50
  for channel in range(3):
    rows = found[same[:, channel]]
    left = np.delete(rows, channel, axis=-1)
    assert abs(left.mean()) < 0.01
    std = rows[..., channel].std((1, 2)).mean()
    assert left.std() == pytest.approx(std / 100, rel=0.05)
  half = (of(x, 0.25) == x).all((1, 2, 3))
  assert abs(half.sum() - 450) < 50
  # Of bytes it is rounded.
  image = jnp.asarray(r.integers(0, 256, (600, 8, 8, 3)), jnp.uint8)
  found = of(image, 1.0)
  same = (found == image).all((1, 2))
  assert found.dtype == np.uint8 and (same.sum(1) == 1).all()
  gray = np.abs(found - 127.5)[np.broadcast_to(~same[:, None, None], x.shape)]
  assert gray.max() < 5


def test_in_training_a_patch_moves_and_what_it_lacks_is_gray():
  x = jnp.arange(8 * 8 * 3, dtype=jnp.uint8).reshape(8, 8, 3)
  keys = jax.random.split(jax.random.key(1), 300)
  found = np.asarray(
    jax.vmap(lambda k: patches.augmented(x, k, drop_colors=0.0, jitter=3))(keys)
  )
  places = {
    (top, left): np.pad(
      x[top : top + 5, left : left + 5], ((1, 2), (1, 2), (0, 0)),
      constant_values=128,
    )
    for top in range(4) for left in range(4)
  }  # fmt: skip
  hits = {
    at: sum(np.array_equal(want, y) for y in found)
    for at, want in places.items()
  }
  # Of 16 places each has 19 of 300; a standard deviation is 4.2.
  assert sum(hits.values()) == 300
  assert 4 < min(hits.values()) <= max(hits.values()) < 40


def test_each_patch_changes_by_itself_and_only_in_training():
  """The same whatever other images there are; evaluation sees all as it is."""
  plain, image = tower(), jnp.asarray(images(2))
  how = {"drop_colors": 1.0, "jitter": 2}
  section = {"tower": PLAIN}
  model = patches.Patches(
    RES, grid=GRID, patch=section, rngs=nnx.Rngs(0), **how
  )
  np.testing.assert_array_equal(model(image), plain(image))
  keys = jax.random.split(jax.random.key(0), 2)
  z = model.of_patches(model.cut(image), keys)
  alone = model.of_patches(model.cut(image[1:]), keys[1:])
  np.testing.assert_allclose(alone[0], z[1], atol=1e-6)
  assert np.abs(z - plain.of_patches(plain.cut(image), keys)).max() > 1e-2
  # Patches alike do not stay alike.
  gray = jnp.full((1, RES, RES, 3), 40, jnp.uint8)
  z = model.of_patches(model.cut(gray), keys[:1]).reshape(GRID**2, -1)
  assert len(np.unique(np.round(z, 4), axis=0)) > 2
  pooled = model.features(image, keys).pooled
  np.testing.assert_allclose(pooled, model(image, keys), atol=1e-6)


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
    ({"drop_colors": 1.1}, "image.drop_colors = 1.1; expected a probability"),
    ({"drop_colors": float("nan")}, "image.drop_colors = nan"),
    ({"jitter": 10}, "image.jitter = 10; expected a whole number from 0 to 9"),
    ({"jitter": -1}, "image.jitter = -1"),
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
