"""Captions and CoCa against dense formulas, devices and micro-batches."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from big_contrastive import objectives
from big_contrastive.config import errors, registry, rules
from big_contrastive.models import build
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding
from big_contrastive.training import step

BATCH, V, LENGTH, LR = 16, 20, 6, 0.05
PAD, BOS, EOS = 0, 1, 2
SIZE = {"width": 16, "depth": 1, "mlp": 32, "heads": 2}


def tokenizer(bos=BOS, pad=PAD):
  return types.SimpleNamespace(
    length=LENGTH, vocab_size=V, pad_id=pad, bos_id=bos, eos_id=EOS
  )


def sections(name, **decoder):
  image = {"variant": "mu/8", "res": 16, **SIZE}
  if "text" in decoder:
    return {"image": image | {"pool": "gap"}, **decoder}
  if name == "captions":
    return {
      "image": image | {"pool": "gap"},
      "decoder": {"variant": "mu", **SIZE} | decoder,
    }
  return {
    "image": image | {"pool": "queries", "queries": 3, "pool_heads": 2},
    "text": {
      "variant": "mu", "pool": "cls", "causal": True, "pad_id": PAD, **SIZE
    },
    "decoder": {"variant": "mu", "inputs": "text", "cross": "block", "mlp": 32,
                "depth": 1, "heads": 2} | decoder,
    "scale": 10.0,
  }  # fmt: skip


def make(
  name, devices=1, fsdp=1, tensor=1, micro_batch=None, model=None, bos=BOS,
  **fields,
):  # fmt: skip
  mesh = sharding.make_mesh(
    devices=jax.devices()[:devices], fsdp=fsdp, tensor=tensor
  )
  text = tokenizer(bos)
  built = build.build_model(sections(name, **(model or {})), text)
  setting = objectives.Setting(built, mesh, BATCH, micro_batch, 10, {}, text)
  method = registry.module("objectives", name, "").build(setting, **fields)
  names = frozenset(rules.flatten(built.shapes))
  recipe = step.Step(
    method.freeze(frozenset()), optax.sgd(LR), lambda s: LR, names, 0
  )
  return method, tiny.place(recipe, mesh)


def batches(steps, bos=BOS):
  """Captions of one token and more, cut ones, and some that are all padding."""
  r = np.random.default_rng(0)
  made = []
  for _ in range(steps):
    image = r.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8)
    text = r.integers(3, V, (BATCH, LENGTH))
    for row, end in zip(text, r.integers(1, LENGTH, BATCH), strict=True):
      row[end], row[end + 1 :] = EOS, PAD
    text[2:4, -1] = r.integers(3, V, 2)
    text[2:4, 1:-1] = r.integers(3, V, (2, LENGTH - 2))  # No EOS: cut.
    if bos is not None:
      text[:, 0] = bos
    ids = np.arange(BATCH, dtype=np.int32)
    made.append({"image": image, "text": text.astype(np.int32), "id": ids})
  return made


def first_state(placed):
  state, r = placed.init(), np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: (
      np.asarray(x) + (0.1 * r.standard_normal(x.shape)).astype(x.dtype)
    ),
    state.params,
  )
  where = jax.tree.map(lambda x: x.sharding, state.params)
  return state._replace(params=jax.device_put(params, where))


def trained(placed, steps=2, bos=BOS):
  state, losses = first_state(placed), []
  for local in batches(steps, bos):
    batch = sharding.to_global(local, BATCH, placed.mesh)
    state, metrics = placed.update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)


def weights(text, weigh, bos=BOS):
  """Of each token up to EOS, by a loop over captions; they add up to 1."""
  target = text if bos is None else text[:, 1:]
  found = np.zeros(target.shape)
  for row, words in zip(found, target, strict=True):
    ends = np.flatnonzero(words == EOS)
    row[: ends[0] + 1 if len(ends) else None] = 1
  if weigh == "caption":
    found /= found.sum(1, keepdims=True)
  return found / found.sum()


def cross_entropy(logits, local, smoothing, bos=BOS):
  target = local["text"] if bos is None else local["text"][:, 1:]
  logp = jax.nn.log_softmax(logits)
  at = (jax.nn.one_hot(target, V) * logp).sum(-1)
  each = -(1 - smoothing) * at - smoothing * logp.mean(-1)
  return (each * local["weights"]).sum()


BLIP = {
  "tower": "blip", "variant": "mu", "encoder": False, "pad_id": PAD, **SIZE
}  # fmt: skip


@pytest.mark.parametrize(
  "how", [{"devices": 1}, {"devices": 4, "micro_batch": 8}]
)
def test_a_text_tower_that_decodes_is_taught_the_same(how):
  """BLIP's: two steps of the formula, whose logits are its embeddings'."""
  method, placed = make("captions", model={"text": BLIP}, **how)
  losses, end = trained(placed)
  params = jax.device_get(first_state(placed).params)

  def formula(p, local):
    m = merge(method.setting.model.graph, p)
    tokens = m.img.features(local["image"]).tokens
    x = m.txt.embedded(local["text"][:, :-1])
    return cross_entropy(m.txt.scores(m.txt.decoded(x, tokens)), local, 0.0)

  run = jax.jit(jax.value_and_grad(formula))
  for loss, local in zip(losses, batches(2), strict=True):
    local["weights"] = weights(local["text"], "token")
    value, grads = run(params, local)
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    params = jax.tree.map(lambda x, g: x - LR * g, params, grads)
  chex.assert_trees_all_close(end.params, params, rtol=1e-4, atol=1e-5)
  assert method.caption_chance == np.log(V)


def captions(p, local, method, parallel=False, bos=BOS):
  m = merge(method.setting.model.graph, p)
  tokens = m.img.features(local["image"]).tokens
  start = jnp.full((BATCH, 1), PAD if bos is None else bos)
  inputs = jnp.concatenate([start, local["text"][:, bool(bos) : -1]], 1)
  if parallel:
    inputs = jnp.full_like(inputs, V)
  x = m.dec.decoded(m.dec.embedded(inputs), tokens, causal=not parallel)
  return cross_entropy(m.dec.scores(x), local, method.smoothing, bos)


def coca(p, local, method):
  m = merge(method.setting.model.graph, p)
  image, text = m.img.features(local["image"]), m.txt.features(local["text"])
  z = [
    x / jnp.linalg.norm(x, axis=1, keepdims=True)
    for x in (image.pooled, text.pooled)
  ]
  s = jnp.exp(p["t"]) * z[0] @ z[1].T
  both = jnp.diag(jax.nn.log_softmax(s)) + jnp.diag(jax.nn.log_softmax(s.T))
  x = m.dec.decoded(text.tokens[:, :-1], image.tokens)
  caption = cross_entropy(m.dec.scores(x), local, method.smoothing)
  return -both.mean() / 2 + 2 * caption


CASES = {
  "cap": ("captions", {}, {}),
  "caption means, smoothed": (
    "captions", {}, {"weigh": "caption", "smoothing": 0.1}
  ),
  "no bos": ("captions", {"bos": None}, {"weigh": "caption"}),
  "parallel": ("captions", {"model": {"parallel": True}}, {"parallel": 1.0}),
  "prefix": (
    "captions", {"model": {"cross": "prefix", "logit_bias": False}}, {}
  ),
  "coca": ("coca", {}, {"smoothing": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_steps_are_those_of_the_formula(case):
  name, how, fields = CASES[case]
  bos = how.get("bos", BOS)
  method, placed = make(name, **how, **fields)
  losses, state = trained(placed, bos=bos)
  p, expected = jax.device_get(first_state(placed).params), []
  more = {} if name == "coca" else {"bos": bos, "parallel": case == "parallel"}
  of = functools.partial(globals()[name], method=method, **more)
  run = jax.jit(jax.value_and_grad(of))
  for local in batches(2, bos):
    local["weights"] = weights(local["text"], method.weigh, bos)
    loss, grads = run(p, local)
    p = jax.tree.map(lambda x, g: x - LR * g, p, grads)
    expected.append(float(loss))
  np.testing.assert_allclose(losses, expected, rtol=2e-5)
  chex.assert_trees_all_close(state.params, p, rtol=2e-4, atol=2e-5)
  assert np.ptp(losses) > 1e-3


# What draws: half of the captions at once, half of the image's tokens.
DRAWS = {
  "captions": (
    {"model": {"parallel": True}},
    {"parallel": 0.5, "keep": 0.5, "weigh": "caption"},
  ),
  "coca": ({"model": {"dropout": 0.2}}, {}),
}


@functools.cache
def alone(name):
  how, fields = DRAWS[name]
  return trained(make(name, **how, **fields)[1])


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(
  ("shape", "micro_batch", "tile"),
  [((8, 4, 2), None, None), ((2, 1, 1), 8, 3), ((1, 1, 1), 4, None)],
)
def test_devices_micro_batches_and_tiles_change_nothing(
  name, shape, micro_batch, tile
):
  how, fields = DRAWS[name]
  _, placed = make(name, *shape, micro_batch=micro_batch, tile=tile, **how,
                   **fields)  # fmt: skip
  losses, state = trained(placed)
  expected, one = alone(name)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  chex.assert_trees_all_close(state.params, one.params, rtol=1e-4, atol=1e-5)


def test_some_captions_are_told_at_once_and_all_see_other_tokens():
  """The loss is neither that of none, nor of all; anew in each step."""
  name, seen = "captions", {}
  for parallel in (0.0, 0.5, 1.0):
    model = {"parallel": parallel > 0}
    _, placed = make(name, model=model, parallel=parallel, keep=0.5)
    seen[parallel] = trained(placed, 1)[0][0]
  _, whole = make(name, model={"parallel": False})
  seen["whole"] = trained(whole, 1)[0][0]
  assert len({round(x, 4) for x in seen.values()}) == 4


@pytest.mark.parametrize("name", DRAWS)
def test_the_first_loss_is_that_of_guessing(name):
  method, placed = make(name)
  local = batches(1)[0]
  state = placed.init()
  _, metrics = placed.update(
    state, sharding.to_global(local, BATCH, placed.mesh)
  )
  caption = "loss" if name == "captions" else "caption_loss"
  np.testing.assert_allclose(metrics[caption], np.log(V), rtol=1e-6)
  np.testing.assert_allclose(method.chances[caption], np.log(V), rtol=1e-12)
  if name == "coca":
    np.testing.assert_allclose(method.chances["pair_loss"], np.log(BATCH))
    np.testing.assert_allclose(
      method.chances["loss"], np.log(BATCH) + 2 * np.log(V)
    )


def test_no_array_of_tokens_by_vocabulary_is_made():
  """Memory of the step grows with a tile of logits, not with the batch's."""

  def temporary(vocab):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    text = tokenizer()
    text.vocab_size = vocab
    built = build.build_model(sections("captions"), text)
    setting = objectives.Setting(built, mesh, 1024, None, 10, {}, text)
    method = registry.module("objectives", "captions", "").build(
      setting, tile=16
    )
    names = frozenset(rules.flatten(built.shapes))
    recipe = step.Step(
      method.freeze(frozenset()), optax.sgd(LR), lambda s: LR, names, 0
    )
    placed = tiny.place(recipe, mesh)
    batch = {
      "image": jax.ShapeDtypeStruct((1024, 16, 16, 3), np.uint8),
      "text": jax.ShapeDtypeStruct((1024, LENGTH), np.int32),
    }
    memory = placed.update.lower(placed.abstract, batch).compile()
    return memory.memory_analysis().temp_size_in_bytes

  small, large = temporary(2000), temporary(8000)
  # The gradients of embeddings and logits, and a tile: not 5,120 x 6,000.
  assert large - small < 6000 * 4 * (16 * 8 + 16 * 8)


@pytest.mark.parametrize(
  ("model", "fields", "said"),
  [
    ({}, {"parallel": 0.5}, "config.model.decoder.parallel = False; expected"),
    ({"parallel": True}, {}, "config.model.decoder.parallel = True; expected"),
    ({"parallel": True}, {"parallel": 1.5}, "parallel = 1.5; expected"),
    ({}, {"keep": 0.0}, "keep = 0.0; expected"),
    ({}, {"smoothing": 1.0}, "smoothing = 1.0; expected"),
    ({}, {"tile": 0}, "tile = 0; expected"),
    (
      {"parallel": True, "cross": "prefix"}, {"parallel": 0.5},
      "parallel = 0.5; expected 0 with",
    ),
    ({}, {"micro": {"image": 4, "text": 8}}, "the same for image and text"),
  ],
)  # fmt: skip
def test_wrong_fields_are_one_line(model, fields, said):
  micro = fields.pop("micro", None)
  with pytest.raises(errors.UserError) as e:
    make("captions", model=model, micro_batch=micro, **fields)
  assert said in str(e.value)


@pytest.mark.parametrize(
  ("name", "change", "said"),
  [
    ("captions", {"decoder": None}, "config.model.decoder is missing"),
    (
      "coca", {"decoder": {"variant": "mu"}},
      "decoder.inputs = 'ids'; expected \"text\"",
    ),
    ("coca", {"text": None}, "decoder.inputs = 'text'; expected \"ids\", or"),
    ("coca", {"scale": None}, "config.model.scale is missing"),
  ],
)  # fmt: skip
def test_another_model_is_one_line(name, change, said):
  text = tokenizer()
  with pytest.raises(errors.UserError) as e:
    built = build.build_model(sections(name) | change, text)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    setting = objectives.Setting(built, mesh, BATCH, None, 1, {}, text)
    registry.module("objectives", name, "").build(setting)
  assert said in str(e.value)
