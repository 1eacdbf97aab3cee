"""A small residual network of 3 x 3 convolutions, for thousands of images.

Stages as in ResNet (arXiv:1512.03385), halved by products as in Swin
(arXiv:2103.14030, patch merging): a convolution has stride 1 always, the kind
whose gradients CPUs compute fast, see convolution.py.
"""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from big_contrastive.config import errors
from big_contrastive.models import Features, norms, pixels
from big_contrastive.models.convolution import conv3x3
from big_contrastive.models.layers import ExampleKeys
from big_contrastive.models.patches import patchify


class Conv(nnx.Module):
  """A 3 x 3 convolution and a norm."""

  def __init__(self, width, out_dim, *, norm, group, dtype, rngs: nnx.Rngs):
    init = nnx.initializers.he_normal()
    self.kernel = nnx.Param(init(rngs.params(), (3, 3, width, out_dim)))
    self.norm = norms.norm(norm, out_dim, group=group, dtype=dtype)
    self.dtype = dtype

  def __call__(self, x, train):
    kernel = self.kernel[...].astype(self.dtype)
    return self.norm(conv3x3(x, kernel), train)


class Merge(nnx.Module):
  """Squares of 2 x 2 pixels become one: a linear layer and a norm."""

  def __init__(self, width, out_dim, *, norm, group, dtype, rngs: nnx.Rngs):
    self.linear = nnx.Linear(
      4 * width, out_dim, use_bias=False, dtype=dtype, rngs=rngs,
      kernel_init=nnx.initializers.he_normal(),
    )  # fmt: skip
    self.norm = norms.norm(norm, out_dim, group=group, dtype=dtype)

  def __call__(self, x, train):
    return jax.nn.relu(self.norm(self.linear(merged(x)), train))


class ConvNet(nnx.Module):
  """Images to vectors.

  A residual convolution is relu(x + norm(conv(x))); the pooled vector has a
  norm, too, which centers features that are never negative. Batch norms have
  the statistics of the batch in training, and replace the running ones, by
  which they evaluate.

  Args:
    res: image side in pixels; a multiple of 2 ** (number of stages).
    in_channels: of the image; others than 3 are given as normalized floats.
    widths: channels of each stage. The first sees the image at half its side,
      each further one at half the side of the one before it.
    depths: residual convolutions of each stage.
    pool: "gap", the mean of the last grid, or "flat", all of it side by side,
      which knows where a thing is: for centered drawings.
    out_dim: width of a last linear layer; None for none.
    mean, std: per channel, of pixel values scaled to [0, 1].
    norm: over the "batch", or "layer" over each example.
    norm_group: examples that share the statistics of a batch norm; None for all
      of the batch.
    dtype: compute dtype; parameters and statistics are float32 always.
    remat: has no effect: a step keeps all activations.
    pin: splits activations over the mesh's batch axes.
  """

  def __init__(
    self,
    res: int,
    *,
    in_channels: int = 3,
    widths: tuple | list = (48, 96, 192),
    depths: tuple | list = (1, 1, 1),
    pool: Literal["gap", "flat"] = "gap",
    out_dim: int | None = None,
    mean: tuple | list = (0.5, 0.5, 0.5),
    std: tuple | list = (0.5, 0.5, 0.5),
    norm: Literal["batch", "layer"] = "batch",
    norm_group: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: str = "none",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    _check(res, widths, depths)
    self.res, self.in_channels = res, in_channels
    self.widths, self.depths = tuple(widths), tuple(depths)
    self.mean, self.std, self.dtype = tuple(mean), tuple(std), dtype
    self.projects, self.pin = out_dim is not None, pin
    kwargs = dict(norm=norm, group=norm_group, dtype=dtype, rngs=rngs)
    self.stem = Conv(4 * in_channels, widths[0], **kwargs)
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
      if i:
        setattr(self, f"merge{i}", Merge(widths[i - 1], width, **kwargs))
      for j in range(depth):
        setattr(self, f"conv{i}_{j}", Conv(width, width, **kwargs))
    self.pool, grid = pool, (res // 2 ** len(widths)) ** 2
    pooled = widths[-1] * (grid if pool == "flat" else 1)
    self.norm = norms.norm(norm, pooled, group=norm_group, dtype=dtype)
    if out_dim is not None:
      self.project = nnx.Linear(pooled, out_dim, dtype=dtype, rngs=rngs)
    self.out_dim = out_dim or pooled

  def features(
    self, image: Num[Array, "b h w c"], keys: ExampleKeys = None
  ) -> Features:
    """Returns the last grid, row by row, and its pool, in compute dtype.

    Args:
      image: uint8 pixels of RGB, normalized here, or normalized floats.
      keys: None evaluates; any others, which draw nothing, are for training.
    """
    train = keys is not None
    x = merged(pixels.normalized(image, self.mean, self.std, self.dtype))
    x = jax.nn.relu(self.stem(x, train))
    for i, depth in enumerate(self.depths):
      x = getattr(self, f"merge{i}")(self.pin(x), train) if i else x
      for j in range(depth):
        x = jax.nn.relu(x + getattr(self, f"conv{i}_{j}")(x, train))
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    flat = self.pool == "flat"
    pooled = tokens.reshape(len(tokens), -1) if flat else tokens.mean(axis=1)
    return Features(tokens, self.norm(pooled, train))

  def __call__(
    self, image: Num[Array, "b h w c"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    x = self.features(image, keys).pooled
    x = self.project(x) if self.projects else x
    return x.astype(jnp.float32)

  @property
  def takes(self) -> tuple[int, ...]:
    """One input's shape: (h, w)."""
    return self.res, self.res

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one image."""
    area, before, total = (self.res // 2) ** 2, None, 0.0
    for width, depth in zip(self.widths, self.depths, strict=True):
      if before is None:
        total += area * 9 * 4 * self.in_channels * width
      else:
        area //= 4
        total += area * 4 * before * width
      total += area * 9 * width**2 * depth
      before = width
    return 2.0 * total


def _check(res: int, widths: tuple | list, depths: tuple | list) -> None:
  """Raises UserError for sizes that don't fit each other."""
  if not widths or min(widths) < 1:
    allowed = "whole numbers from 1 up"
    raise errors.UserError("widths", widths, allowed, "One for each stage.")
  if len(depths) != len(widths) or min(depths) < 0:
    allowed = f"{len(widths)} whole numbers from 0 up"
    raise errors.UserError("depths", depths, allowed, "As many as widths.")
  if rest := res % 2 ** len(widths):
    allowed = f"a multiple of {2 ** len(widths)}, as each stage halves it"
    remedy = f"{res - rest} is one." if res > rest else "Drop a stage."
    raise errors.UserError("res", res, allowed, remedy)


def merged(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 4*c"]:
  """Returns squares of 2 x 2 pixels as one, with their channels in a row."""
  b, h, w, c = x.shape
  return patchify(x, 2).reshape(b, h // 2, w // 2, 4 * c)


tower = ConvNet
