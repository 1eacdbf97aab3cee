"""Positions of images of another size than the tower was built for."""

import math

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.models import positions
from big_contrastive.models.image import vit

WAYS = ("clean", "dino", "antialias")


def cubic(x, a):
  """Keys' convolution kernel (1981), of a number."""
  x = abs(x)
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def by_loops(line, size, how):
  """One axis, place by place, in float64."""
  side, out = len(line), []
  step = side / (size + 0.1) if how == "dino" else side / size
  for i in range(size):
    center = (i + 0.5) * step - 0.5
    if how == "antialias":
      wide = max(1.0, step)
      weight = [cubic((j - center) / wide, -0.5) for j in range(side)]
      out.append(sum(w * x for w, x in zip(weight, line)) / sum(weight))
    else:
      first = math.floor(center)
      out.append(sum(
        cubic(j - center, -0.75) * line[min(max(j, 0), side - 1)]
        for j in range(first - 1, first + 3)
      ))  # fmt: skip
  return out


def table(side=7, width=3):
  return np.random.default_rng(0).normal(size=(side**2, width))


@pytest.mark.parametrize("grid", [(3, 3), (7, 4), (11, 9)])
@pytest.mark.parametrize("how", WAYS)
def test_positions_are_resized_by_rows_and_by_columns(how, grid):
  x = table()
  got = positions.resized(jnp.asarray(x, jnp.float32), grid, how)
  x = x.reshape(7, 7, 3)
  x = np.apply_along_axis(by_loops, 0, x, grid[0], how)
  x = np.apply_along_axis(by_loops, 1, x, grid[1], how)
  np.testing.assert_allclose(got, x.reshape(-1, 3), atol=2e-6)


@pytest.mark.peers
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("grid", [(6, 6), (14, 20), (30, 30)])
def test_positions_are_those_of_torch(how, grid):
  torch = pytest.importorskip("torch")
  x = np.float32(table(14, 5))
  size = {"size": grid}
  if how == "dino":  # vision_transformer.py, interpolate_pos_encoding.
    size = {"scale_factor": tuple((n + 0.1) / 14 for n in grid)}
  square = torch.from_numpy(x.reshape(1, 14, 14, 5)).permute(0, 3, 1, 2)
  want = torch.nn.functional.interpolate(
    square, **size, mode="bicubic", antialias=how == "antialias"
  )
  want = want.permute(0, 2, 3, 1).reshape(-1, 5)
  got = positions.resized(jnp.asarray(x), grid, how)
  np.testing.assert_allclose(got, want.numpy(), atol=5e-6)


def tower(res, **changes):
  changes = {"pool": "tok", "cls_pos": True} | changes
  return vit.ImageTower("mu/8", res, **changes, rngs=nnx.Rngs(0))


def images(h, w):
  x = np.random.default_rng(0).integers(0, 256, (2, h, w, 3), np.uint8)
  return jnp.asarray(x)


@pytest.mark.parametrize("kind", ["sincos2d", "sincos2d_moco", "sincos2d_mae"])
def test_a_fixed_table_is_computed_for_the_size(kind):
  small, large = (tower(n, pos=kind, cls_pos=False) for n in (16, 24))
  np.testing.assert_array_equal(small(images(24, 24)), large(images(24, 24)))
  rows, columns = np.mgrid[:2, :3].reshape(2, -1)
  wide = positions.sincos2d(2, 8, kind, 3)
  square = positions.sincos2d(3, 8, kind)
  np.testing.assert_array_equal(wide, square[rows * 3 + columns])


@pytest.mark.parametrize("how", WAYS)
def test_a_learned_table_is_resized_and_the_class_token_keeps_its_own(how):
  small, large = tower(32, pos_resize=how), tower(24)
  large.pos[...] = jnp.concatenate([
    small.pos[:1], positions.resized(small.pos[1:], (3, 3), how)
  ])  # fmt: skip
  np.testing.assert_allclose(
    small(images(24, 24)), large(images(24, 24)), rtol=1e-5, atol=1e-6
  )
  assert small.features(images(16, 40)).tokens.shape == (2, 1 + 2 * 5, 32)


@pytest.mark.parametrize("size", [(20, 24), (24, 4)])
def test_a_size_that_patches_do_not_divide_is_an_error(size):
  said = rf"size of images = \({size[0]}, {size[1]}\); .* patch side 8\."
  with pytest.raises(errors.UserError, match=said):
    tower(32)(images(*size))
