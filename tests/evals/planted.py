"""Sources whose vectors are known, and a model that returns them."""

import jax
import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Embedded, Pooled
from big_contrastive.parallel import sharding


class Data(Source):
  """Records with given vectors: x [n, w], label [n]."""

  def __init__(self, x, label=None, classes=None, texts=None):
    self.x = np.asarray(x, np.float32)
    self.label = np.full(len(self.x), -1) if label is None else label
    self.label, self.classes = np.asarray(self.label, np.int32), classes
    self.texts = texts or [[] for _ in self.x]

  def __len__(self):
    return len(self.x)

  def __getitem__(self, i):
    image = np.full((8, 8, 3), 3 * i, np.uint8)
    return {"image": image, "id": i, "text": self.texts[i]}


def clusters(n, classes=7, width=16, spread=1.0, seed=0, **more):
  """Gaussians around one center for each class; all classes occur."""
  centers = np.random.default_rng(99).normal(size=(classes, width))
  r = np.random.default_rng(seed)
  label = r.permutation(np.arange(n) % classes)
  x = centers[label] + spread * r.normal(size=(n, width))
  return Data(x, label, **more)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def model(devices=1, texts=None, project=lambda x: x, check=lambda: None):
  """A model whose features are a source's x, and embeddings project(x)."""

  def none(texts):
    raise errors.UserError("text tower", None, "a model with one", "None.")

  def images(source):
    return Embedded(
      unit(project(source.x)), source.label, np.arange(len(source))
    )

  return Embed(
    images=images,
    features=lambda s: Pooled(s.x, s.label, np.arange(len(s))),
    texts=none if texts is None else lambda given: np.array(
      [texts[t] for t in given], np.float32
    ),
    mesh=sharding.make_mesh(devices=jax.devices()[:devices]),
    has_text=texts is not None,
    check=check,
  )  # fmt: skip
