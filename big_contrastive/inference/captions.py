"""What a model's decoder says of images: captions, and how likely texts are."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.data.source import Source, as_source
from big_contrastive.evals import Captions
from big_contrastive.models.captioning import captioner, generation, teaching
from big_contrastive.models.captioning.generation import Decoding
from big_contrastive.models.model import Model, merge
from big_contrastive.parallel import sharding

if TYPE_CHECKING:
  from big_contrastive.data.tokenizers.tokenizer import Tokenizer
  from big_contrastive.inference.embedder import Embedder


def bound(
  embedder: Embedder, params: dict[str, Any], check: Callable[[], None]
) -> Captions | None:
  """Returns the functions that evaluators get; None without a decoder.

  Args:
    embedder: of the model.
    params: of the model.
    check: called before each batch, on every process.
  """
  if embedder.captions is None:
    return None
  spoken = _Spoken(embedder, params, check)
  return Captions(spoken.generate, spoken.likelihood, spoken.room)


class _Spoken:
  """See `bound`."""

  def __init__(self, embedder, params, check):
    self._embedder, self._params, self._check = embedder, params, check
    self._tokenizer: Tokenizer = embedder.captions

  def _over(
    self, key: Any, compute: Callable, source: Source, *given: Any
  ) -> list[Any]:
    """What compute(params, batch, number of the first record, ...) returns.

    Args:
      key: equal for the same function; that is compiled once.
      compute: the function.
      source: the records.
      given: its other arguments, arrays.
    """
    embedder, size = self._embedder, self._embedder.batch_size
    if key not in embedder.compiled:
      where = sharding.replicated(embedder.mesh)
      embedder.compiled[key] = jax.jit(compute, out_shardings=where)
    jitted, first = embedder.compiled[key], itertools.count()

    def each(params: Any, batch: Any) -> Any:
      return jitted(params, batch, np.int32(next(first) * size), *given)

    every = embedder.over(each, self._params, as_source(source), self._check)
    return [*every]

  def room(self, prompt: str = "") -> int:
    return room(self._embedder, self._params, prompt)

  def generate(
    self, source: Source, how: Decoding, prompt: str = "", seed: int = 0
  ) -> tuple[list[str], np.ndarray]:
    tokenizer, graph = self._tokenizer, self._embedder.graph
    check_room(how, self.room(prompt))
    compute = functools.partial(_generated, graph, how, tokenizer)
    begin, key = begins(tokenizer, prompt), jax.random.key(seed)
    parts = self._over(how, compute, source, begin, key)
    rows = [row for tokens, _ in parts for row in tokens]
    scores = np.concatenate([np.zeros(0, np.float32), *(s for _, s in parts)])
    finite.arrays({"scores": scores}, "captions", finite.ANOTHER)
    return [tokenizer.decode(row) for row in rows], scores

  def likelihood(
    self, source: Source, texts: list[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    rows = self._tokenizer.rows(texts)
    graph = self._embedder.graph
    compute = functools.partial(_likelihoods, graph, self._tokenizer)
    parts = self._over("likelihood", compute, source, rows)
    if not parts:
      return np.zeros((0, len(texts)), np.float32), np.zeros(0, np.int32)
    found, label = (np.concatenate(x) for x in zip(*parts, strict=True))
    finite.arrays({"likelihoods": found}, "the decoder", finite.ANOTHER)
    return found, label


def room(embedder: Embedder, params: dict[str, Any], prompt: str = "") -> int:
  """Returns how many tokens of a caption the decoder has positions for."""
  graph = embedder.graph
  model = jax.eval_shape(lambda p: merge(graph, p), params)
  begin = begins(embedder.captions, prompt)
  return captioner.decoder(model).length - len(begin) + 1


def check_room(how: Decoding, room: int) -> None:
  """Raises UserError for longer captions than the decoder has `room` for."""
  if how.max_tokens > room:
    allowed = f"at most {room}, what the decoder has positions for"
    raise errors.UserError("max_tokens", how.max_tokens, allowed, "Lower it.")


def begins(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
  """Returns the ids that captions begin with, int32."""
  begin = [teaching.begins(tokenizer)]
  if not prompt:
    return np.asarray(begin, np.int32)
  row = tokenizer(prompt)
  real = row[np.asarray(teaching.real(jnp.asarray(row)[None], tokenizer))[0]]
  special = (tokenizer.bos_id, tokenizer.eos_id)
  ids = [int(i) for i in real if int(i) not in special]
  if len(ids) + len(special) >= tokenizer.length:  # It may have been cut.
    allowed = "a text shorter than captions"
    raise errors.UserError("prompt", prompt, allowed, "Shorten it.")
  return np.asarray(begin + ids, np.int32)


def _generated(graph, how, ids, params, batch, first, begin, key):
  model: Model = merge(graph, params)
  tokens, _, mask = model.img.features(batch["image"])
  return told(model, tokens, mask, begin, how, ids, key, first)


def told(
  model: Model,
  tokens: jax.Array,
  mask: jax.Array | None,
  begin: jax.Array | np.ndarray,
  how: Decoding,
  ids: teaching.Ids,
  key: jax.Array,
  first: int | jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns captions of images as tokens, and their scores.

  See generation.generate.

  Args:
    model: with a decoder.
    tokens, mask: of the images, [b, m, w] and bool [b, m] or None.
    begin: ids of BOS and a prompt, int32 [p].
    how: see Decoding.
    ids: of the tokenizer.
    key: of nucleus sampling.
    first: the number of the first record: what is drawn for a record depends
      on its number alone.
  """
  prompt = jnp.tile(begin, (len(tokens), 1))
  length = len(begin) + how.max_tokens
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
    first + jnp.arange(len(tokens))
  )
  return generation.generate(
    functools.partial(captioner.advance, model), captioner.picked,
    captioner.start(model, tokens, mask, length), prompt, how,
    generation.Ids(ids.eos_id, ids.pad_id), keys,
  )  # fmt: skip


def _likelihoods(graph, ids, params, batch, first, rows):
  """float32 [b, texts]: sums of the log-probabilities of the tokens."""
  model: Model = merge(graph, params)
  tokens, _, mask = model.img.features(batch["image"])

  def one(row: jax.Array) -> jax.Array:
    taught = teaching.taught(row[None], ids)
    logits = captioner.after(model, tokens, mask, taught.inputs)
    own = logits[:, jnp.arange(logits.shape[1]), taught.targets[0]]
    likely = own - jax.nn.logsumexp(logits, axis=-1)
    return (likely * taught.real).sum(-1)

  found = jax.lax.map(one, rows)
  return found.T, batch["label"]
