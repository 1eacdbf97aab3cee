"""The transformer that both towers share, and its published sizes."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jax.extend.core import primitives
from jaxtyping import Array, Float

from big_contrastive.config import errors
from big_contrastive.models import cudnn, norms
from big_contrastive.models.attention import (
  Attention,
  Causal,
  KeysValues,
  Mask,
  Sequence,
  xavier,
)
from big_contrastive.models.dropout import ExampleKeys as ExampleKeys
from big_contrastive.models.dropout import drop_path, dropout

# width, depth, mlp width, heads: Scaling ViT (arXiv:2106.04560) table 2, the
# ViT paper (arXiv:2010.11929) and So400m (arXiv:2305.13035).
SIZES = {
  "mu": (32, 1, 128, 2),
  "Ti": (192, 12, 768, 3),
  "S": (384, 12, 1536, 6),
  "M": (512, 12, 2048, 8),
  "B": (768, 12, 3072, 12),
  "L": (1024, 24, 4096, 16),
  "So400m": (1152, 27, 4304, 16),
  "H": (1280, 32, 5120, 16),
  "g": (1408, 40, 6144, 16),
  "g-opt": (1536, 40, 6144, 16),
  "G": (1664, 48, 8192, 16),
  "G-opt": (1536, 48, 8192, 16),
}

# Keeps the outputs of linear layers alone: a ViT-S/16 step takes a third of the
# memory for 3 % more FLOPs than keeping all, and less time on CPUs.
REMAT = "dots_with_no_batch_dims_saveable"

ACTIVATIONS: dict[str, Callable] = {
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "relu": jax.nn.relu,
}

Activation = Literal["gelu_tanh", "gelu", "quick_gelu"]

# Of linear layers in blocks: kernels, and the biases of MLPs. timm and DINO cut
# the normal distribution at -2 and 2, which are a hundred standard deviations.
INITS = {
  "xavier": (xavier, nnx.initializers.normal(1e-6)),
  "trunc_normal": (nnx.initializers.normal(0.02), nnx.initializers.zeros),
}
Init = Literal["xavier", "trunc_normal"]


def size_of(name: str) -> dict[str, int]:
  """Returns width, depth, mlp and heads of a published size such as "B"."""
  errors.choice("variant", name, SIZES)
  return dict(zip(("width", "depth", "mlp", "heads"), SIZES[name], strict=True))


def sized(variant: str, **changes: int | None) -> dict[str, int]:
  """Returns a published size, with the changes that are not None.

  Raises:
    UserError: if the heads don't divide the width.
  """
  size = size_of(variant) | {k: v for k, v in changes.items() if v is not None}
  if size["width"] % size["heads"]:
    allowed = f"a divisor of the width {size['width']}"
    remedy = "Change heads or width."
    raise errors.UserError("heads", size["heads"], allowed, remedy)
  return size


def remat_policy(name: str) -> Callable | None:
  """Returns the jax.checkpoint policy of that name, None for "none".

  A convolution counts as a linear layer, and so does fused attention: its
  backward pass does without the logits, but not without the result. The
  statistics of a batch, which are small, are kept in any case.
  """
  policies = [p for p in dir(jax.checkpoint_policies) if p.endswith("able")]
  errors.choice("remat", name, ["none", *policies])
  if name == "none":
    return None
  policy = getattr(jax.checkpoint_policies, name)
  named = jax.checkpoint_policies.save_only_these_names(norms.SAVED)
  linear = {"dimension_numbers": (((), ()), ((), ()))}  # No batch dimensions.

  def keeps(primitive, *args, **params):
    if named(primitive, *args, **params):
      return True
    is_convolution = primitive is primitives.conv_general_dilated_p
    if is_convolution or primitive.name == cudnn.FORWARD:
      primitive, params = primitives.dot_general_p, linear
    return policy(primitive, *args, **params)

  return keeps


class Mlp(nnx.Module):
  """Two dense layers with an activation between them."""

  def __init__(
    self, width, mlp, activation, dtype, rngs: nnx.Rngs, *, bias=True,
    init: Init = "xavier",
  ):  # fmt: skip
    kwargs = dict(dtype=dtype, use_bias=bias, rngs=rngs)
    kwargs["kernel_init"], kwargs["bias_init"] = INITS[init]
    self.fc1 = nnx.Linear(width, mlp, **kwargs)
    self.fc2 = nnx.Linear(mlp, width, **kwargs)
    self.activation = ACTIVATIONS[activation]

  def __call__(self, x: Sequence) -> Sequence:
    return self.fc2(self.activation(self.fc1(x)))


class Block(nnx.Module):
  """x + attention(norm x), then x + mlp(norm x); post-norm: norms of sums."""

  def __init__(
    self, width, mlp, heads, *, post_norm, activation, eps, init, dtype, rngs
  ):
    norm = dict(epsilon=eps, dtype=dtype, rngs=rngs)
    self.norm1 = nnx.LayerNorm(width, **norm)
    self.attention = Attention(width, heads, dtype, rngs, init=INITS[init][0])
    self.norm2 = nnx.LayerNorm(width, **norm)
    self.mlp = Mlp(width, mlp, activation, dtype, rngs, init=init)
    self.post_norm = post_norm

  def __call__(
    self,
    x: Sequence,
    causal: Causal,
    drop: Callable[[Sequence, int], Sequence],
    mask: Mask = None,
  ) -> Sequence:
    if self.post_norm:
      x = self.norm1(x + drop(self.attention(x, x, causal, mask), 0))
      return self.norm2(x + drop(self.mlp(x), 1))
    y = self.norm1(x)
    x = x + drop(self.attention(y, y, causal, mask), 0)
    return x + drop(self.mlp(self.norm2(x)), 1)

  def step(
    self, x: Sequence, cache: KeysValues, place: jax.Array
  ) -> tuple[Sequence, KeysValues]:
    """The next tokens of a pre-norm block; see Attention.step."""
    y, cache = self.attention.step(self.norm1(x), cache, place)
    return x + y + self.mlp(self.norm2(x + y)), cache


class Transformer(nnx.Module):
  """Blocks stacked on a leading layer axis and scanned, then a layer norm.

  With post-norm blocks (arXiv:1706.03762, BERT) that norm comes first: they
  end with a norm of their own and expect normalized input.

  Args:
    width, depth, mlp, heads, causal: see `SIZES` and attention.Causal.
    dropout: rate, on the output of attention and of the MLP.
    remat: what a block keeps for the backward pass: "none" keeps all, else
      the name of a jax.checkpoint policy: `REMAT`; "nothing_saveable" takes
      the least memory and computes the forward pass twice.
    pin: splits activations over the mesh's batch axes; without it FSDP needs
      many times the memory (research/jax.md 3.3).
    post_norm: whether norms follow the residual sums.
    drop_path: rate of omitted residual branches (stochastic depth) of the last
      block, and a part of it that grows linearly with depth, from 0 of the
      first; evaluation omits none.
    init: of the blocks, see INITS.
  """

  def __init__(
    self, width, depth, mlp, heads, *, causal, activation, eps, dropout,
    remat, dtype, pin: Callable, rngs: nnx.Rngs, post_norm: bool = False,
    drop_path: float = 0.0, init: Init = "xavier",
  ):  # fmt: skip
    def block(key):
      kwargs = dict(activation=activation, eps=eps, init=init, dtype=dtype)
      kwargs |= dict(post_norm=post_norm, rngs=nnx.Rngs(key))
      return Block(width, mlp, heads, **kwargs)

    self.blocks = jax.vmap(block)(jax.random.split(rngs.params(), depth))
    self.norm = nnx.LayerNorm(width, epsilon=eps, dtype=dtype, rngs=rngs)
    self.depth, self.causal = depth, causal
    self.dropout, self.drop_path = dropout, drop_path
    self.width, self.mlp_width = width, mlp
    remat_policy(remat)  # Rejects a wrong name before anything is compiled.
    self.remat, self.pin, self.post_norm = remat, pin, post_norm
    self.locked = 0  # The first blocks, where frozen: see Built.lock.

  def __call__(
    self, x: Sequence, keys: ExampleKeys = None, mask: Mask = None
  ) -> Sequence:
    x = self.norm(x) if self.post_norm else x
    x = self.run(x, keys, mask)
    return x if self.post_norm else self.norm(self.pin(x))

  def run(
    self, x: Sequence, keys: ExampleKeys = None, mask: Mask = None
  ) -> Sequence:
    """Returns what the last block does, without the norm."""

    def layer(x, block_and_index):
      block, index = block_and_index

      def drop(y, place):
        y = dropout(y, self.dropout, keys, 2 * index + place)
        if not self.drop_path:
          return y
        rate = self.drop_path * index / max(1, self.depth - 1)
        # Other numbers than those of dropout.
        return drop_path(y, rate, keys, 2 * (self.depth + index) + place)

      return block(self.pin(x), self.causal, drop, mask), None

    if self.remat != "none":
      policy = remat_policy(self.remat)
      layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    blocks = self.blocks, jnp.arange(self.depth)
    if self.locked:  # Nothing goes back to blocks of which nothing is trained.
      first = jax.tree.map(lambda p: p[: self.locked], blocks)
      x, _ = jax.lax.scan(layer, x, jax.lax.stop_gradient(first))
      blocks = jax.tree.map(lambda p: p[self.locked :], blocks)
    return jax.lax.scan(layer, x, blocks)[0]

  def attention(self, x: Sequence) -> Float[Array, "b h l"]:
    """Returns what the first token attends to in the last, pre-norm block."""
    before, last = (
      jax.tree.map(lambda p, part=part: p[part], self.blocks)
      for part in (slice(self.depth - 1), self.depth - 1)
    )

    def layer(x, block):
      return block(self.pin(x), self.causal, lambda y, _: y), None

    x = last.norm1(jax.lax.scan(layer, x, before)[0])
    return last.attention.weights(x[:, :1], x)[:, :, 0]

  def step(
    self, x: Sequence, cache: KeysValues, place: jax.Array
  ) -> tuple[Sequence, KeysValues]:
    """Causal pre-norm blocks over the tokens from `place` on, as `run`.

    Args:
      x, place: those tokens, and how many were before.
      cache: of each block, see Attention.step: leaves [depth, b, l, h, k].
    """

    def layer(x, block_and_cache):
      block, cache = block_and_cache
      return block.step(x, cache, place)

    return jax.lax.scan(layer, x, (self.blocks, cache))

  def empty(self, size: int, length: int) -> KeysValues:
    """Returns a cache for `size` sequences of at most `length` tokens."""
    return jax.vmap(lambda b: b.attention.empty(size, length))(self.blocks)

  def flops(self, length: int) -> float:
    """Returns forward FLOPs of one sequence, two per multiply-add."""
    matmuls = 4 * self.width**2 + 2 * self.width * self.mlp_width
    attention = 2 * length * self.width
    return 2.0 * self.depth * length * (matmuls + attention)
