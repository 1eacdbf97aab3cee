"""Retrieval: recall at 1, 5 and 10, image to text and text to image."""

import hashlib
import math
from collections.abc import Collection, Iterator

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator

_CHUNK = 1024  # Queries at a time: memory is chunk x candidates.

# The rank of a query without a match: beyond every k.
NEVER = np.iinfo(np.int64).max


def prepare(
  source: Source,
  *,
  rerank: int = 0,
  merge: bool = True,
  width: int | None = None,
) -> Evaluator:
  """Returns run(embed), which yields the recalls.

  An image matches all texts with its id: its own captions, and those of other
  images with that id; records that share an image, one caption each, count as
  one image with several captions. A query counts at k if one of its matches is
  among the first k; a tie counts against the model.

  Also yields the recalls of guessing: chance_r1, for both directions, and for
  the other k chance_img2txt_r5, ...; with few candidates they are 1. And how
  many `images` and `texts` there are.

  With rerank also img2txt_reranked_r1, ...: the first `rerank` candidates of
  each query in the order of cosine + the logit of a match, before all others,
  as BLIP does it (arXiv:2201.12086); for models whose text tower sees images.
  That takes the memory of a matrix of images and texts.

  Args:
    source: records with one or several captions each.
    rerank: candidates that are put into another order; 0 for none. BLIP has 256
      for COCO and 128 for Flickr30k.
    merge: as above. False: each record is an image, whatever its id or what it
      shows, and each of its captions a text, also one that another image has;
      as CLIP_benchmark.
    width: see Embed.narrow.
  """
  errors.at_least("rerank", rerank, 0)

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    embed.require_text()
    if rerank and embed.match is None:
      allowed = "0 for a model that can't match"
      remedy = "configs/blip.py trains one that can."
      raise errors.UserError("rerank", rerank, allowed, remedy)
    embed = embed.narrow(width)
    data = embed.images(source)
    split = distinct if merge else separate
    ids, images, texts, text_id = split(source, data.id)
    ztxt, zimg, image_id = embed.texts(texts), data.zimg[images], ids[images]
    directions = {
      "img2txt": (zimg, image_id, ztxt, text_id),
      "txt2img": (ztxt, text_id, zimg, image_id),
    }
    for name, arrays in directions.items():
      rank = first_match(*arrays)
      for k in (1, 5, 10):
        yield f"{name}_r{k}", float(np.mean(rank < k))
    if rerank:
      score = _reranked(embed, source, images, zimg @ ztxt.T, texts, rerank)
      for name, query_id, candidate_id, scores in (
        ("img2txt", image_id, text_id, score[0]),
        ("txt2img", text_id, image_id, score[1]),
      ):
        rank = first_match(scores, query_id, None, candidate_id)
        for k in (1, 5, 10):
          yield f"{name}_reranked_r{k}", float(np.mean(rank < k))
    yield "images", float(len(images))
    yield "texts", float(len(texts))
    yield "chance_r1", chance(image_id, text_id, 1)
    for name, (_, query_id, _, candidate_id) in directions.items():
      for k in (5, 10):
        yield f"chance_{name}_r{k}", chance(query_id, candidate_id, k)

  return run


def _reranked(
  embed: Embed,
  source: Source,
  images: np.ndarray,
  cosines: np.ndarray,
  texts: list[str],
  count: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Scores [images, texts] and [texts, images], the best `count` of a row new.

  Args:
    embed: with `match`.
    source: the records.
    images: the number of each image's record.
    cosines: [images, texts].
    texts: the candidates.
    count: how many are new, or all there are.
  """
  first = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
  second = np.argsort(-cosines.T, axis=1, kind="stable")[:, :count]
  wanted = np.zeros(cosines.shape, bool)
  np.put_along_axis(wanted, first, True, axis=1)
  np.put_along_axis(wanted.T, second, True, axis=1)
  lists = [np.zeros(0, np.int64)] * len(source)
  for row, i in enumerate(images):
    lists[i] = np.flatnonzero(wanted[row])
  assert embed.match is not None
  found = embed.match(source, lists, texts)
  matches = np.zeros(cosines.shape, np.float32)
  for row, i in enumerate(images):
    matches[row, lists[i]] = found[i]

  def scores(
    best: np.ndarray, cosine: np.ndarray, match: np.ndarray
  ) -> np.ndarray:
    values = np.take_along_axis(cosine + match, best, axis=1)
    # A query's best come before all others, whose order stays.
    low = values.min(1, keepdims=True)
    new = cosine - cosine.max(1, keepdims=True) + low - 1
    np.put_along_axis(new, best, values, axis=1)
    return new

  return scores(first, cosines, matches), scores(second, cosines.T, matches.T)


def distinct(
  source: Source, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
  """Returns the distinct images and captions of a source.

  Args:
    source: records.
    ids: int [n], of each record.

  Returns:
    ids [n], in which the ids of one image are merged unless another image has
    them too; the numbers of the records with distinct (image, id); captions
    and their ids, each (caption, id) once.

  Raises:
    UserError: if there is no caption at all.
  """
  shown, captions = [], []
  for record in evaluation.read_all(source):
    shown.append(_digest(record["image"]))
    captions.append(record["text"])
  ids = _joined(ids, shown)
  images: dict[tuple[bytes, int], int] = {}
  for i, key in enumerate(zip(shown, ids.tolist(), strict=True)):
    images.setdefault(key, i)
  pairs = dict.fromkeys(
    (caption, i)
    for i, several in zip(ids.tolist(), captions, strict=True)
    for caption in several
  )
  _require(pairs)
  texts, text_ids = zip(*pairs, strict=True)
  return ids, np.array([*images.values()]), list(texts), np.array(text_ids)


def separate(
  source: Source, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
  """Returns what `distinct` does, of records that are all different."""
  captions = list(evaluation.captions(source))
  texts = [caption for several in captions for caption in several]
  _require(texts)
  own = np.arange(len(ids))
  return own, own, texts, np.repeat(own, [*map(len, captions)])


def _require(captions: Collection) -> None:
  if not captions:
    thing, allowed = "captions of the evaluation data", "a record with one"
    raise errors.UserError(thing, "none", allowed, "Name their column.")


def _digest(image: bytes | np.ndarray) -> bytes:
  """A digest that is equal for equal images."""
  if not isinstance(image, bytes):
    image = repr(np.shape(image)).encode() + np.asarray(image).tobytes()
  return hashlib.blake2b(image, digest_size=16).digest()


def _joined(ids: np.ndarray, shown: list[bytes]) -> np.ndarray:
  """Merges the ids of an image that no other image has."""
  if len(set(shown)) == 1:  # Then images say nothing about ids.
    return ids
  images: dict[int, set[bytes]] = {}
  for i, image in zip(ids.tolist(), shown, strict=True):
    images.setdefault(i, set()).add(image)
  first: dict[bytes, int] = {}
  return np.array([
    first.setdefault(image, i) if len(images[i]) == 1 else i
    for i, image in zip(ids.tolist(), shown, strict=True)
  ])  # fmt: skip


def chance(ids: np.ndarray, other_ids: np.ndarray, k: int) -> float:
  """Returns the recall at k of guessing k random candidates."""
  values, counts = np.unique(other_ids, return_counts=True)
  matches = dict(zip(values.tolist(), counts.tolist(), strict=True))
  n, total = len(other_ids), 0.0
  for i, count in zip(*np.unique(ids, return_counts=True), strict=True):
    wrong = n - matches.get(int(i), 0)
    # The probability that none of k different candidates matches.
    none = math.prod(max(0, wrong - j) / (n - j) for j in range(min(k, n)))
    total += int(count) * (1 - none)
  return total / len(ids)


def first_match(
  queries: np.ndarray,
  query_id: np.ndarray,
  candidates: np.ndarray | None,
  candidate_id: np.ndarray,
) -> np.ndarray:
  """Returns for each query how many non-matches come before its best match.

  A score that is not finite never counts as a match, and ranks ahead of all
  others. A query without a match has the rank NEVER.

  Args:
    queries, candidates: [n, d] and [m, d]; or scores [n, m] and None.
    query_id, candidate_id: [n] and [m]; equal ids match.
  """
  ranks = []
  for start in range(0, len(queries), _CHUNK):
    chunk = slice(start, start + _CHUNK)
    score = queries[chunk]
    if candidates is not None:
      score = score @ candidates.T
    fine = np.isfinite(score)
    match = (query_id[chunk, None] == candidate_id[None]) & fine
    best = np.where(match, score, -np.inf).max(axis=1, keepdims=True)
    ahead = ~match & ~(fine & (score < best))
    ranks.append(np.where(match.any(axis=1), ahead.sum(axis=1), NEVER))
  return np.concatenate(ranks)
