"""Captions of images, beside those that people wrote: metrics and a picture."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
import PIL.Image

from big_contrastive.config import errors
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.evals import (
  Captions,
  Embed,
  Evaluator,
  _caption_scores,
  gallery,
)
from big_contrastive.models.captioning.generation import Decoding

_USUAL = Decoding().max_tokens


def prepare(
  source: Source,
  *,
  method: Literal["greedy", "nucleus", "beam"] = "beam",
  beams: int = 3,
  top_p: float = 0.9,
  temperature: float = 1.0,
  repetition_penalty: float = 1.0,
  length_penalty: float = 1.0,
  min_tokens: int = 1,
  max_tokens: int | None = None,
  prompt: str = "",
  seed: int = 0,
  rows: int = 8,
  columns: int = 3,
) -> Evaluator:
  """Returns run(embed), which yields figures of generated captions.

  Beside an image's own captions: bleu1 to bleu4, rouge_l and cider, CIDEr-D,
  all as COCO's evaluation has them, but for its tokenizer, which is Java; and
  `exact`, the share that equal one of them, up to case and punctuation. What
  one and the same caption gets everywhere, the most frequent one, is
  `exact_constant` and `cider_constant`. `distinct` is the share of different
  captions: a model that repeats one has learned no image.

  Where the source knows the truth (shapes): `true`, the share of captions that
  say only what is so; and, for chance, `true_of_others`, that of the captions
  beside the next image. With a text tower, `clip_score`: the mean of 2.5 max(0,
  cosine), of the model itself (arXiv:2104.08718 has CLIP ViT-B/32).

  And a picture: images with the caption, green if it is exact or true, and one
  of their own.

  Args:
    source: images with captions.
    method, beams, top_p, temperature, repetition_penalty, length_penalty,
      min_tokens, max_tokens: see generation.Decoding. max_tokens None: 20, or
      what the decoder has positions for.
    prompt: what each caption begins with; it is no part of it.
    seed: of nucleus sampling, and of the choice of images.
    rows, columns: of the picture.
  """
  most = _USUAL if max_tokens is None else max_tokens
  how = Decoding(
    method, most, min_tokens, beams, top_p, temperature, repetition_penalty,
    length_penalty,
  )  # fmt: skip
  for name, value in {"rows": rows, "columns": columns}.items():
    errors.at_least(name, value, 1)

  def run(embed: Embed) -> Iterator[tuple[str, float | PIL.Image.Image]]:
    spoken = require(embed)
    own = list(evaluation.captions(source))
    empty = [i for i, captions in enumerate(own) if not captions]
    if empty or not own:
      value = f"none of {source.name(empty[0])}" if empty else "no record"
      allowed = "captions of each image"
      remedy = "Filter the others away."
      raise errors.UserError("captions of source", value, allowed, remedy)
    some = how if max_tokens is not None else fitting(how, spoken, prompt)
    captions, _ = spoken.generate(source, some, prompt, seed)
    tokenize = _caption_scores.tokenize
    found = [tokenize(c) for c in captions]
    known = [[tokenize(c) for c in each] for each in own]
    for n, value in enumerate(_caption_scores.bleu(found, known), 1):
      yield f"bleu{n}", value
    yield "rouge_l", _caption_scores.rouge_l(found, known)
    yield "cider", _caption_scores.cider_d(found, known)[0]
    exact = np.array([a in b for a, b in zip(found, known, strict=True)])
    yield "exact", float(exact.mean())
    often = collections.Counter(tuple(c) for each in known for c in each)
    constant, _ = min(often.items(), key=lambda c: (-c[1], c[0]))
    yield (
      "exact_constant",
      float(np.mean([[*constant] in each for each in known])),
    )
    same = [[*constant]] * len(known)
    yield "cider_constant", _caption_scores.cider_d(same, known)[0]
    yield "distinct", len(set(captions)) / len(captions)
    fine = exact
    truth = [source.true(i, c) for i, c in enumerate(captions)]
    if None not in truth:
      fine = np.array(truth, bool)
      others = [source.true(i, captions[i - 1]) for i in range(len(captions))]
      yield "true", float(fine.mean())
      yield "true_of_others", float(np.mean(others))
    if embed.has_text:
      cosine = (embed.images(source).zimg * embed.texts(captions)).sum(-1)
      yield "clip_score", float(2.5 * np.maximum(cosine, 0).mean())

    def result(i: int) -> list[tuple[str, bool]]:
      return [(captions[i], bool(fine[i]))]

    shape = rows, columns
    picture = gallery.sheet(source, len(captions), result, shape, seed)
    yield "captions", picture

  return run


def fitting(how: Decoding, spoken: Captions, prompt: str) -> Decoding:
  """Returns a decoding of no more tokens than the decoder has positions for."""
  most = min(how.max_tokens, spoken.room(prompt))
  return dataclasses.replace(how, max_tokens=most)


def require(embed: Embed) -> Captions:
  """Returns the decoder, or raises UserError."""
  if embed.captions is None:
    allowed = "a model with a decoder of captions"
    remedy = "configs/cappa.py trains one."
    raise errors.UserError("decoder", None, allowed, remedy)
  return embed.captions
