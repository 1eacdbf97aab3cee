"""An image tower with batch normalization, small enough for tests."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp

from big_contrastive.models import Features
from big_contrastive.models.norms import BatchNorm


class Normed(nnx.Module):
  """Means of squares, a linear layer, a norm, a ReLU, another layer.

  The squares have 8 x 8 pixels; images of another size have as many squares.
  """

  max_patches = None

  def __init__(
    self, *, res: int, width: int = 32, norm_group: int | None = None,
    in_channels: int = 3, dtype="float32", remat="none", pin=lambda x: x,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    self.res, self.side, self.out_dim = res, res // 8, width
    self.takes = (res, res)
    linear = dict(dtype=dtype, rngs=rngs)
    # A bias has no gradient before a norm, and Adam would enlarge its rounding.
    size = in_channels * self.side**2
    self.fc1 = nnx.Linear(size, width, use_bias=False, **linear)
    self.norm = BatchNorm(width, group=norm_group, dtype=dtype)
    self.fc2 = nnx.Linear(width, width, **linear)

  def features(self, x, keys=None):
    if x.dtype == jnp.uint8:
      x = x.astype(jnp.float32) / 127.5 - 1
    pixels = x.shape[1] // self.side
    x = x.reshape(len(x), self.side, pixels, self.side, pixels, -1).mean((2, 4))
    x = self.fc1(x.reshape(len(x), -1))
    x = self.fc2(jax.nn.relu(self.norm(x, keys is not None)))
    return Features(x[:, None], x)

  def __call__(self, x, keys=None):
    return self.features(x, keys).pooled.astype(jnp.float32)

  def flops(self, train):
    return 2.0 * self.out_dim * (3 * self.side**2 + self.out_dim)


tower = Normed
