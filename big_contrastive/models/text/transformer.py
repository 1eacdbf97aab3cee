"""The text tower: a transformer over token ids."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.config import errors
from big_contrastive.models import Features, layers
from big_contrastive.models.layers import ExampleKeys

# Pools of one token that is not padding.
_NEVER_PADDING = ("first", "eos", "argmax")


class TextTower(nnx.Module):
  """Token ids to vectors.

  SigLIP and CLIP need no mask: padding is attended (SigLIP) or follows the
  pooled token (CLIP). BERT (arXiv:1810.04805), LiT's text tower, is
  norm="post", segments=2, pad_id=0, eps=1e-12 and pool="first".

  Args:
    variant: a size such as "B", see transformer.SIZES.
    vocab_size, length: of the tokenizer.
    eos_id: of the tokenizer; needed for pool="eos".
    out_dim: width of the last linear layer; None for none.
    out_bias: whether that layer has a bias (it does in SigLIP, not in CLIP).
    pool: "last" token (SigLIP), "eos" the first EOS (CLIP), "first" (BERT),
      "mean", "map" attention pooling, or "argmax", the first of the largest
      ids (OpenAI's CLIP, where that is EOS).
    causal: whether a token sees only those before it (CLIP).
    norm: "pre", before attention and MLP, or "post", after the residual sums.
    segments: rows of BERT's segment embedding; 0 for none. The first is added
      to every token; the others are stored but not used.
    pad_id: the tokenizer's padding id, if no token may attend to it.
    positions: rows of the position table; None for length. BERT's has 512, of
      which LiT's texts use 16.
    width, depth, mlp, heads: override those of the variant.
    eps, activation, dropout, remat: see transformer.Transformer.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    variant: str,
    *,
    vocab_size: int,
    length: int,
    eos_id: int | None = None,
    out_dim: int | None = None,
    out_bias: bool = True,
    pool: Literal["last", "eos", "argmax", "first", "mean", "map"] = "last",
    causal: bool = False,
    norm: Literal["pre", "post"] = "pre",
    segments: int = 0,
    pad_id: int | None = None,
    positions: int | None = None,
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
    if pool == "eos" and eos_id is None:
      remedy = "Use another pool, or a tokenizer that ends texts with EOS."
      allowed = "a pool that needs no EOS"
      raise errors.UserError("pool", pool, allowed, remedy)
    if pad_id is not None and pool not in _NEVER_PADDING:
      allowed = f"one of {', '.join(_NEVER_PADDING)} where padding is masked"
      remedy = "Or set pad_id = None."
      raise errors.UserError("pool", pool, allowed, remedy)
    w = size["width"]
    self.pool, self.eos_id, self.dtype = pool, eos_id, dtype
    self.length, self.pad_id = length, pad_id
    self.has_segments, self.projects = segments > 0, out_dim is not None
    normal = nnx.initializers.normal(w**-0.5)
    linear = dict(dtype=dtype, rngs=rngs)
    self.embed = nnx.Embed(vocab_size, w, embedding_init=normal, **linear)
    self.pos = nnx.Param(normal(rngs.params(), (positions or length, w)))
    if segments:
      self.segment = nnx.Param(normal(rngs.params(), (segments, w)))
    kwargs = dict(activation=activation, eps=eps, dtype=dtype, rngs=rngs)
    self.encoder = layers.Transformer(
      **size, causal=causal, dropout=dropout, remat=remat, pin=pin,
      post_norm=norm == "post", **kwargs,
    )  # fmt: skip
    if pool == "map":
      self.head = layers.MapHead(w, size["mlp"], size["heads"], **kwargs)
    if out_dim is not None:
      self.project = nnx.Linear(w, out_dim, use_bias=out_bias, **linear)
    self.out_dim = out_dim or w

  def features(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Features:
    """Returns tokens [b, l, w] and pooled vectors [b, w], in compute dtype.

    Args:
      tokens: ids, padded to the tokenizer's length.
      keys: one per example, for dropout; None evaluates.
    """
    pos = self.pos[: tokens.shape[1]]
    if self.has_segments:
      pos = pos + self.segment[0][None]
    mask = None if self.pad_id is None else tokens != self.pad_id
    x = self.embed(tokens) + pos.astype(self.dtype)[None]
    x = self.encoder(x, keys, mask)
    return Features(x, self._pool(x, tokens), mask)

  def __call__(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    x = self.features(tokens, keys).pooled
    x = self.project(x) if self.projects else x
    return x.astype(jnp.float32)

  def flops(self, train: bool = True) -> float:
    """Returns forward FLOPs of one text."""
    return self.encoder.flops(self.length)

  def _pool(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
    if self.pool == "map":
      return self.head(x)
    if self.pool == "mean":
      return x.mean(axis=1)
    if self.pool in ("eos", "argmax"):
      eos = tokens == self.eos_id if self.pool == "eos" else tokens
      first = jnp.argmax(eos, axis=1)
      return jnp.take_along_axis(x, first[:, None, None], axis=1)[:, 0]
    return x[:, -1] if self.pool == "last" else x[:, 0]


tower = TextTower
