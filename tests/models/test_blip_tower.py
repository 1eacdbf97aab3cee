"""BLIP's text tower: the formula of its three uses, and step by step the same.

The formulas are in float64 NumPy, from the paper and from BERT's; against
transformers it is tested in tests/interop/test_blip.py.
"""

import math

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors, rules
from big_contrastive.interop.bundle import TextSizes
from big_contrastive.models import captioning, layers
from big_contrastive.models.build import build_model
from big_contrastive.models.captioning import captioner, generation
from big_contrastive.models.decoder import Decoder
from big_contrastive.models.model import Model
from big_contrastive.models.text.blip import Blip
from big_contrastive.models.text.transformer import TextTower

B, L, M, W, V = 3, 7, 5, 24, 13
PAD, ENC, DEC = 0, 12, 11
EPS = 1e-12
erf = np.vectorize(math.erf)


def tower(seed=0, **fields):
  """A small one, whose parameters are all random, zeros and ones included."""
  fields = dict(enc_id=ENC, dec_id=DEC, out_dim=6) | fields
  made = Blip(
    "mu", memory=W, vocab_size=V, length=L, pad_id=PAD, width=16, depth=2,
    mlp=20, heads=2, rngs=nnx.Rngs(seed), **fields,
  )  # fmt: skip
  graph, state = nnx.split(made)
  rng = np.random.default_rng(seed)
  leaves, tree = jax.tree.flatten(state)
  new = [x + jnp.float32(rng.normal(0, 0.1, x.shape)) for x in leaves]
  return nnx.merge(graph, jax.tree.unflatten(tree, new))


def data(seed=0):
  """Texts of 7, 4 and 1 tokens, and images' tokens."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(1, V - 2, (B, L))
  ids[np.arange(L)[None] >= np.array([7, 4, 1])[:, None]] = PAD
  return jnp.int32(ids), jnp.float32(rng.normal(size=(B, M, W)))


def weights(made):
  p = nnx.to_pure_dict(nnx.state(made, nnx.Param))
  return jax.tree.map(lambda x: np.asarray(x, np.float64), p)


def norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return (
    x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * p["scale"] + p["bias"]
  )


def linear(x, p):
  return x @ p["kernel"] + p["bias"]


def gelu(x):
  return x * (1 + erf(x / np.sqrt(2))) / 2


def attention(x, y, p, visible):
  def project(x, name):
    kernel = p[name]["kernel"]
    return (
      np.stack([x @ kernel[:, h] for h in range(kernel.shape[1])])
      + (p[name]["bias"][:, None])
    )

  q, k, v = project(x, "query"), project(y, "key"), project(y, "value")
  logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
  w = np.where(visible, np.exp(logits - logits.max()), 0)
  heads = (w / w.sum(-1, keepdims=True)) @ v
  out = sum(
    h @ kernel for h, kernel in zip(heads, p["out"]["kernel"], strict=1)
  )
  return out + p["out"]["bias"]


def states(p, ids, mode, memory=None):
  """What the last block makes of a text without padding."""
  x = norm(p["embed"]["embedding"][ids] + p["pos"][: len(ids)], p["norm"])
  visible = np.tri(len(ids), dtype=bool) if mode == "decoder" else True
  blocks = p["stack"]["blocks"]
  for i in range(len(blocks["mlp_norm"]["scale"])):
    b = jax.tree.map(lambda x, i=i: x[i], blocks)
    x = norm(x + attention(x, x, b[mode], visible), b[f"{mode}_norm"])
    if memory is not None:
      y = attention(x, np.float64(memory), b["cross"], True)
      x = norm(x + y, b["cross_norm"])
    y = linear(gelu(linear(x, b["mlp"]["fc1"])), b["mlp"]["fc2"])
    x = norm(x + y, b["mlp_norm"])
  return x


def logits(p, x):
  x = norm(gelu(linear(x, p["head"])), p["head_norm"])
  return x @ p["embed"]["embedding"].T + p["logit_bias"]


def words(row):
  row = np.asarray(row)
  return row[row != PAD]


def close(found, expected):
  np.testing.assert_allclose(found, expected, rtol=2e-4, atol=3e-5)


def test_text_alone_is_its_formula():
  made = tower()
  ids, _ = data()
  p = weights(made)
  tokens, pooled, mask = made.features(ids)
  vectors = made(ids)
  np.testing.assert_array_equal(mask, ids != PAD)
  for row in range(B):
    x = states(p, words(ids[row]), "encoder")
    close(tokens[row, : len(x)], x)
    close(pooled[row], x[0])
    close(vectors[row], linear(x[0], p["project"]))
  assert vectors.dtype == jnp.float32 and vectors.shape == (B, 6)


@pytest.mark.parametrize("enc", [ENC, None])
def test_a_match_is_its_formula(enc):
  """[ENC] stands first, of which the two logits are."""
  made = tower(enc_id=enc)
  ids, memory = data()
  p = weights(made)
  state = made.grounded(ids, memory)
  found = made.matched(state)
  for row in range(B):
    text = words(ids[row])
    text[0] = text[0] if enc is None else enc
    x = states(p, text, "encoder", memory[row])
    close(state[row, : len(x)], x)
    close(found[row], linear(x[0], p["match"]))
  assert found.dtype == jnp.float32 and found.shape == (B, 2)


@pytest.mark.parametrize("dec", [DEC, None])
def test_a_caption_is_its_formula(dec):
  """[DEC] stands first, and the logits' kernel is that of the embeddings."""
  made = tower(dec_id=dec)
  ids, memory = data()
  p = weights(made)
  x = made.decoded(made.embedded(ids), memory)
  kernel, bias = made.logit_weights()
  found = made.scores(x)
  close(found, x @ kernel + bias[None, None])
  for row in range(B):
    text = words(ids[row])
    text[0] = text[0] if dec is None else dec
    expected = logits(p, states(p, text, "decoder", memory[row]))
    close(found[row, : len(text)], expected)
  assert found.dtype == jnp.float32 and found.shape == (B, L, V)


def test_images_tokens_that_are_padding_are_not_seen():
  made = tower()
  ids, memory = data()
  counts = jnp.array([2, 5, 3])
  mask = jnp.arange(M)[None] < counts[:, None]
  state = made.grounded(ids, memory, mask)
  told = made.decoded(made.embedded(ids), memory, mask=mask)
  for row, n in enumerate(counts):
    one = slice(row, row + 1)
    close(state[row], made.grounded(ids[one], memory[one, :n])[0])
    alone = made.decoded(made.embedded(ids[one]), memory[one, :n])
    close(told[row], alone[0])


def test_padding_changes_nothing():
  """Neither a text's vector, nor a match, nor the logits before it."""
  made = tower()
  ids, memory = data()
  short, one = ids[1:2, :4], slice(1, 2)
  assert (ids[1, 4:] == PAD).all()
  close(made(ids)[one], made(short))
  whole = made.matched(made.grounded(ids, memory))
  close(whole[one], made.matched(made.grounded(short, memory[one])))
  told = made.decoded(made.embedded(ids), memory)
  close(told[one, :4], made.decoded(made.embedded(short), memory[one]))


@pytest.mark.parametrize("prompt", [1, 3])
def test_step_by_step_is_the_same(prompt):
  made = tower()
  model = Model(None, made)
  ids, memory = data()
  mask = jnp.arange(M)[None] < jnp.array([2, 5, 3])[:, None]
  x = made.decoded(made.embedded(ids), memory, mask=mask)
  whole = made.scores(x)
  state = captioner.start(model, memory, mask, L)
  found, state = captioner.advance(model, ids[:, :prompt], state)
  np.testing.assert_allclose(found, whole[:, prompt - 1], rtol=1e-4, atol=1e-5)
  for i in range(prompt, L):
    # In another order, and back: rows are picked with all that is known.
    order = jnp.array([2, 0, 1])
    state = captioner.picked(state, order, True)
    found, state = captioner.advance(model, ids[order, i : i + 1], state)
    state = captioner.picked(state, jnp.argsort(order), True)
    np.testing.assert_allclose(found, whole[order, i], rtol=1e-4, atol=1e-5)


def test_greedy_captions_are_those_of_whole_passes():
  made = tower(dtype="float32")
  model = Model(None, made)
  _, memory = data()
  how = generation.Decoding("greedy", max_tokens=L - 1)
  found, _ = generation.generate(
    lambda ids, state: captioner.advance(model, ids, state),
    captioner.picked, captioner.start(model, memory, None, L),
    jnp.full((B, 1), 1), how, generation.Ids(None, PAD),
  )  # fmt: skip
  ids = jnp.full((B, 1), 1)
  for _ in range(L - 1):
    x = made.decoded(made.embedded(ids), memory)
    ids = jnp.concatenate([ids, made.scores(x[:, -1]).argmax(-1)[:, None]], 1)
  np.testing.assert_array_equal(found, ids[:, 1:])


def names(**fields):
  made = nnx.eval_shape(lambda: tower(**fields))
  return set(rules.flatten(nnx.to_pure_dict(nnx.state(made, nnx.Param))))


def test_encoder_and_decoder_share_all_but_self_attention():
  encoder, decoder = names(decoder=False), names(encoder=False, out_dim=None)

  def of(name):
    both = ("stack/blocks/encoder", "stack/blocks/decoder")
    return name.startswith(both)

  heads = {"project", "match"}, {"head", "head_norm", "logit_bias"}
  both = encoder & decoder
  assert {k.split("/")[0] for k in both} == {"embed", "pos", "norm", "stack"}
  for own, parts in zip((encoder, decoder), heads, strict=True):
    rest = {k for k in own - both if not of(k)}
    assert {k.split("/")[0] for k in rest} == parts
    # Four linear layers with a bias, and a norm.
    assert sum(map(of, own)) == 10
  assert names() == encoder | decoder
  assert names(match=False) == names() - {"match/kernel", "match/bias"}
  stacked = [k for k in names() if rules.stacked(f"txt/{k}")]
  assert {k.split("/")[0] for k in names() - set(stacked)} == {
    "embed", "pos", "norm", "project", "match", "head", "head_norm",
    "logit_bias",
  }  # fmt: skip


def test_both_uses_teach_what_they_share():
  made = tower()
  ids, memory = data()
  graph, state = nnx.split(made)

  def match(state):
    made = nnx.merge(graph, state)
    return made.matched(made.grounded(ids, memory)).sum()

  def told(state):
    made = nnx.merge(graph, state)
    x = made.decoded(made.embedded(ids), memory)
    return (made.scores(x) ** 2).sum()

  def taught(loss):
    flat = rules.flatten(nnx.to_pure_dict(jax.grad(loss)(state)))
    return {k.removeprefix("stack/blocks/") for k, g in flat.items() if g.any()}

  first, second = taught(match), taught(told)
  for name in ("cross/query/kernel", "mlp/fc1/kernel", "embed/embedding"):
    assert name in first & second
  assert "encoder/query/kernel" in first - second
  assert "decoder/query/kernel" in second - first
  # And the initial LM's gradient reaches rows that no text has.
  assert "project/kernel" not in first | second


def test_dropout_is_by_example_and_remat_changes_nothing():
  made = tower(dropout=0.5)
  ids, memory = data()
  keys = jax.random.split(jax.random.key(0), B)
  x = made.embedded(ids)
  for use in (
    lambda rows, keys: made(ids[rows], keys),
    lambda rows, keys: made.grounded(ids[rows], memory[rows], None, keys),
    lambda rows, keys: made.decoded(x[rows], memory[rows], keys=keys),
  ):
    dropped, alone = use(slice(B), keys), use(slice(1, 2), keys[1:2])
    np.testing.assert_allclose(dropped[1:2], alone, rtol=1e-5, atol=1e-5)
    assert np.abs(dropped - use(slice(B), None)).max() > 0.1
  again = tower(dropout=0.5, remat=layers.REMAT)
  for name in ("cross", "inputs"):
    assert getattr(again, name) == getattr(made, name)

  def loss(x, made):
    return (made.decoded(x, memory, keys=keys) ** 2).sum()

  grads = [jax.grad(loss)(x, t) for t in (made, again)]
  np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_in_it_and_logits_are_float32():
  made = tower(dtype="bfloat16")
  exact = tower()
  ids, memory = data()
  state = made.grounded(ids, memory)
  x = made.decoded(made.embedded(ids), memory)
  assert state.dtype == x.dtype == jnp.bfloat16
  for found, wanted in (
    (made(ids), exact(ids)),
    (made.matched(state), exact.matched(exact.grounded(ids, memory))),
    (
      made.scores(x),
      exact.scores(exact.decoded(exact.embedded(ids), memory)),
    ),
  ):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("memory", [0, 64])
def test_flops_are_counted(memory):
  """Those that XLA counts of one text, up to norms and softmax."""
  w, length = 256, 32
  made = nnx.eval_shape(
    lambda: Blip(
      "mu", memory=w, vocab_size=V, length=length, pad_id=0, width=w, depth=1,
      mlp=1024, heads=2, rngs=nnx.Rngs(0),
    )
  )  # fmt: skip
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  seen = jax.ShapeDtypeStruct((1, memory, w), jnp.float32)

  def run(m, ids, seen):
    return m.grounded(ids, seen) if memory else m.features(ids).tokens

  counted = jax.jit(run).lower(made, ids, seen).cost_analysis()["flops"]
  np.testing.assert_allclose(made.flops(memory=memory), counted, rtol=0.06)


def test_the_decoder_of_a_model():
  made = tower()
  other = Decoder("mu", memory=W, vocab_size=V, length=L, rngs=nnx.Rngs(0))
  text = TextTower("mu", vocab_size=V, length=L, rngs=nnx.Rngs(0))
  assert captioner.decoder(Model(None, made)) is made
  assert captioner.decoder(Model(None, made, dec=other)) is other
  assert captioner.decoder(Model(None, text)) is None
  assert captioner.decoder(Model(None)) is None
  assert captioner.decoder(Model(None, tower(decoder=False))) is None
  assert captioning.__doc__
  ids, memory = data()
  x = other.decoded(other.embedded(ids), memory)
  np.testing.assert_array_equal(x, other(other.embedded(ids), memory))
  kernel, bias = other.logit_weights()
  close(other.scores(x), x @ kernel + bias[None, None])


IMAGE = {"variant": "mu/8", "res": 16, "pool": "tok", "cls_pos": True}
TEXT = {
  "tower": "blip", "variant": "mu", "pad_id": 0, "vocab_size": V, "enc_id": ENC,
  "dec_id": DEC,
}  # fmt: skip
SIZES = TextSizes(L, V - 2, 0, 3, 2)


def build(image=None, text=None, sizes=SIZES, **fields):
  config = {
    "image": IMAGE | (image or {}),
    "text": TEXT | (text or {}),
    **fields,
  }
  return build_model(config, sizes)


def test_a_config_makes_it_for_its_image_tower():
  built = build(image={"width": 40, "heads": 4, "out_dim": 6},
                text={"out_dim": 6})  # fmt: skip
  model = built.make(jax.random.key(0))
  image = jnp.zeros((2, 16, 16, 3), jnp.uint8)
  tokens = model.img.features(image).tokens
  assert tokens.shape == (2, 5, 40)
  ids = jnp.int32([[2, 5, 3, 0, 0, 0, 0], [2, 6, 7, 3, 0, 0, 0]])
  state = model.txt.grounded(ids, tokens)
  assert model.txt.matched(state).shape == (2, 2)
  assert model.embed_text(ids).shape == model.embed_image(image).shape == (2, 6)
  assert captioner.decoder(model).length == L
  assert rules.flatten(built.shapes)["txt/embed/embedding"].shape == (V, 32)


def test_a_decoder_alone_has_no_vectors():
  built = build(image={"out_dim": 6}, text={"encoder": False})
  assert built.abstract.txt.out_dim is None
  with pytest.raises(errors.UserError, match=r"text.encoder = False"):
    built.make(jax.random.key(0)).embed_text(jnp.zeros((1, L), jnp.int32))
  with pytest.raises(errors.UserError, match=r"heads.h.on = 'text'"):
    build(text={"encoder": False}, heads={"h": {"name": "mlp", "on": "text"}})


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"encoder": False, "decoder": False}, "text.encoder = False"),
    ({"encoder": False, "out_dim": 32}, "text.out_dim = 32; expected None"),
    ({"enc_id": V}, f"text.enc_id = {V}"),
    ({"dec_id": -1}, "text.dec_id = -1"),
    ({"out_dim": 5}, "text.out_dim = 5; expected the image tower's width, 32"),
    ({"vocab_size": 4}, "text.vocab_size = 4"),
    ({"pad_id": 1}, "text.pad_id = 1"),
    ({"pool": "cls"}, "text.pool"),
  ],
)
def test_a_wrong_field_is_named(fields, said):
  with pytest.raises(errors.UserError, match=rf"config.model.{said}"):
    build(text=fields)


def test_padding_must_be_said_and_images_must_have_tokens():
  text = {k: v for k, v in TEXT.items() if k != "pad_id"}
  with pytest.raises(errors.UserError, match=r"model.text.pad_id is missing"):
    build_model({"image": IMAGE, "text": text}, SIZES)
  with pytest.raises(errors.UserError, match=r"model.text.tower"):
    image = {"tower": "vectors", "width": 32}
    build_model({"image": image, "text": TEXT}, SIZES)
  decoder = {"variant": "mu", "inputs": "text"}
  with pytest.raises(errors.UserError, match=r"decoder.inputs = 'text'"):
    build(decoder=decoder)
