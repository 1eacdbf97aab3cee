"""An image tower over a grid of overlapping patches: CPC (arXiv:1807.03748)."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from big_contrastive.config import errors, registry, schema
from big_contrastive.models import Features
from big_contrastive.models.layers import ExampleKeys


class Patches(nnx.Module):
  """Images to vectors: the mean over patches, each seen by itself.

  An image is cut into grid x grid squares of side 2 res / (grid + 1), each of
  which overlaps its neighbors by half, and another image tower takes each for
  an image. With a tower that has no batch norm, the vector of a patch depends
  on its own pixels alone.

  Args:
    res: image side in pixels, a multiple of grid + 1.
    grid: patches in a row, and in a column; 7 in the paper.
    drop_colors, jitter: of each patch in training, see `augmented`.
    patch: the tower of a patch: `tower`, a file in models/image, and its fields
      but res, which is the side of a patch.
    dtype, remat, pin: of that tower.
  """

  def __init__(
    self,
    res: int,
    *,
    grid: int = 7,
    drop_colors: float = 0.0,
    jitter: int = 0,
    patch: dict,
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: str = "none",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    if grid < 2:
      allowed = "a whole number from 2 up"
      raise errors.UserError("grid", grid, allowed, "CPC has 5 and 7.")
    if rest := res % (grid + 1):
      allowed = f"a multiple of grid + 1 = {grid + 1}"
      remedy = f"{max(grid + 1, res - rest)} is one."
      raise errors.UserError("res", res, allowed, remedy)
    self.res, self.grid, self.side = res, grid, 2 * res // (grid + 1)
    if not 0 <= drop_colors <= 1:
      allowed = "a probability, from 0 to 1"
      raise errors.UserError("drop_colors", drop_colors, allowed, "0 is off.")
    if not 0 <= jitter < self.side:
      allowed = f"a whole number from 0 to {self.side - 1}"
      remedy = "0 is off; CPC has a 16th of a patch's side."
      raise errors.UserError("jitter", jitter, allowed, remedy)
    self.drop_colors, self.jitter = drop_colors, jitter
    kwargs = {"dtype": dtype, "remat": remat, "pin": pin, "rngs": rngs}
    self.patch = _tower(patch, kwargs | {"res": self.side})
    self.out_dim = self.patch.out_dim

  def cut(self, image: Num[Array, "b h w 3"]) -> Num[Array, "b _ _ _ _ 3"]:
    """Returns the patches, [b, grid, grid, side, side, 3], of any dtype."""
    (b, *_), cells, half = image.shape, self.grid + 1, self.side // 2
    x = image.reshape(b, cells, half, cells, half, 3)
    x = jnp.concatenate([x[:, :-1], x[:, 1:]], axis=2)
    x = jnp.concatenate([x[:, :, :, :-1], x[:, :, :, 1:]], axis=4)
    return x.swapaxes(2, 3)

  def of_patches(
    self, patches: Num[Array, "b g g s s 3"], keys: ExampleKeys = None
  ) -> Float[Array, "b g g d"]:
    """Returns the vectors of patches, float32, not normalized.

    Args:
      patches: see `cut`.
      keys: one per image, see models.Tower; each patch draws its own numbers.
    """
    return self._each(self.patch, patches, keys)

  def features(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Features:
    """Returns the patches' pooled vectors, row by row, and their mean.

    Args:
      image: uint8 pixels, or floats normalized already.
      keys: None evaluates, see models.Tower.
    """

    def pooled(x, keys):
      return self.patch.features(x, keys).pooled

    x = self._each(pooled, self.cut(image), keys)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return Features(x, x.mean(axis=1))

  def __call__(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized."""
    return self.of_patches(self.cut(image), keys).mean(axis=(1, 2))

  @property
  def projects(self) -> bool:
    """Whether a linear layer follows what is pooled."""
    return self.patch.projects

  @property
  def project(self) -> nnx.Linear:
    """That layer; it commutes with the mean over patches."""
    return self.patch.project

  @property
  def takes(self) -> tuple[int, ...]:
    """The shape of one input, (h, w)."""
    return self.res, self.res

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one image."""
    return self.grid**2 * self.patch.flops(train)

  def _each(
    self,
    function: Callable[..., jax.Array],
    patches: jax.Array,
    keys: ExampleKeys,
  ) -> jax.Array:
    """Returns function(patches, keys) of all patches as one batch, as a grid.

    The patches of an image are neighbors: they stay on its device.
    """
    shape, x = patches.shape[:3], patches.reshape(-1, *patches.shape[3:])
    if keys is not None:
      count = shape[1] * shape[2]
      keys = jax.vmap(lambda key: jax.random.split(key, count))(keys)
      keys = keys.reshape(-1)
      if self.drop_colors or self.jitter:
        how = {"drop_colors": self.drop_colors, "jitter": self.jitter}
        x = jax.vmap(functools.partial(augmented, **how))(x, keys)
    return function(x, keys).reshape(*shape, -1)


def augmented(
  patch: Num[Array, "s s 3"],
  key: jax.Array,
  *,
  drop_colors: float,
  jitter: int,
) -> Num[Array, "s s 3"]:
  """Returns a patch with other random colors and place, of the same dtype.

  Args:
    patch: uint8 pixels, or floats normalized already, whose gray is 0.
    key: of the patch.
    drop_colors: the probability that it keeps one of its channels alone. The
      two others become gray with noise, of 1 / 100 of the standard deviation of
      the one that is left (arXiv:1505.05192, section 3.1; 1905.09272).
    jitter: pixels of a side that are left out: a random square of the others
      comes to the middle, with gray around it (1807.03748, section 3.2).
  """
  # The tower folds other numbers in, or splits the key.
  key = jax.random.fold_in(key, 2**31 - 1)
  gray = 127.5 if patch.dtype == jnp.uint8 else 0.0
  dropped, kept, noise, place = jax.random.split(key, 4)
  x = patch.astype(jnp.float32)
  if drop_colors:
    others = jnp.arange(3) != jax.random.randint(kept, (), 0, 3)
    std = jnp.where(others, 0, x.std(axis=(0, 1))).sum()
    value = gray + std / 100 * jax.random.normal(noise, x.shape)
    drop = others & jax.random.bernoulli(dropped, drop_colors)
    x = jnp.where(drop, value, x)
  if jitter:
    top, left = jax.random.randint(place, (2,), 0, jitter + 1)
    side, before = len(x) - jitter, jitter // 2
    x = jax.lax.dynamic_slice(x, (top, left, 0), (side, side, 3))
    edge = before, jitter - before
    x = jnp.pad(x, (edge, edge, (0, 0)), constant_values=gray)
  if patch.dtype == jnp.uint8:
    x = jnp.round(x)
  return x.astype(patch.dtype)


def _tower(section: dict[str, Any], kwargs: dict[str, Any]) -> Any:
  """Returns the tower of a patch that a section describes."""
  where, fields = "config.model.image.patch", dict(section)
  name = fields.pop("tower", "vit")
  made = registry.module("models.image", name, f"{where}.tower").tower
  tower, side = None, kwargs["res"]
  if "res" in inspect.signature(made.__init__).parameters:
    tower = schema.call(made, fields, where, kwargs)
  if tower is None or tower.takes != (side, side):
    allowed = "a tower of images of one size"
    raise errors.UserError(f"{where}.tower", name, allowed, "Choose a resnet.")
  return tower


tower = Patches
