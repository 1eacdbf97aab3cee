"""Embeds whole data sets and lists of texts, on all devices."""

import dataclasses
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.nnx as nnx
import jax
import numpy as np
from jax.sharding import Mesh

from big_contrastive.config import errors, finite
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source, as_source
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.models import Features
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A data set's images: zimg [n, d] float32, label [n], id [n] int32."""

  zimg: np.ndarray
  label: np.ndarray
  id: np.ndarray


class NoTokenizer:
  """A placeholder for a missing tokenizer, which raises when it is used.

  Args:
    path: of the model, for the error.
    has_text: whether it has a text tower, and only the tokenizer is missing.
  """

  def __init__(self, path: str, has_text: bool):
    self._path, self._has_text = path, has_text

  def rows(self, texts: Sequence[str]) -> np.ndarray:
    """Raises UserError: there is no tokenizer, or not even a text tower."""
    if not self._has_text:
      thing, expected = "text tower", "a model with an image and a text tower"
      remedy = f"{self._path} is an image tower alone: it embeds images only."
    else:
      thing = "tokenizer"
      expected = "what config.tokenizer takes, for a model without one"
      remedy = (
        f"{self._path} has none: give the one that it was trained with, "
        "load(path, tokenizer={...}) or --tokenizer."
      )
    raise errors.UserError(thing, None, expected, remedy)


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
  """

  def __init__(
    self,
    graph: nnx.GraphDef,
    mesh: Mesh,
    tokenizer: Tokenizer | NoTokenizer | None,
    image: Callable[[Any, None], np.ndarray],
    batch_size: int,
    threads: int,
  ):
    self._mesh, self._image = mesh, image
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

    self._features = jax.jit(features, out_shardings=replicated)
    self._embed_image = jax.jit(embed_image, out_shardings=replicated)
    self._embed_text = jax.jit(embed_text, out_shardings=replicated)

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
    size, rows = self.batch_size, self._rows()
    source = as_source(source)
    batches = evaluation.evaluation(
      source, self._image, size, rows, self._threads
    )
    if not len(source):
      nothing = np.zeros(0, np.int32)
      return Embedded(self._none(params), nothing, nothing)

    def embedded() -> Iterator[tuple[Any, int]]:
      for batch, real in batches:
        before()
        batch = sharding.to_global(batch, size, self._mesh)
        yield self._embed_image(params, batch), real

    parts, done = [], 0
    for part in _on_host(embedded()):
      finite.unit(part[0], "images", source.name, done)
      parts.append(part)
      done += len(part[0])
    return Embedded(*map(np.concatenate, zip(*parts, strict=True)))

  def features(self, params: dict[str, Any], source: Source) -> Features:
    """Returns tokens and pooled vectors of all images, in order.

    Raises:
      UserError: for a record that can't be read.
      RunError: if they are not finite.
    """
    size, rows = self.batch_size, self._rows()
    source = as_source(source)
    batches = evaluation.evaluation(
      source, self._image, size, rows, self._threads
    )

    def features() -> Iterator[tuple[Features, int]]:
      for batch, real in batches:
        batch = sharding.to_global(batch, size, self._mesh)
        yield self._features(params, batch), real

    chunks = list(_on_host(features()))
    if not chunks:
      return self._no_features(params)
    merged = jax.tree.map(lambda *x: np.concatenate(x), *chunks)
    finite.arrays(merged._asdict(), "features", finite.ANOTHER)
    return merged

  def _no_features(self, params: dict[str, Any]) -> Features:
    shapes = jax.eval_shape(self._features, params, self._blank())
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
      return self._none(params)

    def embedded() -> Iterator[tuple[jax.Array, int]]:
      for start in range(0, len(texts), size):
        before()
        tokens = self.tokenizer.rows(texts[start : start + size])
        local = evaluation.pad(tokens, size)[rows]
        tokens_on_mesh = sharding.to_global(local, size, self._mesh)
        yield self._embed_text(params, tokens_on_mesh), len(tokens)

    parts, done = [], 0
    for part in _on_host(embedded()):
      finite.unit(part, "texts", lambda i: reprlib.repr(texts[i]), done)
      parts.append(part)
      done += len(part)
    return np.concatenate(parts)

  def _none(self, params: dict[str, Any]) -> np.ndarray:
    """The embeddings of nothing, [0, d]; nothing is compiled."""
    zimg, *_ = jax.eval_shape(self._embed_image, params, self._blank())
    return np.zeros((0, zimg.shape[-1]), np.float32)

  def _blank(self) -> dict[str, Any]:
    """The shapes of a batch of images."""
    one = self._image(np.zeros((32, 32, 3), np.uint8), None)
    image = jax.ShapeDtypeStruct((self.batch_size, *one.shape), one.dtype)
    return {"image": image, "label": None, "id": None}

  def lower(
    self, params: dict[str, Any], beside: Any, example: dict[str, Any]
  ) -> dict[str, jax.stages.Lowered]:
    """Returns the lowered functions that embed "images" and "texts".

    Args:
      params: of the model: shapes and shardings.
      beside: other arrays on the devices at the time: shapes and shardings.
      example: one "text" if the model has a text tower.
    """
    image = self._image(np.zeros((32, 32, 3), np.uint8), None)

    def batch(x: Any) -> jax.ShapeDtypeStruct:
      shape, where = (self.batch_size, *x.shape), sharding.batch(self._mesh)
      return jax.ShapeDtypeStruct(shape, x.dtype, sharding=where)

    one = np.int32(0)
    images = {"image": image, "label": one, "id": one}
    inputs = {"images": (self._embed_image, images)}
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
    return sharding.local_rows(self.batch_size, self._mesh)
