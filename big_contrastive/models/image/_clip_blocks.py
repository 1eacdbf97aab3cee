"""The blocks of CLIP's ResNet: convolutions, each with a batch norm."""

import flax.nnx as nnx
import jax
from jaxtyping import Array, Float

from big_contrastive.models.norms import BatchNorm

Grid = Float[Array, "b _ _ _"]  # Of any side and width, channels last.


class Convolution(nnx.Module):
  """A convolution without bias, padded to keep the grid, and a batch norm."""

  def __init__(
    self, before, after, side, *, stride=1, zero=False, group, dtype, rngs
  ):
    # PyTorch's initialization; batch norms make its scale matter little.
    init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    self.conv = nnx.Conv(
      before, after, (side, side), stride, padding=side // 2, use_bias=False,
      kernel_init=init, dtype=dtype, rngs=rngs,
    )  # fmt: skip
    self.norm = BatchNorm(after, group=group, zero=zero, dtype=dtype)
    self.macs = side**2 * before * after

  def __call__(self, x: Grid, train: bool) -> Grid:
    return self.norm(self.conv(x), train)


class Stem(nnx.Module):
  """Three convolutions and an average pool: a fourth of the image's side."""

  def __init__(self, width, **kwargs):
    half = width // 2
    self.conv1 = Convolution(3, half, 3, stride=2, **kwargs)
    self.conv2 = Convolution(half, half, 3, **kwargs)
    self.conv3 = Convolution(half, width, 3, **kwargs)

  def __call__(self, x: Grid, train: bool) -> Grid:
    for conv in (self.conv1, self.conv2, self.conv3):
      x = jax.nn.relu(conv(x, train))
    return _average(x, 2)

  def flops(self, side: int) -> float:
    """Returns forward FLOPs, by the side of the grid before the pool."""
    macs = self.conv1.macs + self.conv2.macs + self.conv3.macs
    return 2.0 * side**2 * macs


class Block(nnx.Module):
  """A bottleneck; an average pool after its 3 x 3 convolution is its stride."""

  def __init__(self, before, width, stride, **kwargs):
    self.stride = stride
    self.conv1 = Convolution(before, width, 1, **kwargs)
    self.conv2 = Convolution(width, width, 3, **kwargs)
    self.conv3 = Convolution(width, 4 * width, 1, zero=True, **kwargs)
    shortcut = stride > 1 or before != 4 * width
    self.shortcut = (
      Convolution(before, 4 * width, 1, **kwargs) if shortcut else None
    )

  def __call__(self, x: Grid, train: bool) -> Grid:
    y = jax.nn.relu(self.conv1(x, train))
    y = jax.nn.relu(self.conv2(y, train))
    y = self.conv3(_average(y, self.stride), train)
    if self.shortcut is not None:
      x = self.shortcut(_average(x, self.stride), train)
    return jax.nn.relu(x + y)

  def flops(self, side: int) -> float:
    """Returns forward FLOPs, by the side of the grid that it takes."""
    after = self.conv3.macs + (self.shortcut.macs if self.shortcut else 0)
    full = self.conv1.macs + self.conv2.macs
    return 2.0 * (side**2 * full + (side // self.stride) ** 2 * after)


def _average(x: Grid, side: int) -> Grid:
  """Returns means of squares, side by side."""
  if side == 1:
    return x
  b, h, w, c = x.shape
  return x.reshape(b, h // side, side, w // side, side, c).mean((2, 4))
