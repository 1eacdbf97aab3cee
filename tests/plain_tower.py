"""An image tower without norms, small enough for tests."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp

from big_contrastive.models import Features


class Plain(nnx.Module):
  """All pixels, a linear layer, a tanh, another layer; noise in training."""

  max_patches = None

  def __init__(
    self, *, res: int, width: int = 8, noise: float = 0.0, dtype="float32",
    remat="none", pin=lambda x: x, rngs: nnx.Rngs,
  ):  # fmt: skip
    self.out_dim, self.takes, self.noise = width, (res, res), noise
    self.fc1 = nnx.Linear(3 * res**2, width, rngs=rngs)
    self.fc2 = nnx.Linear(width, width, rngs=rngs)

  def features(self, x, keys=None):
    x = x.reshape(len(x), -1).astype(jnp.float32) / 127.5 - 1
    x = self.fc2(jax.nn.tanh(self.fc1(x)))
    if keys is not None and self.noise:
      draw = jax.vmap(lambda key: jax.random.normal(key, (self.out_dim,)))
      x += self.noise * draw(keys)
    return Features(x[:, None], x)

  def __call__(self, x, keys=None):
    return self.features(x, keys).pooled

  def flops(self, train):
    return 2.0 * self.out_dim * (3 * self.takes[0] ** 2 + self.out_dim)


tower = Plain
