"""The text tower of BLIP (arXiv:2201.12086): one BERT, used three ways."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.config import errors
from big_contrastive.models import Features, layers
from big_contrastive.models.attention import (
  Attention,
  Causal,
  Sequence,
)
from big_contrastive.models.decoder import Cache
from big_contrastive.models.layers import ExampleKeys
from big_contrastive.models.text._blip_blocks import Blocks, Memory, Mode, Seen

_STD = 0.02  # Of initial embeddings, as in BERT.


class Blip(nnx.Module):
  """Token ids to vectors; with an image's tokens, to a match, and to captions.

  1. As an encoder of text alone: `features`, and calling it.
  2. As an encoder that sees an image: `grounded`, then `matched`.
  3. As a causal decoder that sees an image: see captioner.Decodes.

  The third has self-attention of its own; everything else is shared. Images are
  seen in every block, between self-attention and MLP.

  Args:
    variant: a size such as "B", see layers.SIZES.
    vocab_size, length: of the tokenizer. A text begins with BOS.
    pad_id: the tokenizer's padding, which no token attends to.
    memory: width of an image's tokens.
    eos_id: the tokenizer's; nothing here depends on it, files have it.
    encoder, decoder: whether it can be used as such; Hugging Face's retrieval
      models are encoders alone, their captioning models decoders alone.
    match: whether an encoder tells if a text matches an image.
    out_dim: width of a last linear layer, of an encoder; None for none.
    enc_id, dec_id: ids that take the place of a text's first token where the
      encoder sees an image, and in the decoder; None keeps it. BLIP has two
      more than BERT, [ENC] = 30,523 and [DEC] = 30,522.
    positions: rows of the position table; None for length. BERT's has 512.
    width, depth, mlp, heads: override those of the variant.
    eps, activation, dropout, remat: see layers.Transformer.
    dtype: compute dtype; parameters are float32 always.
  """

  # As a decoder it is like this, see models.decoder.Decoder.
  inputs, cross, parallel = "ids", "attention", False

  def __init__(
    self,
    variant: str,
    *,
    vocab_size: int,
    length: int,
    pad_id: int,
    memory: int,
    eos_id: int | None = None,
    encoder: bool = True,
    decoder: bool = True,
    match: bool = True,
    out_dim: int | None = None,
    enc_id: int | None = None,
    dec_id: int | None = None,
    positions: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    mlp: int | None = None,
    heads: int | None = None,
    eps: float = 1e-12,
    activation: layers.Activation = "gelu",
    dropout: float = 0.0,
    remat: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    size = layers.sized(variant, width=width, depth=depth, mlp=mlp, heads=heads)
    _check(encoder, decoder, out_dim)
    for name, i in {"enc_id": enc_id, "dec_id": dec_id}.items():
      if i is not None and not 0 <= i < vocab_size:
        allowed = f"None, or an id below the {vocab_size} of the vocabulary"
        remedy = "Set vocab_size to the tokenizer's, and one for each new id."
        raise errors.UserError(name, i, allowed, remedy)
    w = size["width"]
    self.vocab_size, self.length, self.pad_id = vocab_size, length, pad_id
    self.encodes, self.decodes = encoder, decoder
    self.matches = encoder and match
    self.projects = out_dim is not None
    self.enc_id, self.dec_id, self.dtype = enc_id, dec_id, dtype
    linear = dict(dtype=dtype, rngs=rngs)
    normal = nnx.initializers.normal(_STD)
    self.embed = nnx.Embed(vocab_size, w, embedding_init=normal, **linear)
    self.pos = nnx.Param(normal(rngs.params(), (positions or length, w)))
    norm = dict(epsilon=eps, **linear)
    self.norm = nnx.LayerNorm(w, **norm)
    modes: tuple[Mode, ...] = ("encoder",) * encoder + ("decoder",) * decoder
    self.stack = Blocks(
      **size, modes=modes, memory=memory, activation=activation, eps=eps,
      dropout=dropout, remat=remat, pin=pin, **linear,
    )  # fmt: skip
    if self.projects:
      self.project = nnx.Linear(w, out_dim, **linear)
    if self.matches:
      self.match = nnx.Linear(w, 2, rngs=rngs)
    if decoder:
      self.head = nnx.Linear(w, w, **linear)
      self.head_norm = nnx.LayerNorm(w, **norm)
      self.logit_bias = nnx.Param(jnp.zeros((vocab_size,)))
    self.activation = layers.ACTIVATIONS[activation]
    # Without an encoder there are no vectors.
    self.out_dim = (out_dim or w) if encoder else None

  def features(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Features:
    """Returns tokens [b, l, w] and pooled vectors [b, w], in compute dtype.

    Args:
      tokens: ids, padded to the tokenizer's length.
      keys: one per example, for dropout; None evaluates.
    """
    real = tokens != self.pad_id
    x = self._encoded(tokens, real, None, None, keys)
    return Features(x, x[:, 0], real)

  def __call__(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    x = self.features(tokens, keys).pooled
    return (self.project(x) if self.projects else x).astype(jnp.float32)

  def grounded(
    self,
    tokens: Int[Array, "b l"],
    memory: Memory,
    mask: Seen = None,
    keys: ExampleKeys = None,
  ) -> Float[Array, "b l w"]:
    """Returns the states of texts that see images, in compute dtype.

    Args:
      tokens: ids, padded to the tokenizer's length.
      memory: the images' tokens [b, m, memory].
      mask: which of these are real, bool [b, m]; None for all.
      keys: one per example, for dropout; None evaluates.
    """
    real = tokens != self.pad_id
    tokens = _begun(tokens, self.enc_id, 0)
    return self._encoded(tokens, real, memory, mask, keys)

  def matched(self, state: Float[Array, "b l w"]) -> Float[Array, "b 2"]:
    """Returns logits, float32, of "no" and "yes": text and image match.

    Args:
      state: what `grounded` returned.
    """
    return self.match(state[:, 0].astype(jnp.float32))

  def embedded(
    self, ids: Int[Array, "b l"], place: int | Int[Array, ""] = 0
  ) -> Sequence:
    """Returns vectors of a caption's tokens from `place` on, for the decoder.

    The first of all is dec_id, whatever it was.
    """
    return self._embedded(_begun(ids, self.dec_id, place), place)

  def decoded(
    self,
    x: Sequence,
    memory: Memory,
    *,
    causal: Causal = True,
    keys: ExampleKeys = None,
    mask: Seen = None,
  ) -> Sequence:
    """Returns what the vocabulary gets, see models.decoder.Decoder."""

    def attention(own: Attention, y: Sequence) -> Sequence:
      return own(y, y, causal)

    return self._told(self.stack(x, "decoder", attention, memory, mask, keys))

  def start(self, memory: Memory, length: int, mask: Seen = None) -> Cache:
    """Returns the cache of captions of at most `length` tokens, none yet."""
    return self.stack.start(memory, length, mask)

  def step(self, x: Sequence, cache: Cache) -> tuple[Sequence, Cache]:
    """Returns what `decoded` does for the next tokens, and the longer cache."""
    x, cache = self.stack.step(x, cache)
    return self._told(x), cache

  def scores(self, x: Float[Array, "*b w"]) -> Float[Array, "*b v"]:
    """Returns the logits of what `decoded` or `step` returned, float32."""
    kernel, bias = self.logit_weights()
    return x.astype(jnp.float32) @ kernel + bias[(None,) * (x.ndim - 1)]

  def logit_weights(self) -> tuple[Float[Array, "w v"], Float[Array, " v"]]:
    """Returns kernel and bias of the logits; the kernel is the embeddings'."""
    return self.embed.embedding[...].T, self.logit_bias[...]

  def flops(self, train: bool = True, memory: int = 0) -> float:
    """Returns forward FLOPs of one text, without projection and logits.

    Args:
      train: whether to train; it is the same.
      memory: tokens of the image that it sees, of encoder or decoder; 0 for
        text alone.
    """
    return self.stack.flops(self.length, memory)

  def _encoded(self, tokens, real, memory, mask, keys):
    """The encoder's states of tokens [b, l], of which some are real."""
    if not self.encodes:
      remedy = "This one is a decoder: it tells captions."
      raise errors.UserError(
        "config.model.text.encoder", False, "True, to embed texts", remedy
      )

    def attention(own: Attention, y: Sequence) -> Sequence:
      return own(y, y, mask=real)

    x = self._embedded(tokens, 0)
    return self.stack(x, "encoder", attention, memory, mask, keys)

  def _embedded(self, ids, place):
    pos = jax.lax.dynamic_slice_in_dim(self.pos[...], place, ids.shape[1])
    return self.norm(self.embed(ids) + pos.astype(self.dtype)[None])

  def _told(self, x):
    """What the vocabulary gets of the last block's result."""
    return self.head_norm(self.activation(self.head(x)))


def _begun(
  ids: Int[Array, "b l"], first: int | None, place: int | Int[Array, ""]
) -> Int[Array, "b l"]:
  """Returns ids from `place` on, the first of all replaced."""
  if first is None:
    return ids
  return jnp.where(jnp.arange(ids.shape[1]) + place == 0, first, ids)


def _check(encoder: bool, decoder: bool, out_dim: int | None) -> None:
  """Raises UserError for a tower of no use, or a part that it can't have."""
  if not (encoder or decoder):
    remedy = "BLIP has both."
    raise errors.UserError("encoder", False, "True, or decoder = True", remedy)
  if out_dim is not None and not encoder:
    allowed = "None where encoder = False"
    remedy = "A decoder has no vectors to project."
    raise errors.UserError("out_dim", out_dim, allowed, remedy)


tower = Blip
