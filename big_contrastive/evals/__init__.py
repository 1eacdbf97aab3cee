"""Evaluators: each file in this folder is one, and its `prepare` builds it.

  prepare(source, **fields) -> Evaluator

The fields are those of config.evals.NAME besides task and source, checked
against prepare's signature; prepare also checks the source. An evaluator never
sees the trainer: it gets functions that embed, and may have any number of
sources of its own.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import PIL.Image

from big_contrastive.data.source import Source

EmbedImages = Callable[[Source], Any]  # -> inference.embedder.Embedded
EmbedTexts = Callable[[list[str]], np.ndarray]  # -> unit, float32 [n, d]


class Evaluator(Protocol):
  """What `prepare` returns."""

  def __call__(
    self, embed_images: EmbedImages, embed_texts: EmbedTexts
  ) -> Iterable[tuple[str, float | PIL.Image.Image]]:
    """Yields metrics, finite numbers, and pictures, by name.

    Args:
      embed_images: source -> its images' unit embeddings `zimg`, `label` and
        `id`, in order.
      embed_texts: texts -> their unit embeddings.
    """
