"""Pooling by attention: learned queries that see all of the tokens."""

import flax.nnx as nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.models.attention import (
  Attention,
  Mask,
  Sequence,
  xavier,
)
from big_contrastive.models.layers import Mlp


class MapHead(nnx.Module):
  """Multi-head attention pooling with one learned query (arXiv:2106.04560)."""

  def __init__(self, width, mlp, heads, *, activation, eps, dtype, rngs):
    self.probe = nnx.Param(xavier(rngs.params(), (1, width)))
    self.attention = Attention(width, heads, dtype, rngs)
    self.attention.fusible = False  # Of one query.
    self.norm = nnx.LayerNorm(width, epsilon=eps, dtype=dtype, rngs=rngs)
    self.mlp = Mlp(width, mlp, activation, dtype, rngs)

  def __call__(self, x: Sequence, mask: Mask = None) -> Float[Array, "b w"]:
    shape = (x.shape[0], *self.probe.shape)
    probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), shape)
    y = self.attention(probe, x, mask=mask)
    return (y + self.mlp(self.norm(y)))[:, 0]


class QueryPool(nnx.Module):
  """Learned queries that pool tokens by attention, for CoCa (arXiv:2205.01917).

  As in OpenCLIP, without an MLP. `norm` is that of the result; what is pooled
  is normalized already.

  Args:
    width: of the tokens that are pooled.
    out_dim: of the queries and of the result.
    queries: how many.
    heads: a divisor of out_dim.
  """

  def __init__(self, width, out_dim, queries, heads, *, eps, dtype, rngs):
    norm = dict(epsilon=eps, dtype=dtype, rngs=rngs)
    normal = nnx.initializers.normal(1.0)
    self.query = nnx.Param(normal(rngs.params(), (queries, out_dim)))
    self.query_norm = nnx.LayerNorm(out_dim, **norm)
    self.attention = Attention(out_dim, heads, dtype, rngs, memory=width)
    self.attention.fusible = False
    self.norm = nnx.LayerNorm(out_dim, **norm)

  def __call__(
    self, x: Sequence, mask: Mask = None
  ) -> Float[Array, "b queries d"]:
    query = self.query_norm(self.query[...])
    query = jnp.broadcast_to(query, (len(x), *query.shape))
    return self.norm(self.attention(query, x, mask=mask))
