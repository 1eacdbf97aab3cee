"""Evaluators: each file in this folder is one, and its `prepare` builds it.

  prepare(source, **fields) -> run(embed) -> (name, number or picture), ...

The fields are those of config.evals.NAME besides task, checked against
prepare's signature; prepare also checks its sources. Those are `source`, the
data that is evaluated on, and each argument that is annotated as Source, or
Source | None, such as the training rows of a classifier: a config names their
data as it names config.source. Two fields that name the same data get the
same object.

An evaluator never sees the trainer or the model: it gets an `Embed`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import PIL.Image
from jax.sharding import Mesh

from big_contrastive.config import errors
from big_contrastive.data.source import Source


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A data set's images: zimg [n, d] float32, label [n], id [n] int32."""

  zimg: np.ndarray
  label: np.ndarray
  id: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pooled:
  """The same before the last layer: features [n, w] float32, label, id."""

  features: np.ndarray
  label: np.ndarray
  id: np.ndarray


@dataclasses.dataclass(frozen=True)
class Classes:
  """A classifier of captions' words, as an evaluator sees it.

  Attributes:
    count: how many classes.
    rows: texts -> the classes of each, int32 [n, k]; `count` and more is none.
    logits: (source, classes int32 [c]) -> logits float32 [n, c], in the
      source's order, and the records' labels [n].
  """

  count: int
  rows: Callable[[list[str]], np.ndarray]
  logits: Callable[[Source, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Captions:
  """A decoder of captions, as an evaluator sees it.

  Attributes:
    generate: (source, decoding, prompt, seed) -> the captions of its images, in
      the source's order, and their scores, float32 [n]; see generation.
      generate. A caption is without the prompt. The seed is that of nucleus
      sampling.
    likelihood: (source, texts) -> the log-likelihood of each text, given each
      image, float32 [n, texts], and the records' labels [n].
    room: prompt -> the most tokens of a caption behind it, EOS included.
  """

  generate: Callable[..., tuple[list[str], np.ndarray]]
  likelihood: Callable[[Source, list[str]], tuple[np.ndarray, np.ndarray]]
  room: Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Embed:
  """A model, as an evaluator sees it; every process gets every result.

  Attributes:
    images: source -> unit embeddings of its images, in the source's order.
    features: source -> the image tower's pooled features, models.Features.
      pooled, neither projected nor normalized. Finite.
    texts: texts -> their unit embeddings, float32 [n, d].
    mesh: the devices, for what an evaluator computes by itself.
    has_text: whether the model embeds texts; if not, `texts` raises.
    check: for an evaluator to call, on every process, between pieces of long
      work: there, a run in training ends if it is asked to.
    classes: what a classifier of captions' words says; None without one.
    captions: what a decoder of captions says; None without one.
    attention: (source, res) -> its images as the tower sees them, uint8
      [n, h, w, 3], and the class token's attention to their patches in the last
      block, float32 [n, heads, rows, columns]. res is the side of squares that
      they are resized to; None for the model's preprocessing. Raises UserError
      for a tower without a class token.
    match: (source, for each image numbers of texts int [k], texts) -> for each
      image the logits float32 [k] that these match it, by a tower that sees
      both, as BLIP's; None without one.
  """

  images: Callable[[Source], Embedded]
  features: Callable[[Source], Pooled]
  texts: Callable[[list[str]], np.ndarray]
  mesh: Mesh
  has_text: bool = True
  check: Callable[[], None] = lambda: None
  classes: Classes | None = None
  captions: Captions | None = None
  match: Callable[..., list[np.ndarray]] | None = None
  attention: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None

  def require_text(self) -> None:
    """Raises UserError, before any work, if the model embeds no texts."""
    if not self.has_text:
      self.texts([""])

  def narrow(self, width: int | None) -> "Embed":
    """Returns the model with the first `width` features, normalized again.

    Args:
      width: how many; None for all.

    Raises:
      UserError: where it embeds, for a width that its embeddings don't have.
    """
    if width is None:
      return self

    def cut(z: np.ndarray) -> np.ndarray:
      if not 1 <= width <= z.shape[1]:
        allowed = f"at least 1, and at most the embeddings' {z.shape[1]}"
        raise errors.UserError("width", width, allowed, "Leave it out for all.")
      z = z[:, :width]
      square = np.sum(z * z, axis=1, keepdims=True)
      return z / np.sqrt(np.maximum(square, 1e-12))

    def images(source: Source) -> Embedded:
      found = self.images(source)
      return dataclasses.replace(found, zimg=cut(found.zimg))

    return dataclasses.replace(
      self, images=images, texts=lambda texts: cut(self.texts(texts))
    )


class Evaluator(Protocol):
  """What `prepare` returns."""

  def __call__(
    self, embed: Embed
  ) -> Iterable[tuple[str, float | PIL.Image.Image]]:
    """Yields metrics, finite numbers, and pictures, by name."""
