"""Captions the images of a shard, and scores all captions (CapFilt)."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
import pyarrow as pa

from big_contrastive.config import errors, finite
from big_contrastive.data.build import build_source
from big_contrastive.data.files import captioned
from big_contrastive.data.source import Source
from big_contrastive.inference import captions, pair_scores
from big_contrastive.inference.model import Model, load
from big_contrastive.models.captioning.generation import Decoding
from big_contrastive.models.model import merge
from big_contrastive.offline.shard import Shard
from big_contrastive.offline.tasks import Task
from big_contrastive.parallel import sharding

BY = ("match", "cosine", "none")
By = Literal["match", "cosine", "none"]
_NAMED = 5  # How many bad records of a shard the log names.


class Captioning:
  """The work of `caption`; see the module caption for the columns.

  Args:
    captioner: from inference.model.load, with a decoder.
    source: the records.
    how: see Decoding.
    judge: the filter; None for the captioner itself.
    by: how it scores; None for the best way that it has.
    prompt: what each caption begins with; it is no part of it.
    seed: of nucleus sampling.

  Raises:
    UserError: for a captioner without a decoder, a filter that has not this
      way to score, and more tokens than the decoder has positions for.
  """

  def __init__(
    self,
    captioner: Model,
    source: Source,
    how: Decoding,
    judge: Model | None = None,
    by: By | None = None,
    prompt: str = "",
    seed: int = 0,
  ):
    if captioner.embedder.captions is None:
      allowed = "a model with a decoder of captions"
      remedy = "configs/blip.py and configs/coca.py train such."
      raise errors.UserError("decoder of --model", None, allowed, remedy)
    self._judge = captioner if judge is None else judge
    self.by = _way(self._judge, by)
    of = captioner.embedder, captioner.params
    captions.check_room(how, captions.room(*of, prompt))
    self.source, self._captioner, self._how = source, captioner, how
    self._prompt, self._seed = prompt, seed
    self._begin = captions.begins(captioner.embedder.captions, prompt)
    pipelines = (captioner.embedder.image, self._judge.embedder.image)
    same = pipelines[0].described() == pipelines[1].described()
    # The filter's pictures are made anew only where they are others.
    self._images = pipelines[: 1 if same or self.by == "none" else 2]

  @functools.cached_property
  def made(self) -> dict[str, Any]:
    """What the captions depend on beside the records."""
    return {
      "captioner": _digests(self._captioner),
      "filter": _digests(self._judge) if self.by != "none" else None,
      "by": self.by,
      "decoding": dataclasses.asdict(self._how),
      "prompt": self._prompt,
      "seed": self._seed if self._how.method == "nucleus" else 0,
    }

  def __call__(self, task: Task) -> tuple[pa.Table, dict[str, int]]:
    """Returns the rows of a part, and the number of bad records by kind."""
    shard = Shard(self.source, task)
    told, scores = self._over(shard, task)
    good = np.array([i not in shard.bad for i in range(len(shard))], bool)
    for i, kind in sorted(shard.bad.items())[:_NAMED]:
      logging.warning("bad record (%s): %s", kind, shard.name(i))
    numbers = range(len(shard))
    table = pa.table(
      {
        "key": pa.array([shard.name(i) for i in numbers], pa.string()),
        "id": pa.array(shard.id, mask=~good),
        "label": pa.array(shard.label, mask=~good | (shard.label < 0)),
        "captions": pa.array(
          [
            _captions(shard.captions[i], told[i], scores[i]) if ok else []
            for i, ok in enumerate(good)
          ],
          captioned.KIND,
        ),
        "bad": pa.array([shard.bad.get(i) for i in numbers], pa.string()),
      }
    )
    return table, shard.counts()

  def _over(
    self, shard: Shard, task: Task
  ) -> tuple[list[str], list[list[float]]]:
    """A caption of each record; the scores of its own, and of that one."""
    embedder = self._captioner.embedder
    told: list[str] = []
    likely: list[np.ndarray] = []

    def own(i: int) -> list[str]:
      return [] if i >= len(shard) or i in shard.bad else shard.captions[i]

    def scored(params: dict[str, Any], batch: Any) -> list[jax.Array]:
      """[b] of the first own captions, of the second, ...; of the new ones."""
      first, images = len(told), batch["image"]
      tokens, scores, features = self._tell(
        params, images[0], np.uint32(task.start + first)
      )
      # The filter has to wait for them: it has a tokenizer of its own.
      told.extend(map(embedder.captions.decode, np.asarray(tokens)))
      likely.append(np.asarray(scores))
      if self.by == "none":
        return []
      numbers = range(first, first + embedder.batch_size)
      most = max(len(own(i)) for i in numbers)
      rounds = [
        [(*own(i), *[""] * most)[k] for i in numbers] for k in range(most)
      ]
      known = self._known(images[-1], features)
      return [self._fit(known, texts) for texts in (*rounds, told[first:])]

    def bad(i: int, error: Exception) -> Any:
      shard.fault(i, error)
      return self._shown(np.full((32, 32, 3), 128, np.uint8))

    found = embedder.over(
      scored, self._captioner.params, shard, image=self._shown, bad=bad
    )
    rows = [row for part in found for row in zip(*part, strict=True)]
    good = [i for i in range(len(shard)) if i not in shard.bad]
    numbers = {"captions": np.concatenate([np.zeros(0), *likely])[good]}
    finite.arrays(numbers, "the captioner", finite.ANOTHER)
    if self.by == "none":
      return told, [[]] * len(shard)
    scores = [[*row[: len(own(i))], row[-1]] for i, row in enumerate(rows)]
    numbers = {
      "scores": np.concatenate([np.zeros(0), *(scores[i] for i in good)])
    }
    finite.arrays(numbers, "the filter", finite.ANOTHER)
    return told, scores

  def _shown(self, image: Any, _: None = None) -> Any:
    """What each model takes of an image; once where they take the same."""
    return tuple(ops(image, None) for ops in self._images)

  def _known(self, image: Any, features: Any) -> Any:
    """What the filter needs of images."""
    if self._judge is self._captioner and self.by == "match":
      return features
    return self._see(self._judge.params, image)

  def _fit(self, known: Any, texts: list[str]) -> jax.Array:
    """The scores of a text for each image of a batch."""
    embedder = self._judge.embedder
    rows = sharding.to_global(
      embedder.tokenizer.rows(texts), len(texts), embedder.mesh
    )
    return self._score(self._judge.params, known, rows)

  @functools.cached_property
  def _tell(self) -> Callable[..., Any]:
    """(params, images, first) -> tokens, log-likelihoods, images' tokens."""
    embedder, begin = self._captioner.embedder, self._begin
    key = jax.random.key(self._seed)

    def tell(params: dict[str, Any], image: Any, first: Any) -> Any:
      model = merge(embedder.graph, params)
      seen, _, mask = model.img.features(image)
      tokens, likely = captions.told(
        model, seen, mask, begin, self._how, embedder.captions, key, first
      )
      return tokens, likely, (seen, mask)

    everywhere = sharding.replicated(embedder.mesh)
    return jax.jit(tell, out_shardings=(everywhere, everywhere, None))

  @functools.cached_property
  def _see(self) -> Callable[..., Any]:
    graph, by = self._judge.embedder.graph, self.by
    return jax.jit(
      lambda p, image: pair_scores.seen(merge(graph, p), image, by)
    )

  @functools.cached_property
  def _score(self) -> Callable[..., Any]:
    graph, by = self._judge.embedder.graph, self.by

    def score(params: dict[str, Any], known: Any, text: Any) -> jax.Array:
      return pair_scores.fit(merge(graph, params), known, text, by)

    everywhere = sharding.replicated(self._judge.embedder.mesh)
    return jax.jit(score, out_shardings=everywhere)


def _captions(own: list[str], told: str, scores: Sequence[float]) -> list[dict]:
  """The captions of a record; a blank one is no caption, and has no score."""
  texts, score = [*own, told], iter(scores or [None] * (len(own) + 1))
  return [
    {
      "text": text,
      "source": "web" if k < len(own) else "synthetic",
      "score": value if text.strip() else None,
    }
    for k, (text, value) in enumerate(zip(texts, score, strict=True))
  ]


def _way(judge: Model, by: By | None) -> By:
  """How the filter scores, checked."""
  ways = pair_scores.ways(judge.embedder)
  if by is None and not ways:
    allowed = "a model that embeds texts"
    remedy = "Give one, or --by none for captions without scores."
    raise errors.UserError("--filter", None, allowed, remedy)
  if by in (None, "none"):
    return by or ways[0]
  if by not in ways:
    allowed = f"{' or '.join((*ways, 'none'))} of this --filter"
    remedy = 'configs/blip.py trains a model with "match".'
    raise errors.UserError("--by", by, allowed, remedy)
  return by


def _digests(model: Model) -> dict[str, str]:
  """Those of a model, with that of the tokenizer of its captions."""
  digest, told = "", model.embedder.captions
  if told is not None:
    spec = json.dumps(told.spec, sort_keys=True).encode() + told.blob
    digest = hashlib.blake2b(spec, digest_size=16).hexdigest()
  return model.digests() | {"captions": digest}


def open_work(
  *,
  model: str,
  data: str,
  decoding: dict[str, Any],
  filter: str | None = None,
  by: By | None = None,
  tokenizer: dict[str, Any] | None = None,
  batch_size: int = 64,
  prompt: str = "",
  seed: int = 0,
) -> Captioning:
  """Returns the work of `caption` by its flags, on the devices of this process.

  Args:
    decoding: fields of Decoding; max_tokens None is 20, or what the decoder has
      positions for.
    batch_size: of each device: the captions are then those of any number.
    model, data, filter, by, tokenizer, prompt, seed: see caption.
  """
  source = build_source(data, "--data")
  size = batch_size * jax.local_device_count()
  captioner = load(model, tokenizer=tokenizer, batch_size=size, where="--model")
  judge = None
  if filter not in (None, model):
    judge = load(filter, batch_size=size, where="--filter")
  if decoding.get("max_tokens") is None:
    most = Decoding().max_tokens
    if captioner.embedder.captions is not None:
      of = captioner.embedder, captioner.params
      most = min(most, captions.room(*of, prompt))
    decoding = decoding | {"max_tokens": most}
  how = Decoding(**decoding)
  return Captioning(captioner, source, how, judge, by, prompt, seed)
