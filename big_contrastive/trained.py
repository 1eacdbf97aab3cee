"""A trained model as one object: pictures and strings in, vectors out.

  model = big_contrastive.load("runs/demo")
  model.logits(pictures, ["a red circle", "two blue squares"])

The path is a checkpoint of ours, a Hugging Face or OpenCLIP directory, or a
big_vision .npz.
"""

import dataclasses
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image

from big_contrastive import (
  assemble,
  embedding,
  errors,
  exchange,
  resolve,
  sharding,
)
from big_contrastive.data import image, text
from big_contrastive.interop.portable import Portable

# A file, its bytes, uint8 [h, w, 3], or a PIL image.
Picture = str | pathlib.Path | bytes | np.ndarray | PIL.Image.Image


# Modes of PIL that a PNG has, and what the others become, if not RGB.
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_NEAREST = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "I": "I;16", "F": "L"}


@dataclasses.dataclass(frozen=True)
class Model:
  """Two towers with their tokenizer and preprocessing.

  Args:
    embedder: the towers, on all devices.
    params: their parameters, on the devices.
  """

  embedder: embedding.Embedder
  params: dict[str, Any]

  def encode_image(self, images: Picture | Sequence[Picture]) -> np.ndarray:
    """Returns unit embeddings [n, d], float32; of one picture, [1, d].

    Args:
      images: files, bytes, uint8 arrays [h, w, 3] or PIL images, prepared as
        in the evaluation of the model.
    """
    given = list(images) if isinstance(images, list | tuple) else [images]
    records = [{"image": _content(x), "id": 0} for x in given]
    return self.embedder.images(self.params, records).zimg

  def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
    """Returns unit embeddings [n, d], float32; of one text, [1, d]."""
    given = [texts] if isinstance(texts, str) else list(texts)
    return self.embedder.texts(self.params, given)

  def logits(
    self, images: Picture | Sequence[Picture], texts: str | Sequence[str]
  ) -> np.ndarray:
    """Returns exp(t) zimg ztxt^T + b, [images, texts], float32.

    Where there is a bias (SigLIP), their sigmoid is the probability that the
    two belong together; else (CLIP) the softmax over texts.
    """
    cosines = self.encode_image(images) @ self.encode_text(texts).T
    t, b = (float(self.params.get(k, 0.0)) for k in ("t", "b"))
    return cosines * np.float32(math.exp(t)) + np.float32(b)


def load(
  path: str,
  *,
  tokenizer: dict[str, Any] | None = None,
  batch_size: int = 64,
  threads: int = 4,
  where: str = "path",
  texts: bool = False,
) -> Model:
  """Returns the model at a path, on all devices.

  Args:
    path: a workdir or a checkpoint in it, a Hugging Face or OpenCLIP
      directory, or a big_vision .npz.
    tokenizer: as config.tokenizer, for what has none of its own. Without one
      such a model embeds images, and an image tower alone always does.
    batch_size: pictures or texts at a time, rounded up to a multiple of the
      devices.
    threads: that read and decode.
    where: what the path is called in errors.
    texts: whether a model that can't embed texts is an error already here.

  Raises:
    UserError: for what is not there, in no known format, or broken.
  """
  model = exchange.read(path, where=where)
  words = _words(model, tokenizer, path)
  if texts and isinstance(words, exchange.Words):
    words.rows([])
  mesh = sharding.make_mesh()
  graph, _ = exchange.towers(model, words, sharding.pin(mesh))
  ops = image.parse(model.image or _squashed(model), where, train=False)
  n = sharding.ring_size(mesh)
  size = -(-batch_size // n) * n
  params = jax.device_put(model.params, sharding.replicated(mesh))
  embedder = embedding.Embedder(graph, mesh, words, ops, size, threads)
  return Model(embedder, params)


def _words(
  model: Portable, given: dict[str, Any] | None, path: str
) -> text.Tokenizer | exchange.Words:
  """The tokenizer that is given, or the model's own, of its length."""
  if given is not None and "txt" in model.params:
    given = resolve.section(given, "--tokenizer")
    length = exchange.Words(model).length
    return assemble.tokenizer({"length": length, **given}, [])
  if not model.tokenizer or "txt" not in model.params:
    return exchange.Words(model, path)
  return exchange.tokenizer(model)


def _squashed(model: Portable) -> list:
  """Preprocessing of a format that tells none: big_vision's usual."""
  return [("resize", {"size": model.model["image"]["res"]})]


def _content(picture: Picture) -> bytes | np.ndarray:
  """As a record has it."""
  if isinstance(picture, bytes):
    return picture
  if isinstance(picture, str | pathlib.Path):
    return pathlib.Path(picture).read_bytes()
  if isinstance(picture, PIL.Image.Image):
    # Through a file: modes and orientation are decoded as everywhere.
    file, exif = io.BytesIO(), picture.getexif()
    if picture.mode not in _PNG:
      picture = picture.convert(_NEAREST.get(picture.mode, "RGB"))
    picture.save(file, "PNG", exif=exif)
    return file.getvalue()
  array = np.asarray(picture)
  if array.dtype != np.uint8 or array.ndim != 3:
    told = f"{array.dtype} {list(array.shape)}"
    allowed = "uint8 [h, w, 3], a PIL image, a file or its bytes"
    remedy = "Scale it to 0..255 and convert it."
    raise errors.UserError("image", told, allowed, remedy)
  return array
