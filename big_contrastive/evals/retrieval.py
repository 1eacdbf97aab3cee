"""Retrieval: recall at 1, 5 and 10, image to text and text to image."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from big_contrastive import errors
from big_contrastive.data import pipeline

_CHUNK = 1024  # Queries at a time: memory is chunk x candidates.

# The rank of what is not found, however far one looks.
NEVER = np.iinfo(np.int64).max


def prepare(source: Any) -> Callable[[Callable, Callable], Iterator]:
  """Returns run(embed_images, embed_texts), which yields the recalls.

  And chance_r1, the recall at 1 of guessing. An image matches all texts with
  its id: its own captions, and those of other images with that id. A query
  counts at k if one of its matches is among the first k; a tie counts against
  the model. A recall that is 1 for every model, because no query has k
  candidates that don't match, is left out.

  Args:
    source: records with one or several captions each.
  """

  def run(embed_images: Callable, embed_texts: Callable) -> Iterator:
    data = embed_images(source)
    texts, text_id = distinct_texts(source, data.id)
    ztxt = embed_texts(texts)
    directions = {
      "img2txt": (data.zimg, data.id, ztxt, text_id),
      "txt2img": (ztxt, text_id, data.zimg, data.id),
    }
    for name, arrays in directions.items():
      rank = first_match(*arrays)
      for k in (1, 5, 10):
        if k <= most_wrong(arrays[1], arrays[3]):
          yield f"{name}_r{k}", float(np.mean(rank < k))
    yield "chance_r1", chance(data.id, text_id)

  return run


def distinct_texts(
  source: Any, ids: np.ndarray
) -> tuple[list[str], np.ndarray]:
  """Returns the captions of a source and their ids, each pair of them once.

  Raises:
    UserError: if there is no caption at all.
  """
  pairs = dict.fromkeys(
    (caption, int(i))
    for i, several in zip(ids, pipeline.captions(source), strict=True)
    for caption in several
  )
  if not pairs:
    thing, allowed = "captions of the evaluation data", "a record with one"
    raise errors.UserError(thing, "none", allowed, "Name their column.")
  texts, text_ids = zip(*pairs, strict=True)
  return list(texts), np.array(text_ids)


def chance(ids: np.ndarray, other_ids: np.ndarray) -> float:
  """Returns how likely one of each, drawn at random, match."""
  found, counts = np.unique(ids, return_counts=True)
  others = dict(zip(*np.unique(other_ids, return_counts=True), strict=True))
  pairs = sum(
    int(n) * int(others.get(i, 0)) for i, n in zip(found, counts, strict=True)
  )
  return pairs / len(ids) / len(other_ids)


def most_wrong(query_id: np.ndarray, candidate_id: np.ndarray) -> int:
  """Returns the most candidates that don't match a query."""
  found, counts = np.unique(candidate_id, return_counts=True)
  matches = dict(zip(found, counts, strict=True))
  return len(candidate_id) - min(int(matches.get(i, 0)) for i in set(query_id))


def first_match(
  queries: np.ndarray,
  query_id: np.ndarray,
  candidates: np.ndarray,
  candidate_id: np.ndarray,
) -> np.ndarray:
  """Returns for each query how many non-matches come before its best match.

  A score that is not finite is no match's, and ahead of all others; a query
  without a match is never right: NEVER.

  Args:
    queries, candidates: [n, d] and [m, d].
    query_id, candidate_id: [n] and [m]; equal ids match.
  """
  ranks = []
  for start in range(0, len(queries), _CHUNK):
    chunk = slice(start, start + _CHUNK)
    score = queries[chunk] @ candidates.T
    fine = np.isfinite(score)
    match = (query_id[chunk, None] == candidate_id[None]) & fine
    best = np.where(match, score, -np.inf).max(axis=1, keepdims=True)
    ahead = ~match & ~(fine & (score < best))
    ranks.append(np.where(match.any(axis=1), ahead.sum(axis=1), NEVER))
  return np.concatenate(ranks)
