"""A model with a decoder, token by token: what decoding needs of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from big_contrastive.models.attention import KeysValues
from big_contrastive.models.decoder import Cache
from big_contrastive.models.model import Model


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
  text = None
  if model.dec.inputs == "text":
    text = model.txt.encoder.empty(len(tokens), length)
  return State(text, model.dec.start(tokens, length, mask))


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
  place, text = state.decoder.place, state.text
  if text is None:
    x = model.dec.embedded(ids, place)
  else:
    x, text = model.txt.step(ids, text, place)
  x, decoder = model.dec.step(x, state.decoder)
  return model.dec.scores(x[:, -1]), State(text, decoder)


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

  decoder = state.decoder._replace(own=of(state.decoder.own))
  if images:
    mask = None if decoder.mask is None else decoder.mask[rows]
    decoder = decoder._replace(cross=of(decoder.cross), mask=mask)
  return State(of(state.text), decoder)


def told(model: Model, image: jax.Array, ids: jax.Array) -> jax.Array:
  """Returns the logits of what follows each token, float32 [b, l, V].

  All at once, as in training, where `advance` goes token by token.

  Args:
    model: with a decoder.
    image: as its image tower takes them, [b, ...].
    ids: of captions, int32 [b, l].
  """
  tokens, _, mask = model.img.features(image)
  if model.dec.inputs == "text":
    x = model.txt.features(ids).tokens
  else:
    x = model.dec.embedded(ids)
  return model.dec.scores(model.dec(x, tokens, mask=mask))
