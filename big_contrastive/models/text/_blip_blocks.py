"""The blocks of BLIP's text tower: an encoder's and a decoder's in one."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from big_contrastive.models import layers
from big_contrastive.models.attention import (
  Attention,
  KeysValues,
  Sequence,
)
from big_contrastive.models.decoder import Cache
from big_contrastive.models.dropout import ExampleKeys, dropout

Mode = Literal["encoder", "decoder"]
Memory = Float[Array, "b m memory"]  # An image's tokens.
Seen = Bool[Array, "b m"] | None  # Which of these are real; None: all.


class Block(nnx.Module):
  """Self-attention, attention to an image's tokens, an MLP; post-norm.

  Each mode has self-attention of its own, with its norm; the rest is shared.
  """

  cross: Attention

  def __init__(
    self, width, mlp, heads, *, modes: tuple[Mode, ...], memory, activation,
    eps, dtype, rngs: nnx.Rngs,
  ):  # fmt: skip
    def norm() -> nnx.LayerNorm:
      return nnx.LayerNorm(width, epsilon=eps, dtype=dtype, rngs=rngs)

    for mode in modes:
      setattr(self, mode, Attention(width, heads, dtype, rngs))
      setattr(self, f"{mode}_norm", norm())
    self.cross = Attention(width, heads, dtype, rngs, memory=memory)
    self.cross_norm = norm()
    self.mlp = layers.Mlp(width, mlp, activation, dtype, rngs)
    self.mlp_norm = norm()

  def __call__(
    self,
    x: Sequence,
    mode: Mode,
    attention: Callable[[Attention, Sequence], Sequence],
    known: KeysValues | None,
    mask: Seen = None,
    drop: Callable[[Sequence, int], Sequence] = lambda y, place: y,
  ) -> Sequence:
    """Returns the block's result.

    Args:
      x: the text's tokens.
      mode: whose self-attention it is.
      attention: (that self-attention, tokens) -> what it makes of them.
      known: keys and values of an image's tokens, of `cross`; None without an
        image: then there is no attention to it.
      mask: which of the image's tokens are real.
      drop: (result of a branch, its place) -> what is left of it.
    """
    own, norm = getattr(self, mode), getattr(self, f"{mode}_norm")
    x = norm(x + drop(attention(own, x), 0))
    if known is not None:
      x = self.cross_norm(x + drop(self.cross.to(x, known, mask), 1))
    return self.mlp_norm(x + drop(self.mlp(x), 2))


class Blocks(nnx.Module):
  """Blocks stacked on a leading layer axis and scanned.

  Args:
    width, depth, mlp, heads: the size, see layers.SIZES.
    modes: those that there are.
    memory: width of an image's tokens.
    dropout, remat, pin: see layers.Transformer.
  """

  def __init__(
    self, width, depth, mlp, heads, *, modes: tuple[Mode, ...], memory,
    activation, eps, dropout, remat, dtype, pin: Callable, rngs: nnx.Rngs,
  ):  # fmt: skip
    of = dict(modes=modes, memory=memory, activation=activation, eps=eps)

    def block(key: jax.Array) -> Block:
      kwargs = of | dict(dtype=dtype, rngs=nnx.Rngs(key))
      return Block(width, mlp, heads, **kwargs)

    self.blocks = jax.vmap(block)(jax.random.split(rngs.params(), depth))
    self.width, self.depth, self.mlp_width = width, depth, mlp
    self.memory, self.dropout, self.dtype = memory, dropout, jnp.dtype(dtype)
    layers.remat_policy(remat)  # Rejects a wrong name before compilation.
    self.remat, self.pin = remat, pin

  def __call__(
    self,
    x: Sequence,
    mode: Mode,
    attention: Callable[[Attention, Sequence], Sequence],
    memory: Memory | None,
    mask: Seen,
    keys: ExampleKeys,
  ) -> Sequence:
    """Returns what the last block does, see `Block`.

    Args:
      x, mode, attention: see `Block`.
      memory: the images' tokens [b, m, memory]; None without images.
      mask: which of these are real; None for all.
      keys: one per example, for dropout; None evaluates.
    """
    memory = None if memory is None else memory.astype(self.dtype)

    def run(x, block_and_index):
      block, index = block_and_index

      def drop(y, place):
        return dropout(y, self.dropout, keys, 3 * index + place)

      known = None if memory is None else block.cross.keys_values(memory)
      return block(self.pin(x), mode, attention, known, mask, drop), None

    if self.remat != "none":
      policy = layers.remat_policy(self.remat)
      run = jax.checkpoint(run, policy=policy, prevent_cse=False)
    x = x.astype(self.dtype)
    x, _ = jax.lax.scan(run, x, (self.blocks, jnp.arange(self.depth)))
    return self.pin(x)

  def start(self, memory: Memory, length: int, mask: Seen = None) -> Cache:
    """Returns the cache of texts of at most `length` tokens, none yet."""
    memory, zero = memory.astype(self.dtype), jnp.zeros((), jnp.int32)
    size = len(memory)
    own = jax.vmap(lambda x: x.decoder.empty(size, length))(self.blocks)
    known = jax.lax.map(lambda x: x.cross.keys_values(memory), self.blocks)
    return Cache(own, known, mask, zero, zero)

  def step(self, x: Sequence, cache: Cache) -> tuple[Sequence, Cache]:
    """Returns what the decoder's last block does for the next tokens."""

    def run(x, each):
      block, own, known = each
      new: list[KeysValues] = []

      def attention(layer: Attention, y: Sequence) -> Sequence:
        y, longer = layer.step(y, own, cache.place)
        new.append(longer)
        return y

      return block(x, "decoder", attention, known, cache.mask), new[0]

    each = self.blocks, cache.own, cache.cross
    x, own = jax.lax.scan(run, x.astype(self.dtype), each)
    return x, cache._replace(own=own, place=cache.place + x.shape[1])

  def flops(self, length: int, memory: int = 0) -> float:
    """Returns forward FLOPs of a text, two per multiply-add.

    Args:
      length: its tokens.
      memory: tokens of the image that it sees; 0 without one.
    """
    w = self.width
    own = length * (4 * w**2 + 2 * length * w + 2 * w * self.mlp_width)
    cross = length * (2 * w**2 + 2 * memory * w) + memory * 2 * self.memory * w
    return 2.0 * self.depth * (own + (cross if memory else 0))
