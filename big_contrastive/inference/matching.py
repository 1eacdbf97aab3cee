"""Whether an image and a text match, by a tower that sees both (BLIP's ITM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from big_contrastive.config import finite
from big_contrastive.data.source import Source, as_source
from big_contrastive.inference import pair_scores
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding

if TYPE_CHECKING:
  from big_contrastive.inference.embedder import Embedder

Match = Callable[[Source, Sequence[np.ndarray], list[str]], list[np.ndarray]]


def bound(
  embedder: Embedder, params: dict[str, Any], check: Callable[[], None]
) -> Match | None:
  """Returns the function that evaluators get, evals.Embed.match.

  Args:
    embedder: of the model; None is returned if that can't match.
    params: of the model.
    check: called before each batch, on every process.
  """
  graph, mesh = embedder.graph, embedder.mesh
  if not embedder.matches:
    return None
  size, where = embedder.batch_size, sharding.replicated(mesh)

  def see(params: Any, batch: Any) -> Any:
    return pair_scores.seen(merge(graph, params), batch["image"], "match")

  def tell(params: Any, batch: Any) -> jax.Array:
    tower: Any = merge(graph, params).txt
    logits = tower.matched(tower.grounded(*batch))
    return logits[:, 1]

  for key, function in {"see": see, "tell": tell}.items():
    if key not in embedder.compiled:
      embedder.compiled[key] = jax.jit(function, out_shardings=where)
  rows = sharding.local_rows(size, mesh)

  def pairs(tokens, mask, image, words):
    """The logits of pairs: rows of a batch's images, and rows of ids."""
    found = []
    for start in range(0, len(image), size):
      # The last is repeated up to a full batch.
      at = np.minimum(np.arange(start, start + size), len(image) - 1)[rows]
      chosen = image[at]
      some = None if mask is None else mask[chosen]
      local = words[at], tokens[chosen], some
      batch = sharding.to_global(local, size, mesh)
      check()
      found.append(np.asarray(embedder.compiled["tell"](params, batch)))
    return np.concatenate(found)[: len(image)]

  def match(
    source: Source, wanted: Sequence[np.ndarray], texts: list[str]
  ) -> list[np.ndarray]:
    source, words = as_source(source), embedder.tokenizer.rows(texts)
    logits, done = [], 0
    for part in embedder.over(embedder.compiled["see"], params, source, check):
      tokens, mask = part
      own = [np.asarray(w, np.int64) for w in wanted[done : done + len(tokens)]]
      done += len(tokens)
      counts = [len(w) for w in own]
      flat = np.concatenate([np.zeros(0, np.int64), *own])
      scores = np.zeros(0, np.float32)
      if len(flat):
        image = np.repeat(np.arange(len(own)), counts)
        scores = pairs(tokens, mask, image, words[flat])
      logits += np.split(scores, np.cumsum(counts)[:-1])
    every = np.concatenate([np.zeros(0, np.float32), *logits])
    finite.arrays({"logits": every}, "matches", finite.ANOTHER)
    return logits

  return match
