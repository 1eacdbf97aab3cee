"""Decoding: greedy, nucleus sampling (arXiv:1904.09751) and beam search.

All are scans of fixed length over a cache, so they compile once, and run
batched on all devices. A caption does not depend on the others of its batch.
The rules are those of transformers' `generate`: the same logits give the same
tokens.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from big_contrastive.config import errors

State = Any
# (ids int32 [n, q], state) -> (logits float32 [n, V] of the next, state).
Advance = Callable[[jax.Array, State], tuple[jax.Array, State]]

_NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How captions are generated.

  Args:
    method: "greedy", "nucleus" sampling, or "beam" search.
    max_tokens, min_tokens: of a caption, EOS included; without the prompt.
    beams: of beam search.
    top_p: probability that nucleus sampling draws from.
    temperature: of nucleus sampling.
    repetition_penalty: divides positive logits of tokens that a caption, or
      its prompt, has already, and multiplies negative ones; BLIP has 1.1 for
      nucleus sampling.
    length_penalty: power of the length that divides a beam's log-likelihood.

  Raises:
    UserError: for a value outside of its range.
  """

  method: Literal["greedy", "nucleus", "beam"] = "beam"
  max_tokens: int = 20
  min_tokens: int = 1
  beams: int = 3
  top_p: float = 0.9
  temperature: float = 1.0
  repetition_penalty: float = 1.0
  length_penalty: float = 1.0

  def __post_init__(self):
    errors.choice("method", self.method, ("greedy", "nucleus", "beam"))
    for name in ("max_tokens", "min_tokens", "beams"):
      errors.at_least(name, getattr(self, name), 1)
    if self.min_tokens > self.max_tokens:
      allowed = f"at most max_tokens, {self.max_tokens}"
      raise errors.UserError(
        "min_tokens", self.min_tokens, allowed, "Lower it."
      )
    if not 0 < self.top_p <= 1:
      allowed = "a number above 0, at most 1"
      raise errors.UserError("top_p", self.top_p, allowed, "BLIP has 0.9.")
    for name in ("temperature", "repetition_penalty"):
      value = getattr(self, name)
      if not 0 < value < math.inf:
        allowed = "a finite number above 0"
        raise errors.UserError(name, value, allowed, "1 changes nothing.")
    if not math.isfinite(self.length_penalty):
      value, allowed = self.length_penalty, "a finite number"
      raise errors.UserError("length_penalty", value, allowed, "1 is usual.")


class Ids(NamedTuple):
  """Tokens with a meaning: `start` or a prompt begins a caption, eos ends it.

  eos: None if captions have none: then all have max_tokens.
  pad: fills what is behind EOS.
  """

  eos: int | None
  pad: int


def generate(
  advance: Advance,
  picked: Callable[[State, jax.Array, bool], State],
  state: State,
  prompt: jax.Array,
  how: Decoding,
  ids: Ids,
  keys: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the tokens of captions, and their scores.

  Args:
    advance: the model; the logits of the token after the given ones.
    picked: (state, rows int32 [n], whether their images may be others) -> the
      state of these.
    state: of no token yet, b captions; it has room for the prompt's and
      max_tokens more.
    prompt: int32 [b, q], q >= 1: BOS, and perhaps more.
    how: see Decoding.
    ids: see Ids.
    keys: one per caption, for nucleus sampling.

  Returns:
    tokens int32 [b, max_tokens] behind the prompt, EOS included; scores
    float32 [b]: the log-likelihood, of beam search over length ** penalty.
  """
  if how.method == "beam":
    return _beam(advance, picked, state, prompt, how, ids)
  logits, state = advance(prompt, state)
  size, classes = logits.shape
  rows = jnp.arange(size)
  seen = jnp.zeros((size, classes), bool)
  seen = seen.at[rows[:, None], prompt].set(True, mode="drop")

  def one(carry, i):
    logits, state, done, seen, score = carry
    allowed = _processed(logits, seen, i, how, ids.eos)
    if how.method == "nucleus":
      allowed = _nucleus(allowed / how.temperature, how.top_p)
      each = jax.vmap(lambda k: jax.random.fold_in(k, i))(keys)
      token = jax.vmap(jax.random.categorical)(each, allowed)
    else:
      token = allowed.argmax(-1)
    likely = jax.nn.log_softmax(logits)[rows, token]
    score += jnp.where(done, 0.0, likely)
    token = jnp.where(done, ids.pad, token).astype(jnp.int32)
    seen = seen.at[rows, token].set(True, mode="drop")
    if ids.eos is not None:
      done |= token == ids.eos
    logits, state = advance(token[:, None], state)
    return (logits, state, done, seen, score), token

  start = logits, state, jnp.zeros(size, bool), seen, jnp.zeros(size)
  last, tokens = jax.lax.scan(one, start, jnp.arange(how.max_tokens))
  return tokens.T, last[-1]


def _processed(
  logits: jax.Array, seen: jax.Array, i: jax.Array, how: Decoding, eos: Any
) -> jax.Array:
  """Logits or log-probabilities [n, V] of token i, under the rules of `how`."""
  if eos is not None and how.min_tokens > 1:
    early = i + 1 < how.min_tokens
    logits = logits.at[:, eos].set(jnp.where(early, -jnp.inf, logits[:, eos]))
  if how.repetition_penalty != 1:
    p = how.repetition_penalty
    less = jnp.where(logits < 0, logits * p, logits / p)
    logits = jnp.where(seen, less, logits)
  return logits


def _nucleus(logits: jax.Array, top_p: float) -> jax.Array:
  """Logits without the tail whose probabilities sum to at most 1 - top_p."""
  order = jnp.argsort(logits, axis=-1)  # The least first.
  ascending = jnp.take_along_axis(logits, order, axis=-1)
  tail = jnp.cumsum(jax.nn.softmax(ascending), axis=-1) <= 1 - top_p
  tail = tail.at[:, -1].set(False)
  rows = jnp.arange(len(logits))[:, None]
  out = jnp.zeros_like(tail).at[rows, order].set(tail)
  return jnp.where(out, -jnp.inf, logits)


class _Beams(NamedTuple):
  """Beam search: k captions that go on, and the k best that have ended.

  tokens [b, k, max_tokens], scores [b, k]: of those that go on.
  ended, ended_scores, has_ended: of the others, the best first.
  open: bool [b], whether a better one may still come.
  """

  logits: jax.Array
  state: State
  seen: jax.Array
  tokens: jax.Array
  scores: jax.Array
  ended: jax.Array
  ended_scores: jax.Array
  has_ended: jax.Array
  open: jax.Array


def _beam(advance, picked, state, prompt, how, ids):
  size, k, length = len(prompt), how.beams, how.max_tokens
  logits, state = advance(prompt, state)
  classes = logits.shape[-1]
  each = jnp.repeat(jnp.arange(size), k)
  seen = jnp.zeros((size, classes), bool)
  seen = seen.at[jnp.arange(size)[:, None], prompt].set(True, mode="drop")
  none = jnp.full((size, k, length), ids.pad, jnp.int32)
  # All beams are equal at first: only one of them may be continued.
  first = jnp.full((size, k), _NEVER).at[:, 0].set(0.0)
  start = _Beams(
    logits[each], picked(state, each, True), seen[each], none, first, none,
    jnp.full((size, k), _NEVER), jnp.zeros((size, k), bool),
    jnp.ones(size, bool),
  )  # fmt: skip

  def one(beams: _Beams, i: jax.Array) -> tuple[_Beams, None]:
    likely = jax.nn.log_softmax(beams.logits)
    likely = _processed(likely, beams.seen, i, how, ids.eos)
    total = likely.reshape(size, k, classes) + beams.scores[:, :, None]
    # Twice as many as go on: at most one of each beam ends here.
    best, at = jax.lax.top_k(total.reshape(size, -1), min(2 * k, k * classes))
    parent, token = at // classes, (at % classes).astype(jnp.int32)
    tokens = jnp.take_along_axis(beams.tokens, parent[:, :, None], axis=1)
    tokens = tokens.at[:, :, i].set(token)
    ends = jnp.full(token.shape, i == length - 1)
    if ids.eos is not None:
      ends |= token == ids.eos
    beams = _with_ended(beams, tokens, best, ends, i, how)
    scores, go_on = jax.lax.top_k(jnp.where(ends, best + _NEVER, best), k)
    tokens = jnp.take_along_axis(tokens, go_on[:, :, None], axis=1)
    parent, token = (
      jnp.take_along_axis(x, go_on, axis=1) for x in (parent, token)
    )
    rows = (parent + jnp.arange(size)[:, None] * k).reshape(-1)
    seen = (
      beams.seen[rows].at[jnp.arange(size * k), token.reshape(-1)].set(True)
    )
    logits, state = advance(
      token.reshape(-1, 1), picked(beams.state, rows, False)
    )
    # transformers' rule: the best may yet win if at its present length it does.
    attainable = scores[:, 0] / (i + 1.0) ** how.length_penalty
    worst = jnp.where(
      beams.has_ended.all(-1), beams.ended_scores.min(-1), _NEVER
    )
    beams = beams._replace(
      logits=logits, state=state, seen=seen, tokens=tokens, scores=scores,
      open=beams.open & (attainable > worst),
    )  # fmt: skip
    return beams, None

  beams, _ = jax.lax.scan(one, start, jnp.arange(length))
  return beams.ended[:, 0], beams.ended_scores[:, 0]


def _with_ended(
  beams: _Beams,
  tokens: jax.Array,
  best: jax.Array,
  ends: jax.Array,
  i: jax.Array,
  how: Decoding,
) -> _Beams:
  """Beams whose best that have ended are those of before and the new ones."""
  k = how.beams
  # Only of the k best continuations: the others are a reserve.
  ends &= (jnp.arange(ends.shape[1]) < k)[None]
  scores = best / (i + 1.0) ** how.length_penalty
  scores = jnp.where(ends & beams.open[:, None], scores, scores + _NEVER)
  both = jnp.concatenate([beams.ended_scores, scores], axis=1)
  scores, kept = jax.lax.top_k(both, k)
  ended = jnp.concatenate([beams.ended, tokens], axis=1)
  has_ended = jnp.concatenate([beams.has_ended, ends], axis=1)
  return beams._replace(
    ended=jnp.take_along_axis(ended, kept[:, :, None], axis=1),
    ended_scores=scores,
    has_ended=jnp.take_along_axis(has_ended, kept, axis=1),
  )
