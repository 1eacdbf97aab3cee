"""A text tower without attention, small enough for tests."""

import flax.nnx as nnx
import jax.numpy as jnp

from big_contrastive.models import Features


class Bag(nnx.Module):
  """The mean of the tokens' embeddings."""

  def __init__(
    self, *, out_dim: int, vocab_size: int, length: int,
    positions: int | None = None, eos_id: int | None = None,
    dtype="float32", remat="none", pin=lambda x: x, rngs: nnx.Rngs,
  ):  # fmt: skip
    self.out_dim, self.length = out_dim, length
    self.embed = nnx.Embed(vocab_size, out_dim, dtype=dtype, rngs=rngs)

  def features(self, x, keys=None):
    tokens = self.embed(x)
    return Features(tokens, tokens.mean(axis=1))

  def __call__(self, x, keys=None):
    return self.features(x, keys).pooled.astype(jnp.float32)

  def flops(self, train=True):
    return 1.0 * self.length * self.out_dim


tower = Bag
