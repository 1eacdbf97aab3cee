"""What a decoder says: as its logits have it, in any batch, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.data.transforms import operations
from big_contrastive.inference.embedder import Embedder
from big_contrastive.models import build
from big_contrastive.models.captioning.generation import Decoding
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding

LENGTH, SIZE = 9, {"width": 16, "depth": 1, "mlp": 32, "heads": 2}
TEXTS = ["ab", "abcdefghijk", "c"]


class Pictures(Source):
  def __len__(self):
    return 7

  def __getitem__(self, i):
    r = np.random.default_rng(i)
    image = (32 * i + r.integers(0, 64, (16, 16, 3))).astype(np.uint8)
    return {"image": image, "id": i, "label": i % 3}


def tokenizer(bos):
  return build_tokenizer("bytes", LENGTH, bos=bos)


def sections(kind):
  image = {"variant": "mu/8", "res": 16, **SIZE}
  if kind == "coca":
    return {
      "image": image | {"pool": "queries", "queries": 3, "pool_heads": 2},
      "text": {"variant": "mu", "pool": "cls", "causal": True, "pad_id": 0,
               **SIZE},
      "decoder": {"variant": "mu", "inputs": "text", "cross": "block",
                  "mlp": 32, "depth": 1, "heads": 2},
      "scale": 10.0,
    }  # fmt: skip
  cross = {"variant": "mu", "cross": kind, **SIZE}
  return {"image": image | {"pool": "gap"}, "decoder": cross}


def bound(kind, bos=True, batch=4, devices=1):
  """An Embed, its model, and the parameters; the logits are far from equal."""
  text = tokenizer(bos)
  built = build.build_model(sections(kind), text)
  r = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: r.normal(0, 0.3, x.shape).astype(x.dtype), built.shapes
  )
  params["dec"]["logits"]["kernel"] *= 9
  # Neither padding nor BOS is said, nor a byte that is no letter of ASCII.
  for ids in (0, text.bos_id or 0, slice(3 + 128, None)):
    params["dec"]["logits"]["bias"][ids] = -100
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  ops = operations.parse([("resize", {"size": 16})], "x", train=False)
  embedder = Embedder(
    built.graph, mesh, text if kind == "coca" else None, ops, batch, 1,
    captions=text,
  )  # fmt: skip
  placed = jax.device_put(params, sharding.replicated(mesh))
  return embedder.bound(placed), merge(built.graph, params), text


def logits(model, image, ids):
  """Of the next token, all tokens anew."""
  memory = model.img.features(jnp.asarray(image)[None]).tokens
  ids = jnp.asarray(ids)[None]
  if model.dec.inputs == "text":
    x = model.txt.features(ids).tokens
  else:
    x = model.dec.embedded(ids)
  return np.asarray(model.dec.scores(model.dec.decoded(x, memory)))[0]


@pytest.mark.parametrize("kind", ["attention", "prefix", "coca"])
@pytest.mark.parametrize("prompt", ["", "ab"])
def test_greedy_captions_are_those_of_the_logits(kind, prompt):
  embed, model, text = bound(kind)
  how = Decoding("greedy", max_tokens=5)
  found, scores = embed.captions.generate(Pictures(), how, prompt)
  assert len(found) == len(scores) == 7 and len(set(found)) > 1
  for i in (0, 6):
    ids = [text.bos_id, *(text(prompt)[1 : 1 + len(prompt)])]
    begin, total = len(ids), 0.0
    for _ in range(5):
      s = logits(model, Pictures()[i]["image"], ids)[-1]
      ids.append(int(s.argmax()))
      total += s.max() - np.log(np.exp(s - s.max()).sum()) - s.max()
      if ids[-1] == text.eos_id:
        break
    assert found[i] == text.decode(ids[begin:])
    np.testing.assert_allclose(scores[i], total, rtol=1e-4)


@pytest.mark.parametrize(
  ("kind", "bos"), [("attention", True), ("attention", False), ("coca", True)]
)
def test_likelihoods_are_sums_up_to_eos(kind, bos):
  embed, model, text = bound(kind, bos)
  found, label = embed.captions.likelihood(Pictures(), TEXTS)
  np.testing.assert_array_equal(label, np.arange(7) % 3)
  assert found.shape == (7, 3)
  for i in (0, 6):
    for j, row in enumerate(text.rows(TEXTS)):
      ends = np.flatnonzero(row == text.eos_id)
      row = row[: ends[0] + 1] if len(ends) else row
      inputs, targets = (row[:-1], row[1:]) if bos else (
        [text.pad_id, *row[:-1]], row
      )  # fmt: skip
      s = jax.nn.log_softmax(
        logits(model, Pictures()[i]["image"], np.array(inputs))
      )
      total = sum(float(s[k, t]) for k, t in enumerate(targets))
      np.testing.assert_allclose(found[i, j], total, rtol=1e-4)


@pytest.mark.parametrize("method", ["nucleus", "beam"])
def test_batches_and_devices_change_no_caption(method):
  how = Decoding(method, max_tokens=5, beams=2)
  one, _, _ = bound("attention", batch=7)
  found, scores = one.captions.generate(Pictures(), how, seed=3)
  for batch, devices in ((2, 1), (8, 8)):
    embed, _, _ = bound("attention", batch=batch, devices=devices)
    again, other = embed.captions.generate(Pictures(), how, seed=3)
    assert again == found
    np.testing.assert_allclose(other, scores, rtol=1e-4)
  if method == "nucleus":
    assert one.captions.generate(Pictures(), how, seed=4)[0] != found


def test_a_second_evaluation_compiles_nothing():
  embed, _, _ = bound("attention")
  how = Decoding("greedy", max_tokens=2)
  embed.captions.generate(Pictures(), how)
  with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", None)
    embed.captions.generate(Pictures(), how)


def test_too_long_captions_and_prompts_are_one_line():
  embed, _, _ = bound("attention")
  assert embed.captions.room("") == LENGTH - 1
  assert embed.captions.room("ab") == LENGTH - 3
  with pytest.raises(
    errors.UserError, match="max_tokens = 8; expected at most 6"
  ):
    embed.captions.generate(Pictures(), Decoding("greedy", max_tokens=8), "ab")
  with pytest.raises(errors.UserError, match="prompt = 'abcdefghi'; expected"):
    embed.captions.room("abcdefghi")
