"""Signs of collapse: how far embeddings spread over the sphere."""

import math
from collections.abc import Iterator

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator, _cosines, _labeled, _linear

_CHUNK = 4096  # Rows at a time in float64.


def prepare(source: Source, *, on: _labeled.On = "embeddings") -> Evaluator:
  """Returns run(embed), which yields figures of the images' unit vectors.

    std: the mean, over dimensions, of the standard deviation over images; 0 if
      all are the same. std_uniform, 1 / sqrt(d), is beside it: what vectors
      have that lie uniformly on the sphere (SimSiam, arXiv:2011.10566).
    effective_rank: exp of the entropy of the singular values over their sum
      (RankMe, arXiv:2210.02885); 1 if all vectors are multiples of one, at
      most the smaller of images and dimensions.
    uniformity: log of the mean, over pairs of images, of exp(-2 |zi - zj|^2);
      0 if all are the same, and never below -8, at opposite ends.
    alignment: the mean of |zimg - ztxt|^2 over images and their own captions,
      from 0 to 4; 2 if they have nothing to do with each other. Only of
      embeddings, where the model embeds texts and the source has captions.

  Uniformity and alignment: Wang and Isola, arXiv:2005.10242. The alignment of
  two views of an image is in the log of the step.

  Args:
    source: records, two or more; labels play no part.
    on: "embeddings"; or the image tower's pooled "features", made unit.
  """
  _labeled.choice_on(on)
  if len(source) == 1:
    allowed = "two records or more"
    raise errors.UserError("source", "1 record", allowed, "There are no pairs.")

  def run(embed: Embed) -> Iterator[tuple[str, float]]:
    x, _ = _labeled.vectors(embed, source, on, unit=True)
    _, variance = _linear.moments(x)
    yield "std", float(np.mean(np.sqrt(variance)))
    yield "std_uniform", 1 / math.sqrt(x.shape[1])
    yield "effective_rank", effective_rank(x)
    yield "uniformity", math.log(_cosines.mean_potential(x, embed))
    if on == "embeddings" and embed.has_text:
      distance = _alignment(x, source, embed)
      if distance is not None:
        yield "alignment", distance

  return run


def effective_rank(x: np.ndarray) -> float:
  """Returns exp of the entropy of the singular values over their sum."""
  gram = np.zeros((x.shape[1],) * 2)
  for start in range(0, len(x), _CHUNK):
    rows = x[start : start + _CHUNK].astype(np.float64)
    gram += rows.T @ rows
  values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
  share = values / values.sum()
  share = share[share > 0]
  return float(np.exp(-np.sum(share * np.log(share))))


def _alignment(zimg: np.ndarray, source: Source, embed: Embed) -> float | None:
  """The mean over pairs of an image and a caption; None without captions."""
  captions = list(evaluation.captions(source))
  image = np.repeat(np.arange(len(zimg)), [len(c) for c in captions])
  if not len(image):
    return None
  ztxt, total = embed.texts([c for several in captions for c in several]), 0.0
  for start in range(0, len(image), _CHUNK):
    chunk = slice(start, start + _CHUNK)
    apart = zimg[image[chunk]].astype(np.float64) - ztxt[chunk]
    total += float(np.sum(np.square(apart)))
  return total / len(image)
