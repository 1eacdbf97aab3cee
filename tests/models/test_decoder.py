"""The decoder: its formula, and step by step the same."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.models import pooling
from big_contrastive.models.captioning import captioner, teaching
from big_contrastive.models.decoder import Decoder
from big_contrastive.models.model import Model
from big_contrastive.models.text.transformer import TextTower

B, L, M, W, V = 3, 6, 5, 24, 11
KINDS = ["attention", "block", "prefix"]


def decoder(cross, seed=0, **fields):
  """A small one, whose parameters are all random, zeros and ones included."""
  made = Decoder(
    "mu", memory=W, vocab_size=V, length=L, cross=cross, width=16, depth=2,
    mlp=20, heads=2, rngs=nnx.Rngs(seed), **fields,
  )  # fmt: skip
  return shaken(made, seed)


def shaken(module, seed):
  graph, state = nnx.split(module)
  rng = np.random.default_rng(seed)
  leaves, tree = jax.tree.flatten(state)
  new = [x + jnp.float32(rng.normal(0, 0.1, x.shape)) for x in leaves]
  return nnx.merge(graph, jax.tree.unflatten(tree, new))


def data(seed=0):
  rng = np.random.default_rng(seed)
  memory = jnp.float32(rng.normal(size=(B, M, W)))
  return jnp.int32(rng.integers(0, V, (B, L))), memory


def norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]
  return y + p.get("bias", 0)


def attention(x, y, p, visible):
  def project(x, name):
    return (
      np.einsum("lw,whk->hlk", x, p[name]["kernel"])
      + p[name].get("bias", np.zeros((2, 8)))[:, None]
    )

  q, k, v = project(x, "query"), project(y, "key"), project(y, "value")
  logits = np.einsum("hqk,hlk->hql", q, k) / np.sqrt(q.shape[-1])
  logits = np.where(visible, logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum("hql,hlk->qhk", weights, v)
  z = np.einsum("qhk,hkw->qw", out, p["out"]["kernel"])
  return z + p["out"].get("bias", 0)


def mlp(x, p):
  h = x @ p["fc1"]["kernel"] + p["fc1"].get("bias", 0)
  h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  return h @ p["fc2"]["kernel"] + p["fc2"].get("bias", 0)


def formula(made, ids, memory, causal):
  """Logits of one caption, in float64, token by token of the definition."""
  p = nnx.to_pure_dict(nnx.state(made, nnx.Param))
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
  x, memory = p["embed"]["embedding"][ids], np.asarray(memory, np.float64)
  x = x + p["pos"][: len(ids)] if "pos" in p else x
  if made.cross == "prefix":
    x = np.concatenate([memory @ p["project"]["kernel"], x])
  visible = np.tri(len(x), dtype=bool) if causal else True
  for i in range(made.depth):
    b = jax.tree.map(lambda x, i=i: x[i], p["blocks"])
    y = norm(x, b["attention_norm"])
    x = x + attention(y, y, b["attention"], visible)
    if made.cross == "attention":
      x = x + attention(norm(x, b["cross_norm"]), memory, b["cross"], True)
    x = x + mlp(norm(x, b["mlp_norm"]), b["mlp"])
    if made.cross == "block":
      seen = norm(memory, b["memory_norm"])
      x = x + attention(norm(x, b["cross_norm"]), seen, b["cross"], True)
      x = x + mlp(norm(x, b["cross_mlp_norm"]), b["cross_mlp"])
  x = norm(x, p["norm"])[-len(ids) :]
  return x @ p["logits"]["kernel"] + p["logits"].get("bias", 0)


@pytest.mark.parametrize("cross", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_is_its_formula(cross, bias):
  made = decoder(cross, bias=bias, logit_bias=bias, positions=bias)
  ids, memory = data()
  found = made.scores(made(made.embedded(ids), memory))
  for row in range(B):
    expected = formula(made, ids[row], memory[row], causal=True)
    np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-5)


def test_each_caption_may_be_causal_or_not():
  """And the mask token has an embedding of its own, behind the vocabulary."""
  made = decoder("attention", parallel=True)
  ids, memory = data()
  ids = ids.at[1].set(made.mask_id)
  causal = jnp.array([True, False, True])
  found = made.scores(made(made.embedded(ids), memory, causal=causal))
  for row in range(B):
    expected = formula(made, ids[row], memory[row], bool(causal[row]))
    np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("cross", KINDS)
@pytest.mark.parametrize("prompt", [1, 3])
def test_step_by_step_is_the_same(cross, prompt):
  made = decoder(cross)
  model = Model(None, dec=made)
  ids, memory = data()
  whole = made.scores(made(made.embedded(ids), memory))
  state = captioner.start(model, memory, None, L)
  logits, state = captioner.advance(model, ids[:, :prompt], state)
  np.testing.assert_allclose(logits, whole[:, prompt - 1], rtol=1e-4, atol=1e-5)
  for i in range(prompt, L):
    # In another order, and back: rows are picked with all that is known.
    order = jnp.array([2, 0, 1])
    state = captioner.picked(state, order, True)
    logits, state = captioner.advance(model, ids[order, i : i + 1], state)
    state = captioner.picked(state, jnp.argsort(order), True)
    np.testing.assert_allclose(logits, whole[order, i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shifted", [True, False])
def test_text_tower_and_decoder_step_by_step(shifted):
  """CoCa's, for a caption without padding: its mask changes nothing there."""
  text = TextTower(
    "mu", vocab_size=V, length=L, pool="cls", causal=True, pad_id=0,
    shifted_mask=shifted, rngs=nnx.Rngs(1),
  )  # fmt: skip
  made = shaken(
    Decoder(
      "mu", memory=W, vocab_size=V, length=L - 1, inputs="text", cross="block",
      rngs=nnx.Rngs(2),
    ), 2,
  )  # fmt: skip
  model = Model(None, text, dec=made)
  ids, memory = data()
  ids = jnp.maximum(ids, 1)
  whole = made.scores(made(text.features(ids).tokens, memory))
  state = captioner.start(model, memory, None, L)
  for i in range(L):
    logits, state = captioner.advance(model, ids[:, i : i + 1], state)
    np.testing.assert_allclose(logits, whole[:, i], rtol=1e-4, atol=1e-5)


def test_images_tokens_that_are_padding_are_not_seen():
  made = decoder("attention")
  model = Model(None, dec=made)
  ids, memory = data()
  mask = jnp.arange(M)[None] < jnp.array([2, 5, 3])[:, None]
  found = made.scores(made(made.embedded(ids), memory, mask=mask))
  state = captioner.start(model, memory, mask, L)
  logits, _ = captioner.advance(model, ids, state)
  np.testing.assert_allclose(logits, found[:, -1], rtol=1e-4, atol=1e-5)
  for row, count in enumerate([2, 5, 3]):
    expected = formula(made, ids[row], memory[row, :count], causal=True)
    np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-5)


def test_new_logits_are_zero_and_dropout_is_by_example():
  made = Decoder(
    "mu", memory=W, vocab_size=V, length=L, dropout=0.5, rngs=nnx.Rngs(0)
  )
  ids, memory = data()
  x = made(made.embedded(ids), memory)
  assert not made.scores(x).any()
  keys = jax.random.split(jax.random.key(0), B)
  dropped = made(made.embedded(ids), memory, keys=keys)
  alone = made(made.embedded(ids[1:2]), memory[1:2], keys=keys[1:2])
  np.testing.assert_allclose(dropped[1:2], alone, rtol=1e-5, atol=1e-6)
  assert np.abs(dropped - x).max() > 0.1


class Ids:
  def __init__(self, pad, bos, eos):
    self.pad_id, self.bos_id, self.eos_id = pad, bos, eos


def test_what_is_taught():
  tokens = jnp.array([[7, 5, 2, 0, 0], [7, 5, 6, 8, 2]])
  found = teaching.taught(tokens, Ids(0, 7, 2))
  np.testing.assert_array_equal(found.inputs, tokens[:, :-1])
  np.testing.assert_array_equal(found.targets, tokens[:, 1:])
  np.testing.assert_array_equal(
    found.real, [[True, True, False, False], [True] * 4]
  )
  found = teaching.taught(tokens, Ids(0, None, 2))
  np.testing.assert_array_equal(
    found.inputs, [[0, 7, 5, 2, 0], [0, 7, 5, 6, 8]]
  )
  np.testing.assert_array_equal(found.targets, tokens)


def test_padding_that_is_eos_is_told_once():
  """As SigLIP's tokenizer pads; and a pad inside of a caption is a token."""
  tokens = jnp.array([[5, 0, 1, 1, 1], [5, 6, 7, 8, 1]])
  found = teaching.real(tokens, Ids(1, None, 1))
  np.testing.assert_array_equal(found, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
  np.testing.assert_array_equal(
    teaching.real(jnp.array([[5, 0, 9, 9]]), Ids(9, None, None)),
    [[True, True, False, False]],
  )


def test_flops_are_counted():
  """Those that XLA counts of one caption, up to norms and softmax."""
  w = 128
  for cross in KINDS:
    made = nnx.eval_shape(
      lambda cross=cross: Decoder(
        "mu",
        memory=w,
        vocab_size=V,
        length=32,
        cross=cross,
        width=w,
        depth=1,
        mlp=512,
        heads=2,
        rngs=nnx.Rngs(0),
      )
    )
    x = jax.ShapeDtypeStruct((1, 32, w), jnp.float32)
    memory = jax.ShapeDtypeStruct((1, 64, w), jnp.float32)
    lowered = jax.jit(lambda m, x, y: m(x, y)).lower(made, x, memory)
    counted = lowered.cost_analysis()["flops"]
    project = 2 * 64 * w * w if cross == "prefix" else 0
    np.testing.assert_allclose(made.flops(32, 64) + project, counted, rtol=0.06)


def test_queries_pool_and_leave_the_others_to_the_decoder():
  pool = shaken(
    pooling.QueryPool(
      W, 16, 4, 2, eps=1e-6, dtype="float32", rngs=nnx.Rngs(0)
    ), 0,
  )  # fmt: skip
  _, memory = data()
  p = nnx.to_pure_dict(nnx.state(pool, nnx.Param))
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
  found = pool(memory)
  for row in range(B):
    y = attention(
      norm(p["query"], p["query_norm"]), np.float64(memory[row]),
      p["attention"], True,
    )  # fmt: skip
    np.testing.assert_allclose(
      found[row], norm(y, p["norm"]), rtol=2e-4, atol=2e-5
    )
