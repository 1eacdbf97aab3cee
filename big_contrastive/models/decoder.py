"""A decoder of captions: tokens that see an image's tokens.

Cap and CapPa (arXiv:2306.07915), CoCa (2205.01917) as OpenCLIP has it, and
OpenVision 2 (2509.01644), by its fields.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.models import layers
from big_contrastive.models.attention import (
  Causal,
  KeysValues,
  Mask,
  Sequence,
)
from big_contrastive.models.decoder_block import Block, Cross
from big_contrastive.models.dropout import ExampleKeys, dropout


class Cache(NamedTuple):
  """What is known of the tokens so far.

  own: of each block, leaves [depth, b, length, heads, k].
  cross: of the image's tokens, or None if they are in `own`.
  mask: which of the image's tokens are real, bool [b, m]; None for all.
  first: how many tokens of the image `own` has.
  place: how many tokens of the caption.
  """

  own: KeysValues
  cross: KeysValues | None
  mask: Mask
  first: Int[Array, ""]
  place: Int[Array, ""]


class Decoder(nnx.Module):
  """Tokens so far, and an image's tokens, to logits of the next token.

  Args:
    variant: a size such as "B", see layers.SIZES.
    memory: width of the image's tokens.
    vocab_size: of the tokenizer.
    length: the most tokens of a caption, BOS included.
    inputs: "ids" of tokens; or "text", the text tower's tokens (CoCa).
    cross: how the image's tokens are seen: by an "attention" between
      self-attention and MLP (CapPa), by a whole "block" after each block
      (OpenCLIP's CoCa), or as a "prefix" of the caption (OpenVision 2).
    positions: whether tokens have learned positions; of inputs="ids".
    parallel: whether there is a mask token, for parallel prediction (CapPa).
    bias: whether norms and linear layers of the blocks have one.
    logit_bias: whether the logits have one.
    embed_std: standard deviation of the initial token embeddings.
    width, depth, mlp, heads: override those of the variant.
    eps, activation, dropout, remat: see layers.Transformer.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    variant: str,
    *,
    memory: int,
    vocab_size: int,
    length: int,
    inputs: Literal["ids", "text"] = "ids",
    cross: Cross = "attention",
    positions: bool = True,
    parallel: bool = False,
    bias: bool = True,
    logit_bias: bool = True,
    embed_std: float = 1.0,
    width: int | None = None,
    depth: int | None = None,
    mlp: int | None = None,
    heads: int | None = None,
    eps: float = 1e-6,
    activation: layers.Activation = "gelu_tanh",
    dropout: float = 0.0,
    remat: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    size = layers.sized(variant, width=width, depth=depth, mlp=mlp, heads=heads)
    w = self.width = size["width"]
    self.depth, self.mlp_width = size["depth"], size["mlp"]
    self.vocab_size, self.length, self.memory = vocab_size, length, memory
    self.inputs, self.cross, self.parallel = inputs, cross, parallel
    self.dropout, self.remat, self.pin = dropout, remat, pin
    layers.remat_policy(remat)
    self.dtype = jnp.dtype(dtype)
    linear = dict(dtype=dtype, rngs=rngs)
    if inputs == "ids":
      normal = nnx.initializers.normal(embed_std)
      rows = vocab_size + parallel
      self.embed = nnx.Embed(rows, w, embedding_init=normal, **linear)
    if inputs == "ids" and positions:
      normal = nnx.initializers.normal(w**-0.5)
      self.pos = nnx.Param(normal(rngs.params(), (length, w)))
    self.has_positions = inputs == "ids" and positions
    if cross == "prefix":
      self.project = nnx.Linear(memory, w, use_bias=False, **linear)
    of = dict(cross=cross, memory=memory, bias=bias, activation=activation)

    def block(key: jax.Array) -> Block:
      kwargs = of | dict(eps=eps, dtype=dtype, rngs=nnx.Rngs(key))
      return Block(w, size["mlp"], size["heads"], **kwargs)

    self.blocks = jax.vmap(block)(jax.random.split(rngs.params(), self.depth))
    self.norm = nnx.LayerNorm(w, epsilon=eps, **linear)
    # Zeros: the first loss is ln V. The bias is not in bfloat16's steps.
    self.logits = nnx.Linear(
      w, vocab_size, use_bias=logit_bias, rngs=rngs,
      kernel_init=nnx.initializers.zeros_init(),
    )  # fmt: skip

  @property
  def mask_id(self) -> int:
    """The id that stands for any token in parallel prediction."""
    return self.vocab_size

  def embedded(
    self, ids: Int[Array, "b l"], place: int | Int[Array, ""] = 0
  ) -> Sequence:
    """Returns vectors of the tokens from `place` on."""
    x = self.embed(ids)
    if not self.has_positions:
      return x
    pos = jax.lax.dynamic_slice_in_dim(self.pos[...], place, ids.shape[1])
    return x + pos.astype(x.dtype)[None]

  def decoded(
    self,
    x: Sequence,
    memory: Sequence,
    *,
    causal: Causal = True,
    keys: ExampleKeys = None,
    mask: Mask = None,
  ) -> Sequence:
    """Returns what the vocabulary gets, [b, l, w], in compute dtype.

    Args:
      x: what `embedded` returned, or the text tower's tokens.
      memory: the image's tokens [b, m, memory].
      causal: whether a token sees only those before it; or bool [b].
      keys: one per example, for dropout; None evaluates.
      mask: which of the image's tokens are real; None for all. There is none
        for a prefix.
    """
    x, memory = x.astype(self.dtype), memory.astype(self.dtype)
    first = 0
    if self.cross == "prefix":
      first = memory.shape[1]
      x = jnp.concatenate([self.project(memory), x], axis=1)

    def run(x, block_and_index):
      block, index = block_and_index

      def drop(y, place):
        return dropout(y, self.dropout, keys, 4 * index + place)

      def attention(y):
        return block.attention(y, y, causal)

      known = None if self.cross == "prefix" else block.seen(memory)
      return block(self.pin(x), attention, known, mask, drop), None

    if self.remat != "none":
      policy = layers.remat_policy(self.remat)
      run = jax.checkpoint(run, policy=policy, prevent_cse=False)
    x, _ = jax.lax.scan(run, x, (self.blocks, jnp.arange(self.depth)))
    return self.norm(self.pin(x[:, first:]))

  __call__ = decoded  # A text tower that decodes is called for its vectors.

  def start(self, memory: Sequence, length: int, mask: Mask = None) -> Cache:
    """Returns the cache of captions of at most `length` tokens, none yet."""
    memory = memory.astype(self.dtype)
    size, first = memory.shape[:2]
    zero = jnp.zeros((), jnp.int32)
    if self.cross != "prefix":
      own = jax.vmap(lambda x: x.attention.empty(size, length))(self.blocks)
      known = jax.lax.map(lambda block: block.seen(memory), self.blocks)
      return Cache(own, known, mask, zero, zero)
    empty = jax.vmap(lambda x: x.attention.empty(size, first + length))
    cache = Cache(empty(self.blocks), None, mask, zero, zero)
    cache = self._step(self.project(memory), cache)[1]
    return cache._replace(first=cache.place, place=zero)

  def step(self, x: Sequence, cache: Cache) -> tuple[Sequence, Cache]:
    """Returns what `decoded` does for the next tokens, and the longer cache.

    Args:
      x: of these tokens alone, [b, q, w].
      cache: of those before.
    """
    x, cache = self._step(x.astype(self.dtype), cache)
    return self.norm(x), cache

  def _step(self, x: Sequence, cache: Cache) -> tuple[Sequence, Cache]:
    place = cache.first + cache.place

    def run(x, each):
      block, own, known = each
      new = []

      def attention(y):
        y, longer = block.attention.step(y, own, place)
        new.append(longer)
        return y

      x = block(x, attention, known, cache.mask)
      return x, new[0]

    x, own = jax.lax.scan(run, x, (self.blocks, cache.own, cache.cross))
    return x, cache._replace(own=own, place=cache.place + x.shape[1])

  def scores(self, x: Float[Array, "*b w"]) -> Float[Array, "*b v"]:
    """Returns the logits of what `decoded` or `step` returned, float32."""
    return self.logits(x.astype(jnp.float32))

  def logit_weights(self) -> tuple[Float[Array, "w v"], Float[Array, " v"]]:
    """Returns kernel and bias of the logits."""
    kernel, bias = self.logits.kernel[...], self.logits.bias
    zeros = jnp.zeros(kernel.shape[1])
    return kernel, zeros if bias is None else bias[...]

  def flops(self, length: int, memory: int) -> float:
    """Returns forward FLOPs of a caption, the logits left out.

    Args:
      length: tokens of the caption.
      memory: tokens of the image.
    """
    w = self.width
    mlp = 2 * w * self.mlp_width
    if self.cross == "prefix":
      both = length + memory
      return 2.0 * self.depth * both * (4 * w**2 + mlp + 2 * both * w)
    mlps = mlp * (2 if self.cross == "block" else 1)
    own = length * (4 * w**2 + 2 * length * w + mlps)
    cross = length * (2 * w**2 + 2 * memory * w) + memory * 2 * self.memory * w
    return 2.0 * self.depth * (own + cross)
