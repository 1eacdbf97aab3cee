"""BLIP: three losses by dense formulas, a teacher, a queue; on any devices."""

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
from big_contrastive.config import errors, rules
from big_contrastive.losses.matching import hard_negatives
from big_contrastive.models import build
from big_contrastive.models.model import merge
from big_contrastive.objectives import blip
from big_contrastive.parallel import sharding
from big_contrastive.training import step

BATCH, V, LENGTH, LR, STEPS = 8, 24, 6, 0.05, 3
PAD, BOS, EOS, ENC, DEC = 0, 1, 2, 22, 23
SIZE = {"width": 16, "depth": 1, "mlp": 32, "heads": 2}
SECTIONS = {
  "image": {"variant": "mu/8", "res": 16, "pool": "tok", "out_dim": 12,
            "out_bias": True, **SIZE},
  "text": {"tower": "blip", "variant": "mu", "out_dim": 12, "vocab_size": V,
           "pad_id": PAD, "enc_id": ENC, "dec_id": DEC, **SIZE},
  "scale": 5.0,
}  # fmt: skip


def setting(devices=1, fsdp=1, tensor=1, micro_batch=None, **text):
  mesh = sharding.make_mesh(
    devices=jax.devices()[:devices], fsdp=fsdp, tensor=tensor
  )
  ids = types.SimpleNamespace(
    length=LENGTH, vocab_size=22, pad_id=PAD, bos_id=BOS, eos_id=EOS
  )
  sections = SECTIONS | {"text": SECTIONS["text"] | text}
  built = build.build_model(sections, ids)
  return objectives.Setting(built, mesh, BATCH, micro_batch, 10, {}, ids)


def make(*shape, micro_batch=None, text=None, **fields):
  of = setting(*shape, micro_batch=micro_batch, **(text or {}))
  fields = {"queue": 2 * BATCH, "ramp": 0.2, "momentum": 0.5} | fields
  method = blip.build(of, **fields)
  names = frozenset(rules.flatten(of.model.shapes))
  recipe = step.Step(
    method.freeze(frozenset()), optax.sgd(LR), lambda s: LR, names, 0
  )
  return method, tiny.place(recipe, of.mesh)


def batches():
  r = np.random.default_rng(0)
  for _ in range(STEPS):
    image = r.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8)
    text = r.integers(3, 22, (BATCH, LENGTH))
    text[:, 0] = BOS
    for row, end in zip(text, r.integers(2, LENGTH, BATCH), strict=True):
      row[end], row[end + 1 :] = EOS, PAD
    ids = np.array([0, 1, 2, 0, 4, 5, 6, 5], np.int32)
    yield {"image": image, "text": text.astype(np.int32), "id": ids}


def first_state(placed):
  state, r = placed.init(), np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: (
      np.asarray(x) + (0.1 * r.standard_normal(x.shape)).astype(x.dtype)
    ),
    state.params,
  )
  where = jax.tree.map(lambda x: x.sharding, state.params)
  params = jax.device_put(params, where)
  return state._replace(params=params, extra=placed.init_extra(params))


def trained(placed):
  state, told = first_state(placed), []
  for local in batches():
    batch = sharding.to_global(local, BATCH, placed.mesh)
    state, metrics = placed.update(state, batch)
    told.append({k: float(metrics[k]) for k in metrics if k[:2] in ("it", "lm")
                 or k == "loss"})  # fmt: skip
  return told, jax.device_get(state)


@functools.cache
def alone(same):
  """On one device: the method, the first state, and what `trained` returns."""
  method, placed = make(same=same)
  return method, jax.device_get(first_state(placed)), *trained(placed)


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def vectors(model, local):
  image = model.img.features(local["image"])
  zimg = image.pooled @ model.img.project.kernel[...]
  zimg = unit(zimg + model.img.project.bias[...][None])
  return zimg, unit(model.txt(local["text"])), image.tokens


def cross_entropy(s, target):
  return -(target * jax.nn.log_softmax(s)).sum(-1).mean()


def losses(p, teacher, queue, local, alpha, key, method):
  """ITC, ITM, LM of a batch, with the matrices that ours never has."""
  model = merge(method.setting.model.graph, p)
  zimg, ztxt, tokens = vectors(model, local)
  old = merge(method.setting.model.graph, p | teacher)
  timg, ttxt = jax.lax.stop_gradient(vectors(old, local)[:2])
  ids = local["id"]
  all_ids = jnp.concatenate([ids, queue["id"].ravel()])
  target = jnp.eye(BATCH, 3 * BATCH)
  if method.same:
    target = jnp.float32(ids[:, None] == all_ids[None])
    target /= target.sum(1, keepdims=True)
  itc = 0
  for z, t, k, name in (
    (zimg, timg, ttxt, "text"),
    (ztxt, ttxt, timg, "image"),
  ):
    keys = jnp.concatenate([k, queue[name].reshape(-1, 12)])
    scale = jnp.exp(p["t"])
    soft = jax.lax.stop_gradient(jax.nn.softmax(scale * t @ keys.T))
    goal = alpha * soft + (1 - alpha) * target
    itc += cross_entropy(scale * z @ keys.T, goal) / 2
  keys = jax.random.split(key)
  how = {"scale": jnp.exp(p["t"]), "eps": 1e-4,
         "ids": ids if method.same else None}  # fmt: skip
  other_text = hard_negatives.draw(zimg, ttxt, keys[0], **how).text
  other_image = hard_negatives.draw(timg, ztxt, keys[1], **how).image
  text = local["text"]
  pairs = [
    (tokens, text, 1), (tokens[other_image], text, 0),
    (tokens, text[other_text], 0),
  ]  # fmt: skip
  itm = 0
  for image, words, answer in pairs:
    logits = model.txt.matched(model.txt.grounded(words, image))
    itm -= jax.nn.log_softmax(logits)[:, answer].mean() / 3
  logits = model.txt.scores(
    model.txt.decoded(model.txt.embedded(text[:, :-1]), tokens)
  )
  logp = jax.nn.log_softmax(logits)
  at = (jax.nn.one_hot(text[:, 1:], V) * logp).sum(-1)
  each, real = 0.9 * at + 0.1 * logp.mean(-1), text[:, 1:] != PAD
  lm = -(each * real).sum() / real.sum()
  return itc + itm + lm, {"itc": itc, "itm": itm, "lm": lm,
                          "z": (timg, ttxt)}  # fmt: skip


@pytest.mark.parametrize("same", [False, True])
def test_three_steps_are_those_of_the_formulas(same):
  """Of a teacher that moves after each step, a queue and a rising alpha."""
  method, first, told, state = alone(same)
  p, teacher, queue = first.params, first.extra["teacher"], first.extra["queue"]
  queue = {name: np.array(rows) for name, rows in queue.items()}
  of = functools.partial(losses, method=method)
  run = jax.jit(jax.value_and_grad(of, has_aux=True))
  for count, local in enumerate(batches()):
    rng = jax.random.fold_in(jax.random.key(0), count)
    key = jax.random.fold_in(rng, 2**31 - 1)
    alpha = 0.4 * min(1, count / 2)
    (loss, each), grads = run(p, teacher, queue, local, alpha, key)
    np.testing.assert_allclose(told[count]["loss"], loss, rtol=1e-4)
    for name in ("itc", "itm", "lm"):
      np.testing.assert_allclose(told[count][name], each[name], rtol=1e-4)
    p = jax.tree.map(lambda x, g: x - LR * g, p, grads)
    teacher = jax.tree.map(
      lambda a, b: 0.5 * a + 0.5 * b, teacher, {k: p[k] for k in teacher}
    )
    for name, new in zip(("image", "text"), each["z"], strict=True):
      queue[name][count % 2] = new
    queue["id"][count % 2] = local["id"]
  chex.assert_trees_all_close(state.params, p, rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_close(
    state.extra["teacher"], teacher, rtol=1e-3, atol=1e-4
  )
  chex.assert_trees_all_close(state.extra["queue"], queue, atol=1e-4)
  assert state.extra["at"] == STEPS % 2


@pytest.mark.parametrize(
  ("shape", "micro_batch"), [((8, 4, 2), None), ((2,), 4), ((1,), 2)]
)
def test_devices_and_micro_batches_change_nothing(shape, micro_batch):
  told, state = trained(make(*shape, micro_batch=micro_batch, same=True)[1])
  _, _, expected, one = alone(True)
  for a, b in zip(told, expected, strict=True):
    for name in b:
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)
  chex.assert_trees_all_close(state.params, one.params, rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_close(state.extra, one.extra, rtol=1e-3, atol=1e-4)


def test_chances_are_those_of_equal_answers():
  method, placed = make()
  state = placed.init()
  flat = rules.flatten(state.params)
  # No answer depends on anything: zero vectors of texts, of the last layers.
  for name in ("txt/match/kernel", "txt/embed/embedding", "txt/head_norm/scale",
               "txt/head_norm/bias", "txt/match/bias"):  # fmt: skip
    flat[name] = jnp.zeros_like(flat[name])
  state = state._replace(params=rules.unflatten(flat))
  batch = sharding.to_global(next(batches()), BATCH, placed.mesh)
  _, metrics = placed.update(state, batch)
  chances = method.chances
  np.testing.assert_allclose(metrics["lm"], np.log(V), rtol=1e-5)
  np.testing.assert_allclose(chances["lm"], np.log(V))
  # Equal answers cost ln 2; the best constant, 1 : 2, costs less.
  np.testing.assert_allclose(metrics["itm"], np.log(2), rtol=1e-5)
  assert chances["itm"] == pytest.approx(0.63651, abs=1e-5)
  assert float(metrics["itm_accuracy"]) == 0
  assert chances["itc"] == pytest.approx(np.log(3 * BATCH))
  assert chances["loss"] == pytest.approx(
    sum(chances[k] for k in ("itc", "itm", "lm"))
  )


def test_without_queue_and_captions():
  """As for retrieval: no decoder is needed, and negatives have other ids."""
  method, placed = make(
    queue=0, caption=0.0, eps=0.0, same=True, text={"decoder": False}
  )
  told, state = trained(placed)
  assert set(told[0]) == {"loss", "itc", "itm", "itm_accuracy"}
  assert "lm" not in method.chances
  assert method.chances["itc"] == pytest.approx(np.log(BATCH))
  assert state.extra["queue"]["text"].shape == (0, BATCH, 12)
  assert np.isfinite([t["loss"] for t in told]).all()


def test_a_batch_of_one_meaning_has_no_negatives():
  """Its pairs alone are matched; nothing is divided by zero."""
  _, placed = make(same=True)
  local = next(batches()) | {"id": np.zeros(BATCH, np.int32)}
  state = first_state(placed)
  _, metrics = placed.update(
    state, sharding.to_global(local, BATCH, placed.mesh)
  )
  assert np.isfinite(float(metrics["loss"]))


def test_the_temperature_is_clipped():
  _, placed = make(scale_min=4.999, scale_max=5.001)
  _, state = trained(placed)
  assert np.log(4.999) - 1e-6 <= state.params["t"] <= np.log(5.001) + 1e-6


@pytest.mark.parametrize(
  ("fields", "text", "said"),
  [
    ({"queue": 12}, {}, "queue = 12; expected 0, or a multiple"),
    ({"alpha": 2.0}, {}, "alpha = 2.0; expected"),
    ({"ramp": -0.1}, {}, "ramp = -0.1; expected"),
    ({"eps": -1.0}, {}, "eps = -1.0; expected"),
    ({"momentum": 1.0}, {}, "momentum = 1.0; expected"),
    ({"scale_min": 0.0}, {}, "scale_min = 0.0; expected"),
    ({}, {"decoder": False}, "config.model.text.decoder = False; expected"),
    ({}, {"match": False}, "config.model.text.match = False; expected"),
  ],
)
def test_wrong_fields_are_one_line(fields, text, said):
  with pytest.raises(errors.UserError) as e:
    make(text=text, **fields)
  assert said in str(e.value)


def test_another_tower_is_one_line():
  of = setting()
  text = {"variant": "mu", "out_dim": 12, **SIZE}
  built = build.build_model(SECTIONS | {"text": text}, of.tokenizer)
  other = objectives.Setting(built, of.mesh, BATCH, None, 1, {}, of.tokenizer)
  with pytest.raises(errors.UserError, match="config.model.text.tower = "):
    blip.build(other)
