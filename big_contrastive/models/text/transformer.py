"""The text tower: a transformer over token ids."""

from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.config import errors
from big_contrastive.models import Features, layers, pooling
from big_contrastive.models.attention import KeysValues
from big_contrastive.models.layers import ExampleKeys

# Pools of one token that is not padding.
_NEVER_PADDING = ("first", "eos", "argmax", "cls")


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
      "mean", "map" attention pooling, "argmax", the first of the largest ids
      (OpenAI's CLIP, where that is EOS), or "cls", a learned token behind the
      text (CoCa); only with pad_id.
    causal: whether a token sees only those before it (CLIP).
    norm: "pre", before attention and MLP, or "post", after the residual sums.
    segments: rows of BERT's segment embedding; 0 for none. The first is added
      to every token; the others are stored but not used.
    pad_id: the tokenizer's padding id, if no token may attend to it.
    shifted_mask: whether the mask of padding is one place late, and the first
      token always seen, as in the CoCa models that OpenCLIP published.
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
    pool: Literal[
      "last", "eos", "argmax", "first", "mean", "map", "cls"
    ] = "last",
    causal: bool = False,
    norm: Literal["pre", "post"] = "pre",
    segments: int = 0,
    pad_id: int | None = None,
    shifted_mask: bool = False,
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
    _check_cls(pool, pad_id, shifted_mask, segments > 0 or norm == "post")
    w = size["width"]
    self.pool, self.eos_id, self.dtype = pool, eos_id, dtype
    self.length, self.pad_id = length, pad_id
    self.causal, self.shifted_mask = causal, shifted_mask
    self.has_segments, self.projects = segments > 0, out_dim is not None
    normal = nnx.initializers.normal(w**-0.5)
    linear = dict(dtype=dtype, rngs=rngs)
    self.embed = nnx.Embed(vocab_size, w, embedding_init=normal, **linear)
    rows = (positions or length) + (pool == "cls")
    self.pos = nnx.Param(normal(rngs.params(), (rows, w)))
    if pool == "cls":
      self.cls = nnx.Param(normal(rngs.params(), (w,)))
    if segments:
      self.segment = nnx.Param(normal(rngs.params(), (segments, w)))
    kwargs = dict(activation=activation, eps=eps, dtype=dtype, rngs=rngs)
    self.encoder = layers.Transformer(
      **size, causal=causal, dropout=dropout, remat=remat, pin=pin,
      post_norm=norm == "post", **kwargs,
    )  # fmt: skip
    # That token is seen, behind padding that is not.
    self.encoder.blocks.attention.fusible = pool != "cls" or shifted_mask
    if pool == "map":
      self.head = pooling.MapHead(w, size["mlp"], size["heads"], **kwargs)
    if out_dim is not None:
      self.project = nnx.Linear(w, out_dim, use_bias=out_bias, **linear)
    self.out_dim = out_dim or w

  def features(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Features:
    """Returns tokens [b, l, w] and pooled vectors [b, w], in compute dtype.

    With pool="cls" the tokens are without the last norm, for a decoder.

    Args:
      tokens: ids, padded to the tokenizer's length.
      keys: one per example, for dropout; None evaluates.
    """
    if self.pool == "cls":
      return self._with_cls(tokens, keys)
    pos = self.pos[: tokens.shape[1]]
    if self.has_segments:
      pos = pos + self.segment[0][None]
    mask = None if self.pad_id is None else tokens != self.pad_id
    x = self.embed(tokens) + pos.astype(self.dtype)[None]
    x = self.encoder(x, keys, mask)
    return Features(x, self._pool(x, tokens), mask)

  def _with_cls(self, tokens, keys):
    real = tokens != self.pad_id
    last = jnp.ones((len(tokens), 1), bool)
    both = [last, real] if self.shifted_mask else [real, last]
    pos = self.pos[...].astype(self.dtype)
    # The last row is that of the learned token, whatever the text's length.
    rows = jnp.concatenate([pos[: tokens.shape[1]], pos[-1:]])[None]
    cls = jnp.broadcast_to(
      self.cls[...].astype(self.dtype), (len(tokens), 1, pos.shape[1])
    )
    x = jnp.concatenate([self.embed(tokens), cls], axis=1) + rows
    x = self.encoder.run(x, keys, jnp.concatenate(both, axis=1))
    return Features(x[:, :-1], self.encoder.norm(x[:, -1]), real)

  def step(
    self, tokens: Int[Array, "b q"], cache: KeysValues, place: Int[Array, ""]
  ) -> tuple[Float[Array, "b q w"], KeysValues]:
    """Returns the tokens of `features` for the next ids, and a longer cache.

    Of a causal tower with pool="cls", for texts without padding.

    Args:
      tokens: the ids from `place` on.
      cache: of those before, see layers.Transformer.step.
      place: how many these are.
    """
    pos = jax.lax.dynamic_slice_in_dim(self.pos[...], place, tokens.shape[1])
    x = self.embed(tokens) + pos.astype(self.dtype)[None]
    return self.encoder.step(x, cache, place)

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


def _check_cls(pool: str, pad_id: Any, shifted: bool, bert: bool) -> None:
  """Raises UserError for fields that a learned token behind texts excludes."""
  if pool == "cls" and (pad_id is None or bert):
    allowed = '"cls" only with pad_id, without segments, and norm = "pre"'
    remedy = "Set pad_id to the tokenizer's, or choose another pool."
    raise errors.UserError("pool", pool, allowed, remedy)
  if shifted and pool != "cls":
    allowed, remedy = 'False unless pool = "cls"', "Leave it out."
    raise errors.UserError("shifted_mask", shifted, allowed, remedy)


tower = TextTower
