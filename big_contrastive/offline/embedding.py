"""Embeds the images and captions of a shard."""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pyarrow as pa

from big_contrastive.config import finite
from big_contrastive.data.build import build_source
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import operations
from big_contrastive.data.transforms.pipeline import Pipeline
from big_contrastive.inference.model import Model, load
from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.models.model import merge
from big_contrastive.offline.shard import Shard, Views
from big_contrastive.offline.tasks import Task
from big_contrastive.parallel import sharding

DTYPES = ("float32", "float16", "bfloat16", "none")
Dtype = Literal["float32", "float16", "bfloat16", "none"]
_NAMED = 5  # How many bad records of a shard the log names.


class Embedding:
  """The work of `embed`; see the module embed for the columns.

  Args:
    model: from inference.model.load.
    source: the records.
    dtype: of the vectors in the parts; "none" leaves them out.
    views: training preprocessing of each view, in place of the model's
      evaluation preprocessing; none for that.
    seed: of the views.
  """

  def __init__(
    self,
    model: Model,
    source: Source,
    dtype: Dtype = "float32",
    views: Sequence[Pipeline] = (),
    seed: int = 0,
  ):
    self.source, self._model, self._dtype = source, model, dtype
    self._views, self._seed = views, seed
    self.has_text = not isinstance(model.embedder.tokenizer, NoTokenizer)
    if not self.has_text:
      logging.warning("the model embeds no texts: there is no column texts")

  @functools.cached_property
  def made(self) -> dict[str, Any]:
    """What the vectors depend on beside the records."""
    return {
      "model": self._model.digests(),
      "dtype": self._dtype,
      "views": [ops.described() for ops in self._views],
      "seed": self._seed if self._views else 0,
    }

  def about(self) -> dict[str, Any]:
    """Returns what holds for all: the logit is scale * cosine + bias."""
    t, b = (float(self._model.params.get(k, 0.0)) for k in ("t", "b"))
    return {"scale": math.exp(t), "bias": b}

  def __call__(self, task: Task) -> tuple[pa.Table, dict[str, int]]:
    """Returns the rows of a part, and the number of bad records by kind."""
    shard = Shard(self.source, task)
    vectors = self._images(shard, task)
    good = np.array([i not in shard.bad for i in range(len(shard))], bool)
    for i, kind in sorted(shard.bad.items())[:_NAMED]:
      logging.warning("bad record (%s): %s", kind, shard.name(i))
    captions = [c if ok else [] for c, ok in zip(shard.captions, good)]
    numbers = range(len(shard))
    columns = {
      "key": pa.array([shard.name(i) for i in numbers], pa.string()),
      "id": pa.array(shard.id, mask=~good),
      "label": pa.array(shard.label, mask=~good | (shard.label < 0)),
      "width": pa.array(shard.sides[:, 0], mask=~good),
      "height": pa.array(shard.sides[:, 1], mask=~good),
      "digest": pa.array(
        [d if ok else None for d, ok in zip(shard.digest, good)], pa.binary(16)
      ),
      "captions": pa.array(captions, pa.list_(pa.string())),
      "bad": pa.array([shard.bad.get(i) for i in numbers], pa.string()),
    }  # fmt: skip
    stored = self._dtype != "none"
    if stored:
      names = [f"view_{k}" for k in range(len(self._views))] or ["image"]
      for k, name in enumerate(names):
        columns[name] = fixed(vectors[:, k], self._dtype, good)
    if self.has_text:
      flat = [text for several in captions for text in several]
      ztxt = self._texts(flat)
      counts = np.array([len(several) for several in captions])
      offsets = np.cumsum([0, *counts]).astype(np.int32)
      if stored:
        texts = fixed(ztxt, self._dtype)
        columns["texts"] = pa.ListArray.from_arrays(offsets, texts)
      if not self._views:
        rows = np.repeat(np.arange(len(shard)), counts)
        cosines = np.einsum("nd,nd->n", vectors[rows, 0], ztxt)
        columns["cosines"] = pa.ListArray.from_arrays(
          offsets, pa.array(cosines)
        )
    return pa.table(columns), shard.counts()

  def _images(self, shard: Shard, task: Task) -> np.ndarray:
    """Unit vectors float32 [n, views, d]; those of bad records are of none."""
    embedder, k = self._model.embedder, max(1, len(self._views))
    shown: Source = shard
    image: Callable[[Any, None], np.ndarray] = embedder.image
    if self._views:
      shown = Views(shard, task.start, self._views, self._seed)
      image = lambda views, _: views  # noqa: E731
    blank = self._blank()

    def bad(index: int, error: Exception) -> np.ndarray:
      shard.fault(index, error)
      return blank

    found = []
    for z, *_ in embedder.over(
      self._compute, self._model.params, shown, image=image, bad=bad
    ):
      z = np.array(z.reshape(len(z), k, -1))
      done = sum(map(len, found))
      # What stands in the place of a bad record need not have a unit vector.
      z[[done + i in shard.bad for i in range(len(z))]] = np.eye(z.shape[-1])[0]
      rows = z.reshape(-1, z.shape[-1])
      finite.unit(rows, "images", lambda i: shard.name(i // k), k * done)
      found.append(z)
    return np.concatenate(found)

  def _blank(self) -> np.ndarray:
    """What is embedded in the place of a bad record: gray."""
    ops = self._views or [self._model.embedder.image]
    rng = np.random.default_rng(0)
    gray = np.full((32, 32, 3), 128, np.uint8)
    blank = [one(gray, rng if self._views else None) for one in ops]
    return np.stack(blank) if self._views else blank[0]

  @functools.cached_property
  def _compute(self) -> Callable[[dict[str, Any], Any], Any]:
    """(params, batch) -> the images' embeddings [b, d], of views [b, k, d]."""
    embedder = self._model.embedder
    if not self._views:
      return embedder.embed_image

    def embed(params: dict[str, Any], batch: Any) -> tuple[jax.Array]:
      # One view at a time: the numbers and the memory of one alone.
      one = merge(embedder.graph, params).embed_image
      views = jnp.moveaxis(batch["image"], 1, 0)
      return (jnp.moveaxis(jax.lax.map(one, views), 0, 1),)

    return jax.jit(embed, out_shardings=sharding.replicated(embedder.mesh))

  def _texts(self, flat: list[str]) -> np.ndarray:
    """Unit vectors float32 [n, d]; equal captions are embedded once."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(flat))}
    z = self._model.embedder.texts(self._model.params, list(distinct))
    return z[[distinct[text] for text in flat]]


def open_work(
  *,
  checkpoint: str,
  data: str,
  tokenizer: dict[str, Any] | None = None,
  batch_size: int = 64,
  dtype: Dtype = "float32",
  views: int = 0,
  train_image: Sequence[Any] = (),
  seed: int = 0,
) -> Embedding:
  """Returns the work of `embed` by its flags, on the devices of this process.

  Args:
    batch_size: of each device: the numbers are then the same on any number.
    checkpoint, data, tokenizer, dtype, views, train_image, seed: see embed.
  """
  source = build_source(data, "--data")
  ops = operations.parse(train_image, "--train_image") if views else None
  model = load(
    checkpoint,
    tokenizer=tokenizer,
    batch_size=batch_size * jax.local_device_count(),
    where="--checkpoint",
  )
  return Embedding(model, source, dtype, [ops] * views, seed)


def fixed(
  vectors: np.ndarray, dtype: str, good: np.ndarray | None = None
) -> pa.FixedSizeListArray:
  """Returns vectors [n, d] as a column of lists of d numbers.

  Args:
    vectors: float32.
    dtype: bfloat16 becomes uint16, the upper half of a float32's bits.
    good: bool [n], the rows that are not null.
  """
  n, d = vectors.shape
  if dtype == "bfloat16":
    values = vectors.astype(ml_dtypes.bfloat16).view(np.uint16)
  else:
    values = vectors.astype(dtype)
  mask = None if good is None else pa.array(~good)
  flat = pa.array(np.ascontiguousarray(values).reshape(-1))
  return pa.FixedSizeListArray.from_arrays(flat, d, mask=mask)
