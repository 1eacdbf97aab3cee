"""Matches of images and texts, and retrieval in another order by them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.data.transforms import operations
from big_contrastive.evals import Embed, retrieval
from big_contrastive.inference.embedder import Embedder
from big_contrastive.models import build
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding

SIZE = {"width": 16, "depth": 1, "mlp": 32, "heads": 2}
TEXTS = ["a", "bc", "def", "longer than that"]


class Pictures(Source):
  def __len__(self):
    return 7

  def __getitem__(self, i):
    r = np.random.default_rng(i)
    image = (32 * i + r.integers(0, 64, (16, 16, 3))).astype(np.uint8)
    return {"image": image, "id": i, "text": TEXTS[i % 4]}


def bound(batch=4, devices=1):
  text = build_tokenizer("bytes", 9, bos=True)
  built = build.build_model(
    {
      "image": {"variant": "mu/8", "res": 16, "pool": "tok", "out_dim": 8,
                **SIZE},
      "text": {"tower": "blip", "variant": "mu", "out_dim": 8, "enc_id": 259,
               "vocab_size": 260, "decoder": False, "pad_id": text.pad_id,
               **SIZE},
      "scale": 10.0,
    }, text,
  )  # fmt: skip
  r = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: r.normal(0, 0.3, x.shape).astype(x.dtype), built.shapes
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  ops = operations.parse([("resize", {"size": 16})], "x", train=False)
  embedder = Embedder(built.graph, mesh, text, ops, batch, 1, matches=True)
  placed = jax.device_put(params, sharding.replicated(mesh))
  return embedder.bound(placed), merge(built.graph, params), text


WANTED = [
  np.array(x, int) for x in ([0, 3], [], [1], [2, 1, 0, 3], [], [3], [])
]


@pytest.mark.parametrize(("batch", "devices"), [(4, 1), (3, 1), (8, 8)])
def test_matches_are_those_of_the_tower(batch, devices):
  embed, model, text = bound(batch, devices)
  found = embed.match(Pictures(), WANTED, TEXTS)
  assert [len(x) for x in found] == [len(x) for x in WANTED]
  words = jnp.asarray(text.rows(TEXTS))
  for i, wanted in enumerate(WANTED):
    image = jnp.asarray(Pictures()[i]["image"])[None]
    memory = model.img.features(image).tokens
    for j, logit in zip(wanted, found[i], strict=True):
      state = model.txt.grounded(words[j : j + 1], memory)
      expected = model.txt.matched(state)[0, 1]
      np.testing.assert_allclose(logit, expected, rtol=1e-4, atol=1e-5)


def planted(cosines, logits):
  """An Embed whose images and texts have these cosines and matches."""
  n, m = cosines.shape
  z, y = np.eye(n, n + 1), np.concatenate([cosines.T, np.ones((m, 1))], 1)
  asked = {}

  def match(source, wanted, texts):
    asked.update({i: w.tolist() for i, w in enumerate(wanted)})
    return [logits[i, w] for i, w in enumerate(wanted)]

  data = types.SimpleNamespace(zimg=z, id=np.arange(n))
  embed = Embed(
    lambda source: data, None, lambda texts: y,
    sharding.make_mesh(devices=jax.devices()[:1]), match=match,
  )  # fmt: skip
  return embed, asked


class Four(Source):
  def __len__(self):
    return 4

  def __getitem__(self, i):
    image = np.full((2, 2, 3), i, np.uint8)
    return {"image": image, "id": i, "text": f"text {i}"}


def test_the_best_are_put_into_the_order_of_cosine_and_match():
  cosines = np.float32([
    [0.5, 0.9, 0.1, 0.0],  # The right one is second.
    [0.9, 0.8, 0.7, 0.0],  # Second, and stays it.
    [0.4, 0.3, 0.2, 0.1],  # Third: beyond the two that are looked at.
    [0.1, 0.2, 0.3, 0.9],
  ])  # fmt: skip
  logits = np.zeros((4, 4), np.float32)
  logits[0, 0], logits[2, 2], logits[3, 3] = 1.0, 9.0, -5.0
  embed, asked = planted(cosines, logits)
  found = dict(retrieval.prepare(Four(), rerank=2)(embed))
  assert found["img2txt_r1"] == 1 / 4
  # The first is right now; the last was, and is second.
  assert found["img2txt_reranked_r1"] == 1 / 4
  assert found["img2txt_reranked_r5"] == 1
  # Each image's two best, and what texts have it among theirs.
  best = np.argsort(-cosines, 1, kind="stable")[:, :2]
  of_texts = np.argsort(-cosines.T, 1, kind="stable")[:, :2]
  for i in range(4):
    expected = {*best[i]} | {j for j in range(4) if i in of_texts[j]}
    assert asked[i] == sorted(expected)
  whole = dict(
    retrieval.prepare(Four(), rerank=10)(planted(cosines, logits)[0])
  )
  total = cosines + logits
  right = (total.argmax(1) == np.arange(4)).mean()
  assert whole["img2txt_reranked_r1"] == right
  assert (
    whole["txt2img_reranked_r1"] == (total.argmax(0) == np.arange(4)).mean()
  )


def test_without_matches_it_is_one_line():
  embed, _ = planted(np.eye(4, dtype=np.float32), np.zeros((4, 4)))
  other = Embed(embed.images, None, embed.texts, embed.mesh)
  with pytest.raises(errors.UserError, match="rerank = 2; expected 0 for a mo"):
    dict(retrieval.prepare(Four(), rerank=2)(other))
  with pytest.raises(errors.UserError, match="rerank = -1; expected"):
    retrieval.prepare(Four(), rerank=-1)
