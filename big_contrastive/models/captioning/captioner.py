"""A model with a decoder, token by token: what decoding needs of it."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from big_contrastive.models.attention import Causal, KeysValues, Mask, Sequence
from big_contrastive.models.decoder import Cache
from big_contrastive.models.layers import ExampleKeys
from big_contrastive.models.model import Model


class Decodes(Protocol):
  """What tells captions: a decoder.Decoder, or a text tower such as BLIP's.

  Attributes:
    inputs, cross, parallel: see decoder.Decoder; mask_id only with parallel.
    vocab_size, length: tokens that there are; the most of a caption.
  """

  inputs: str
  cross: str
  parallel: bool
  mask_id: int
  vocab_size: int
  length: int

  def embedded(self, ids: jax.Array, place: int | jax.Array = 0) -> Sequence:
    """Returns vectors of the tokens from `place` on; of inputs = "ids"."""

  def decoded(
    self,
    x: Sequence,
    memory: Sequence,
    *,
    causal: Causal = True,
    keys: ExampleKeys = None,
    mask: Mask = None,
  ) -> Sequence:
    """Returns what the vocabulary gets, see decoder.Decoder."""

  def start(self, memory: Sequence, length: int, mask: Mask = None) -> Cache:
    """Returns the cache of captions of at most `length` tokens, none yet."""

  def step(self, x: Sequence, cache: Cache) -> tuple[Sequence, Cache]:
    """Returns what `decoded` does for the next tokens, and the longer cache."""

  def scores(self, x: jax.Array) -> jax.Array:
    """Returns the logits of what `decoded` or `step` returned, float32."""

  def logit_weights(self) -> tuple[jax.Array, jax.Array]:
    """Returns kernel [w, V] and bias [V] of the logits."""


def decoder(model: Model) -> Decodes | None:
  """Returns the model's decoder, or its text tower if that decodes."""
  own = getattr(model, "dec", None)
  text: Any = getattr(model, "txt", None)
  return text if own is None and getattr(text, "decodes", False) else own


class State(NamedTuple):
  """What is known of captions so far, [b] of them.

  text: of the text tower, where the decoder takes its tokens; else None.
  decoder: see decoder.Cache.
  """

  text: KeysValues | None
  decoder: Cache


def start(
  model: Model, tokens: jax.Array, mask: jax.Array | None, length: int
) -> State:
  """Returns the state of captions of at most `length` tokens, none yet.

  Args:
    model: with a decoder.
    tokens: of the images, [b, m, w].
    mask: which of these are real, bool [b, m]; None for all.
    length: tokens of a caption, BOS included.
  """
  text, dec = None, decoder(model)
  if dec.inputs == "text":
    text = model.txt.encoder.empty(len(tokens), length)
  return State(text, dec.start(tokens, length, mask))


def advance(
  model: Model, ids: jax.Array, state: State
) -> tuple[jax.Array, State]:
  """Returns the logits of the token after these, and the longer state.

  Args:
    model: as in `start`.
    ids: the next tokens, int32 [b, q].
    state: of those before.

  Returns:
    logits float32 [b, V], state.
  """
  place, text, dec = state.decoder.place, state.text, decoder(model)
  if text is None:
    x = dec.embedded(ids, place)
  else:
    x, text = model.txt.step(ids, text, place)
  x, cache = dec.step(x, state.decoder)
  return dec.scores(x[:, -1]), State(text, cache)


def picked(state: State, rows: jax.Array, images: bool) -> State:
  """Returns the state of some captions.

  Args:
    state: of several.
    rows: int32 [n].
    images: whether a row's image may be another; if not, what is known of
      images, the most of it, stays in place.
  """

  def of(caches: KeysValues | None) -> KeysValues | None:
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=1), caches)

  cache = state.decoder._replace(own=of(state.decoder.own))
  if images:
    mask = None if cache.mask is None else cache.mask[rows]
    cache = cache._replace(cross=of(cache.cross), mask=mask)
  return State(of(state.text), cache)


def told(model: Model, image: jax.Array, ids: jax.Array) -> jax.Array:
  """Returns the logits of what follows each token, float32 [b, l, V].

  All at once, as in training, where `advance` goes token by token.

  Args:
    model: with a decoder.
    image: as its image tower takes them, [b, ...].
    ids: of captions, int32 [b, l].
  """
  tokens, _, mask = model.img.features(image)
  return after(model, tokens, mask, ids)


def after(
  model: Model, tokens: jax.Array, mask: jax.Array | None, ids: jax.Array
) -> jax.Array:
  """Returns what `told` does, of images' tokens.

  Args:
    model: with a decoder.
    tokens, mask: of the images, [b, m, w] and bool [b, m] or None.
    ids: of captions, int32 [b, l]; or [1, l], of one for all images.
  """
  dec = decoder(model)
  if dec.inputs == "text":
    x = model.txt.features(ids).tokens
  else:
    x = dec.embedded(ids)
  x = jnp.broadcast_to(x, (len(tokens), *x.shape[1:]))
  return dec.scores(dec.decoded(x, tokens, mask=mask))
