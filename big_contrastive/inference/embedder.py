"""Embeds whole data sets and lists of texts, on all devices."""

import reprlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.nnx as nnx
import jax
import numpy as np
from jax.sharding import Mesh

from big_contrastive.config import finite
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source, as_source
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.data.transforms.pipeline import Pipeline
from big_contrastive.evals import Embed, Embedded, Pooled
from big_contrastive.inference import (
  attention,
  captions,
  classifier,
  matching,
)
from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.models import Features
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding


def _on_host(results: Iterator[tuple[Any, int]]) -> Iterator[Any]:
  """Yields the real rows of each result as numpy arrays, one result behind.

  So the devices compute the next batch while the host reads and uses one.

  Args:
    results: trees of arrays on devices, and how many rows of each are real.
  """

  def read(result: Any, real: int) -> Any:
    return jax.tree.map(lambda x: x[:real], jax.device_get(result))

  pending = None
  for result in results:
    if pending is not None:
      yield read(*pending)
    pending = result
  if pending is not None:
    yield read(*pending)


class Embedder:
  """Embeds with the towers of a model; every process gets every result.

  Evaluators and all other callers get unit vectors only: an embedding with
  numbers that are not finite, or with only zeros, is an error.

  Args:
    graph: the model's structure.
    mesh: its batch axes share the work.
    tokenizer: str -> int32 [l]; None for only images.
    image: evaluation preprocessing, from operations.parse.
    batch_size: images, or texts, at a time over all devices.
    threads: number of threads that read and decode.
    labels: of a model with a classifier: captions -> its classes.
    captions: of a model with a decoder: captions <-> its tokens.
    matches: whether its text tower tells if an image and a text match.
  """

  def __init__(
    self,
    graph: nnx.GraphDef,
    mesh: Mesh,
    tokenizer: Tokenizer | NoTokenizer | None,
    image: Pipeline,
    batch_size: int,
    threads: int,
    labels: Tokenizer | None = None,
    captions: Tokenizer | None = None,
    matches: bool = False,
  ):
    self.matches = matches
    self.labels, self.captions = labels, captions
    # What captions.bound has compiled, for the next evaluation.
    self.compiled: dict[Any, Callable[..., Any]] = {}
    self.graph, self.mesh, self.image = graph, mesh, image
    self.tokenizer = tokenizer or NoTokenizer("this model", has_text=False)
    self.batch_size, self._threads = batch_size, threads
    replicated = sharding.replicated(mesh)

    def embed_image(params, batch):
      zimg = merge(graph, params).embed_image(batch["image"])
      return zimg, batch["label"], batch["id"]

    def embed_text(params, tokens):
      return merge(graph, params).embed_text(tokens)

    def features(params, batch):
      return merge(graph, params).features(batch["image"])

    def pool(params, batch):
      pooled = merge(graph, params).features(batch["image"]).pooled
      return pooled, batch["label"], batch["id"]

    self._features = jax.jit(features, out_shardings=replicated)
    self._pool = jax.jit(pool, out_shardings=replicated)
    self.embed_image = jax.jit(embed_image, out_shardings=replicated)
    self._embed_text = jax.jit(embed_text, out_shardings=replicated)

  def bound(
    self, params: dict[str, Any], check: Callable[[], None] = lambda: None
  ) -> Embed:
    """Returns the functions that evaluators get.

    Args:
      params: of the model.
      check: called before each batch, on every process.
    """
    return Embed(
      images=lambda source: self.images(params, source, check),
      features=lambda source: self.pooled(params, source, check),
      texts=lambda texts: self.texts(params, texts, check),
      mesh=self.mesh,
      has_text=not isinstance(self.tokenizer, NoTokenizer),
      check=check,
      classes=classifier.bound(self, params, check),
      captions=captions.bound(self, params, check),
      match=matching.bound(self, params, check),
      attention=attention.bound(self, params, check),
    )

  def images(
    self,
    params: dict[str, Any],
    source: Source,
    before: Callable[[], None] = lambda: None,
  ) -> Embedded:
    """Returns the embeddings of all records, in the source's order.

    Args:
      params: of the model.
      source: its records.
      before: called before each batch, on every process.

    Raises:
      UserError: for a record that can't be read.
      RunError: naming the records whose embeddings are not unit vectors.
    """
    source, parts, done = as_source(source), [], 0
    for part in self.over(self.embed_image, params, source, before):
      finite.unit(part[0], "images", source.name, done)
      parts.append(part)
      done += len(part[0])
    return Embedded(*self._joined(self.embed_image, params, parts))

  def pooled(
    self,
    params: dict[str, Any],
    source: Source,
    before: Callable[[], None] = lambda: None,
  ) -> Pooled:
    """Returns the pooled features of all records; see `images`.

    Raises:
      UserError: for a record that can't be read.
      RunError: if they are not finite.
    """
    parts = [*self.over(self._pool, params, as_source(source), before)]
    found = Pooled(*self._joined(self._pool, params, parts))
    finite.arrays({"pooled": found.features}, "features", finite.ANOTHER)
    return found

  def features(self, params: dict[str, Any], source: Source) -> Features:
    """Returns tokens and pooled vectors of all images, in order.

    Raises:
      UserError: for a record that can't be read.
      RunError: if they are not finite.
    """
    parts = [*self.over(self._features, params, as_source(source))]
    found = self._joined(self._features, params, parts)
    finite.arrays(found._asdict(), "features", finite.ANOTHER)
    return found

  def over(
    self,
    compute: Callable[[dict[str, Any], Any], Any],
    params: dict[str, Any],
    source: Source,
    before: Callable[[], None] = lambda: None,
    image: Callable[[Any, None], np.ndarray] | None = None,
    bad: Callable[[int, Exception], np.ndarray] | None = None,
  ) -> Iterator[Any]:
    """Yields what is computed of each batch of a source, on the host.

    Args:
      compute: (params, batch) -> a tree of arrays, replicated.
      params: of the model.
      source: its records.
      before: called before each batch, on every process.
      image: preprocessing in place of the model's.
      bad: see evaluation.evaluation.
    """
    size, mesh = self.batch_size, self.mesh
    batches = evaluation.evaluation(
      source, image or self.image, size, self._rows(), self._threads, bad
    )

    def results() -> Iterator[tuple[Any, int]]:
      for batch, real in batches:
        before()
        yield compute(params, sharding.to_global(batch, size, mesh)), real

    return _on_host(results())

  def _joined(
    self,
    compute: Callable[[dict[str, Any], Any], Any],
    params: dict[str, Any],
    parts: list[Any],
  ) -> Any:
    """The batches' results as one; of no batch, empty, nothing is compiled."""
    if parts:
      return jax.tree.map(lambda *x: np.concatenate(x), *parts)
    shapes = jax.eval_shape(compute, params, self._blank())
    return jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), shapes)

  def texts(
    self,
    params: dict[str, Any],
    texts: list[str],
    before: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Returns the unit embeddings [len(texts), d], float32; see `images`."""
    size, rows = self.batch_size, self._rows()
    if not len(texts):
      return self._joined(self.embed_image, params, [])[0]

    def embedded() -> Iterator[tuple[jax.Array, int]]:
      for start in range(0, len(texts), size):
        before()
        tokens = self.tokenizer.rows(texts[start : start + size])
        local = evaluation.pad(tokens, size)[rows]
        tokens_on_mesh = sharding.to_global(local, size, self.mesh)
        yield self._embed_text(params, tokens_on_mesh), len(tokens)

    parts, done = [], 0
    for part in _on_host(embedded()):
      finite.unit(part, "texts", lambda i: reprlib.repr(texts[i]), done)
      parts.append(part)
      done += len(part)
    return np.concatenate(parts)

  def _blank(self) -> dict[str, Any]:
    """The shapes of a batch of images."""
    one = self.image.blank()
    image = jax.ShapeDtypeStruct((self.batch_size, *one.shape), one.dtype)
    one = jax.ShapeDtypeStruct((self.batch_size,), np.int32)
    return {"image": image, "label": one, "id": one}

  def lower(
    self, params: dict[str, Any], beside: Any, example: dict[str, Any]
  ) -> dict[str, jax.stages.Lowered]:
    """Returns the lowered functions that embed "images" and "texts".

    Args:
      params: of the model: shapes and shardings.
      beside: other arrays on the devices at the time: shapes and shardings.
      example: one "text" if the model has a text tower.
    """
    image = self.image.blank()

    def batch(x: Any) -> jax.ShapeDtypeStruct:
      shape, where = (self.batch_size, *x.shape), sharding.batch(self.mesh)
      return jax.ShapeDtypeStruct(shape, x.dtype, sharding=where)

    one = np.int32(0)
    images = {"image": image, "label": one, "id": one}
    inputs = {"images": (self.embed_image, images)}
    if "text" in example:
      inputs["texts"] = (self._embed_text, example["text"])

    def lowered(embed: Callable, arguments: Any) -> jax.stages.Lowered:
      # keep_unused counts their memory: the optimizer's state stays in place.
      jitted = jax.jit(
        lambda beside, params, arguments: embed(params, arguments),
        keep_unused=True,
      )
      return jitted.lower(beside, params, jax.tree.map(batch, arguments))

    return {name: lowered(*of) for name, of in inputs.items()}

  def _rows(self) -> np.ndarray:
    return sharding.local_rows(self.batch_size, self.mesh)
