"""Attention: of a sequence to itself or to another, at once or step by step."""

from typing import NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from big_contrastive.models import cudnn

Sequence = Float[Array, "b l w"]
Mask = Bool[Array, "b l"] | None  # True where a token is attended; None: all.
# Whether a token sees only those before it: of all examples, or of each.
Causal = bool | Bool[Array, " b"]

xavier = nnx.initializers.xavier_uniform()


class KeysValues(NamedTuple):
  """What tokens are attended by: key and value, [b, l, heads, k] each."""

  key: jax.Array
  value: jax.Array


class Attention(nnx.Module):
  """Multi-head attention; logits and softmax are float32.

  Args:
    width: of the queries and of the result.
    heads: a divisor of the width.
    dtype: compute dtype.
    memory: width of what is attended; None for `width`.
    bias: whether the linear layers have one.
    init: how their kernels are drawn.

  Attributes:
    fusible: whether cuDNN may compute it: masks are of padding, at the end.
    fused: whether it does, where it can; models.build decides.
  """

  fusible, fused = True, False

  def __init__(
    self, width, heads, dtype, rngs: nnx.Rngs, *, memory=None, bias=True,
    init=xavier,
  ):  # fmt: skip
    kwargs = dict(dtype=dtype, kernel_init=init, use_bias=bias, rngs=rngs)
    split, memory = (heads, width // heads), memory or width
    self.query = nnx.LinearGeneral(width, split, **kwargs)
    self.key = nnx.LinearGeneral(memory, split, **kwargs)
    self.value = nnx.LinearGeneral(memory, split, **kwargs)
    self.out = nnx.LinearGeneral(split, width, axis=(-2, -1), **kwargs)

  def __call__(
    self,
    queries: Float[Array, "b q w"],
    x: Float[Array, "b l m"],
    causal: Causal = False,
    mask: Mask = None,
  ) -> Float[Array, "b q w"]:
    query = self.query(queries)  # Before the others: XLA keeps the order.
    known = self.keys_values(x)
    return self.out(attend(query, *known, causal, mask, fused=self.fused))

  def weights(
    self, queries: Float[Array, "b q w"], x: Float[Array, "b l m"]
  ) -> Float[Array, "b h q l"]:
    """Returns what each query attends to, float32; over x they sum to 1."""
    query = self.query(queries)
    logits = jnp.einsum(
      "bqhk,blhk->bhql", query, self.key(x), preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits * query.shape[-1] ** -0.5)

  def keys_values(self, x: Float[Array, "b l m"]) -> KeysValues:
    return KeysValues(self.key(x), self.value(x))

  def to(
    self,
    queries: Float[Array, "b q w"],
    known: KeysValues,
    mask: Mask = None,
  ) -> Float[Array, "b q w"]:
    """Attends to what `keys_values` returned."""
    y = attend(self.query(queries), *known, mask=mask, fused=self.fused)
    return self.out(y)

  def step(
    self, x: Float[Array, "b q w"], cache: KeysValues, place: Int[Array, ""]
  ) -> tuple[Float[Array, "b q w"], KeysValues]:
    """Causal attention of the tokens from `place` on, and the longer cache.

    Args:
      x: the tokens place, place + 1, ...
      cache: of the tokens before; rows from `place` on don't matter.
      place: how many these are.
    """
    cache = jax.tree.map(
      lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, place, 1),
      cache, self.keys_values(x),
    )  # fmt: skip
    y = attend(self.query(x), *cache, causal=True, place=place)
    return self.out(y), cache

  def empty(self, size: int, length: int) -> KeysValues:
    """Returns a cache for `size` sequences of at most `length` tokens."""
    heads, width = self.key.out_features
    zeros = jnp.zeros((size, length, heads, width), self.key.dtype)
    return KeysValues(zeros, zeros)


def attend(
  query: Float[Array, "b q h k"],
  key: Float[Array, "b l h k"],
  value: Float[Array, "b l h k"],
  causal: Causal = False,
  mask: Mask = None,
  place: int | Int[Array, ""] = 0,
  fused: bool = False,
) -> Float[Array, "b q h k"]:
  """Returns softmax(query key^T / sqrt(k)) value, for each head.

  Logits and softmax are float32 for any dtype.

  Args:
    query, key, value: see above.
    causal: whether a query sees the keys up to its own place only; of all
      examples, or bool [b].
    mask: keys are seen that are True, bool [b, l].
    place: that of the first query among the keys.
    fused: whether cuDNN computes what it can: then keys that are seen come
      before those that are not, and `place` is 0.
  """
  if fused and cudnn.takes(query, key, causal):
    return cudnn.attend(query, key, value, bool(causal), mask)
  # CPUs multiply twice as fast with heads before rows, which is not the order
  # of jax.nn.dot_product_attention; TPU compilers choose layouts themselves.
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  logits = jnp.einsum(
    "bhqk,bhlk->bhql", query, key, preferred_element_type=jnp.float32
  )
  logits *= query.shape[-1] ** -0.5
  visible = jnp.ones((1, 1, 1, 1), bool)
  if causal is not False:
    queries, keys = (jnp.arange(n) for n in logits.shape[2:])
    visible = (keys[None] <= queries[:, None] + place)[None, None]
    if causal is not True:
      visible |= ~causal[:, None, None, None]
  if mask is not None:
    visible &= mask[:, None, None, :]
  logits = jnp.where(visible, logits, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(logits).astype(value.dtype)
  y = jnp.einsum("bhql,bhlk->bhqk", weights, value)
  return jnp.swapaxes(y, 1, 2)
