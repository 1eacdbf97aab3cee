"""What a decoder is taught: the tokens it gets, and those it should tell."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Ids(Protocol):
  """What is needed of a tokenizer, see models.build.TextSizes."""

  pad_id: int
  bos_id: int | None
  eos_id: int | None


class Taught(NamedTuple):
  """Rows of captions: inputs and targets int32 [b, l], real bool [b, l]."""

  inputs: jax.Array
  targets: jax.Array
  real: jax.Array


def taught(tokens: jax.Array, ids: Ids) -> Taught:
  """Returns the inputs and the targets of captions.

  A target is the token after its input. Captions that begin with BOS are cut,
  l = length - 1; to others padding is the beginning, l = length, as in CapPa.
  Real are the targets up to EOS, whatever pads behind it: the published codes
  compare with a padding id, which may be EOS, or a token of the text.

  Args:
    tokens: int32 [b, length].
    ids: of the tokenizer.
  """
  inputs, targets = tokens[:, :-1], tokens[:, 1:]
  if ids.bos_id is None:
    inputs = jnp.pad(inputs, ((0, 0), (1, 0)), constant_values=ids.pad_id)
    targets = tokens
  return Taught(inputs, targets, real(targets, ids))


def real(tokens: jax.Array, ids: Ids) -> jax.Array:
  """Returns which are tokens up to EOS, bool [b, l]; without EOS, not pads."""
  if ids.eos_id is None:
    return tokens != ids.pad_id
  ended = jnp.cumsum(tokens == ids.eos_id, axis=-1)
  before = ended - (tokens == ids.eos_id)
  return before == 0


def begins(ids: Ids) -> int:
  """Returns the token before the first of a caption."""
  return ids.pad_id if ids.bos_id is None else ids.bos_id
