"""A trained model as one object: pictures and strings in, vectors out.

  model = big_contrastive.load("runs/demo")
  model.logits(pictures, ["a red circle", "two blue squares"])

The path is a checkpoint of ours, a Hugging Face or OpenCLIP directory, a
big_vision .npz, a torchvision ResNet, or OpenAI's .pt.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
from typing import Any

import jax
import numpy as np

from big_contrastive.config import finite, rules, schema
from big_contrastive.data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from big_contrastive.data.transforms import operations
from big_contrastive.evals import captioning
from big_contrastive.inference import inputs
from big_contrastive.inference.embedder import Embedder
from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.inference.records import Records
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models import Features
from big_contrastive.models.captioning import generation
from big_contrastive.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Model:
  """Two towers with their tokenizer and preprocessing.

  Args:
    embedder: the towers, on all devices.
    params: their parameters, on the devices.
    section: config.model.
  """

  embedder: Embedder
  params: dict[str, Any]
  section: dict[str, Any] = dataclasses.field(default_factory=dict)

  def digests(self) -> dict[str, str]:
    """Returns digests of what embeddings depend on beside their inputs.

    Those of "weights" (the architecture included), of the "preprocessing" of
    images, and of the "tokenizer" ("" for none).
    """
    weights = hashlib.blake2b(digest_size=16)
    weights.update(json.dumps(schema.plain(self.section)).encode())
    for name, value in sorted(rules.flatten(self.params).items()):
      array = np.asarray(value)
      weights.update(f"{name} {array.dtype} {array.shape}".encode())
      weights.update(np.ascontiguousarray(array))
    text, tokenizer = self.embedder.tokenizer, b""
    if not isinstance(text, NoTokenizer):
      tokenizer = json.dumps(text.spec, sort_keys=True).encode() + text.blob
    return {
      "weights": weights.hexdigest(),
      "preprocessing": _digest(self.embedder.image.described().encode()),
      "tokenizer": _digest(tokenizer) if tokenizer else "",
    }

  def encode_image(self, images: inputs.Pictures) -> np.ndarray:
    """Returns unit embeddings [n, d], float32; of one picture, [1, d].

    Args:
      images: one or several, preprocessed as in the model's evaluation.

    Raises:
      UserError: naming the item, images[3], that is not a picture.
      RunError: naming those whose embeddings are not unit vectors.
    """
    return self.embedder.images(self.params, Records(images)).zimg

  def features(self, images: inputs.Pictures) -> Features:
    """Returns the image tower's features, before its last layer.

    Args:
      images: as for `encode_image`.

    Returns:
      tokens [n, l, w] and pooled [n, w], float32, not normalized; mask bool
      [n, l] for images of any shape, else None.

    Raises:
      UserError: naming the item, images[3], that is not a picture.
      RunError: for numbers that are not finite.
    """
    return self.embedder.features(self.params, Records(images))

  def attention(
    self, images: inputs.Pictures, res: int | None = None
  ) -> np.ndarray:
    """Returns the class token's attention in the last block, by head.

    Args:
      images: as for `encode_image`.
      res: side of the squares that they are resized to, a multiple of the patch
        side; None for the model's preprocessing.

    Returns:
      [n, heads, rows, columns] of patches, float32. Of a head they sum to 1
      with the token's attention to itself, which is left out.

    Raises:
      UserError: for an image tower without a class token; naming the item,
        images[3], that is not a picture.
      RunError: for numbers that are not finite.
    """
    maps = self.embedder.bound(self.params).attention
    return maps(Records(images), res)[1]

  def encode_text(self, texts: inputs.Texts) -> np.ndarray:
    """Returns unit embeddings [n, d], float32; of one text, [1, d].

    Args:
      texts: one or several; an empty text is tokenized like any other.

    Raises:
      UserError: naming the item, texts[3], that is not a text.
      RunError: naming those whose embeddings are not unit vectors.
    """
    return self.embedder.texts(self.params, inputs.texts(texts, "texts"))

  def logits(self, images: inputs.Pictures, texts: inputs.Texts) -> np.ndarray:
    """Returns exp(t) zimg ztxt^T + b, [images, texts], float32.

    With a bias (SigLIP), their sigmoid is the probability that the two match;
    without (CLIP), the softmax over texts is.
    """
    cosines = self.encode_image(images) @ self.encode_text(texts).T
    t, b = (float(self.params.get(k, 0.0)) for k in ("t", "b"))
    logits = cosines * np.float32(math.exp(t)) + np.float32(b)
    finite.arrays({"logits": logits}, "what came out", finite.ANOTHER)
    return logits

  def captions(
    self,
    images: inputs.Pictures,
    *,
    prompt: str = "",
    seed: int = 0,
    **decoding: Any,
  ) -> list[str]:
    """Returns a caption of each image, by the model's decoder.

    Args:
      images: as for `encode_image`.
      prompt: what each caption begins with; it is no part of it.
      seed: of nucleus sampling.
      decoding: fields of captioning.generation.Decoding: method, beams, top_p
        ...; without max_tokens 20, or what the decoder has positions for.

    Raises:
      UserError: for a model without a decoder, or a wrong field.
      RunError: for numbers that are not finite.
    """
    how = schema.call(generation.Decoding, decoding, "decoding")
    spoken = captioning.require(self.embedder.bound(self.params))
    if "max_tokens" not in decoding:
      how = captioning.fitting(how, spoken, prompt)
    return spoken.generate(Records(images), how, prompt, seed)[0]

  def log_likelihoods(
    self, images: inputs.Pictures, texts: inputs.Texts
  ) -> np.ndarray:
    """Returns how likely each text is a caption, [images, texts], float32.

    Sums of the log-probabilities of a text's tokens, EOS included.

    Raises:
      UserError: for a model without a decoder.
    """
    spoken = captioning.require(self.embedder.bound(self.params))
    texts = inputs.texts(texts, "texts")
    return spoken.likelihood(Records(images), texts)[0]


def load(
  path: str | os.PathLike,
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
      directory, a big_vision .npz, a torchvision ResNet, or OpenAI's .pt.
    tokenizer: like config.tokenizer, for a model without its own. Without a
      tokenizer, or without a text tower, a model embeds only images.
    batch_size: pictures or texts at a time, rounded up to a multiple of the
      devices.
    threads: number of threads that read and decode.
    where: the path's name in errors.
    texts: whether to raise an error at once if the model can't embed texts.

  Raises:
    UserError: for a path that doesn't exist, an unknown format, a broken file.
    RunError: for parameters that are not finite.
  """
  batch_size = inputs.count(batch_size, "batch_size", 2**20)
  threads = inputs.count(threads, "threads", 4096)
  bundle = model_files.read(path, where=where)
  text = _tokenizer(bundle, tokenizer, path)
  missing = NoTokenizer(str(path), bundle.embeds_text)
  if texts and (text is None or not bundle.embeds_text):
    missing.rows([])
  mesh = sharding.make_mesh()
  built = bundle.build(text, sharding.pin(mesh))
  how = bundle.image or _resized(built.abstract.img.takes)
  ops = operations.parse(how, where, train=False)
  n = sharding.ring_size(mesh)
  size = -(-batch_size // n) * n
  params = jax.device_put(bundle.params, sharding.replicated(mesh))
  labels = bundle.make_tokenizer() if bundle.has_labels else None
  return Model(
    Embedder(
      built.graph,
      mesh,
      text if bundle.embeds_text and text else missing,
      ops,
      size,
      threads,
      labels,
      text if bundle.tells_captions else None,
      built.abstract.matches,
    ),
    params,
    bundle.model,
  )


def _digest(content: bytes) -> str:
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def _tokenizer(
  bundle: ModelBundle, section: dict[str, Any] | None, path: str | os.PathLike
) -> Tokenizer | None:
  """The tokenizer of a section or else of the model, with its length."""
  if not bundle.needs_tokenizer:
    return None
  if section is None:
    return bundle.make_tokenizer() if bundle.tokenizer else None
  section = schema.section(section, "tokenizer")
  if bundle.tokenizer:
    logging.warning("%s has a tokenizer of its own: not used", path)
  section = {"length": bundle.text_sizes.length} | section
  if section.get("kind") == "checkpoint":
    return model_files.stored_tokenizer(section, "tokenizer")
  # Without captions: a BPE must be the one that the model was trained with.
  return schema.call(build_tokenizer, section, "tokenizer")


def _resized(takes: tuple[int, ...]) -> list:
  """Preprocessing for formats that store none: big_vision's usual one."""
  return [("resize", {"size": list(takes)})]
