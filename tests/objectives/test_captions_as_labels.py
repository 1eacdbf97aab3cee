"""CatLIP and SuperClass against float64 formulas, step by step."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_self_supervised import tower

import peers
import tiny
from big_contrastive import objectives
from big_contrastive.config import errors, registry, rules
from big_contrastive.data.labels import synsets, wordnet
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.models import build
from big_contrastive.parallel import sharding
from big_contrastive.training import step

TOWER = str(pathlib.Path(__file__).parents[1] / "normed_tower.py")
BATCH, V, LENGTH, LR = 24, 40, 6, 0.05
COUNTS = np.linspace(90, 3, V).astype(int)


@functools.cache
def tokenizer(name):
  """Of 40 classes; of CatLIP's, 100 captions were counted."""
  if name == "superclass":
    made = build_tokenizer("bytes", LENGTH)
    made.vocab_size = V  # Any ids will do: batches are made here.
    return made
  nouns = wordnet.read("shapes", "")
  every = sorted(set(synsets.meanings(nouns, "head").values()))[:V]
  counts = list(zip(every, COUNTS.tolist(), strict=True))
  blob = synsets.vocabulary(nouns, "head", counts, 100)
  return build_tokenizer("synsets", LENGTH, blob=blob)


def model(norm, classes=V):
  image = {"tower": TOWER, "res": 16, "width": 16, "norm_group": 3}
  head = {"name": "classifier", "classes": classes, "norm": norm}
  return build.build_model({"image": image, "heads": {"classifier": head}})


def make(name, devices=1, fsdp=1, tensor=1, micro_batch=None, **fields):
  mesh = sharding.make_mesh(
    devices=jax.devices()[:devices], fsdp=fsdp, tensor=tensor
  )
  built = model(norm=name == "superclass")
  setting = objectives.Setting(
    built, mesh, BATCH, micro_batch, 10, {}, tokenizer(name)
  )
  method = registry.module("objectives", name, "").build(setting, **fields)
  names = frozenset(rules.flatten(built.shapes))
  recipe = step.Step(
    method.freeze(frozenset()), optax.sgd(LR), lambda s: LR, names, 0
  )
  return method, tiny.place(recipe, mesh)


def batches(steps):
  """Labels come twice, not at all, and, for CatLIP, from beyond the last."""
  r = np.random.default_rng(0)
  made = []
  for _ in range(steps):
    image = r.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8)
    text = np.minimum(r.geometric(0.08, (BATCH, LENGTH)) - 1, V - 1)
    text[0], text[1, 1:] = text[0, 0], text[1, 0]
    made.append({"image": image, "text": text.astype(np.int32)})
  return made


def padded(name, local):
  if name == "superclass":
    return local
  text = local["text"].copy()
  text[2], text[3, 3:] = V, V  # The padding of synsets.
  return local | {"text": text}


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


def trained(name, placed, steps=3):
  state, losses = first_state(placed), []
  for local in batches(steps):
    batch = sharding.to_global(padded(name, local), BATCH, placed.mesh)
    state, metrics = placed.update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)


@functools.cache
def alone(name):
  return trained(name, make(name)[1])


def members(text):
  """bool [B, V]: which classes each row has."""
  has = np.zeros((len(text), V), bool)
  for i, row in enumerate(text):
    has[i, [v for v in row if v < V]] = True
  return has


def catlip(p, extra, image, has):
  x, seen = tower(p["img"], image, 3)
  linear = p["classifier"]["linear"]
  s = x @ linear["kernel"] + linear["bias"][None]
  entropy = jnp.where(has, jax.nn.log_sigmoid(s), jax.nn.log_sigmoid(-s))
  return -entropy.sum() / BATCH, (extra, seen)


def superclass(p, extra, image, has):
  x, seen = tower(p["img"], image, 3)
  norm, linear = p["classifier"]["norm"], p["classifier"]["linear"]
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  x = (x - mean) / jnp.sqrt(var + 1e-6)
  x = x * norm["scale"][None] + norm["bias"][None]
  s = x @ linear["kernel"] + linear["bias"][None]
  f = extra["frequency"] + has.mean(0)
  n = extra["batches"] + 1
  target = has * np.log((n + 1 / BATCH) / (f + 1 / BATCH))[None]
  target /= np.maximum(np.abs(target).sum(1, keepdims=True), 1e-12)
  loss = -(target * jax.nn.log_softmax(s, axis=1)).sum(1).mean()
  return loss, ({"frequency": f, "batches": n}, seen)


def formula(name, placed, steps=3):
  state = jax.device_get(first_state(placed))
  with jax.enable_x64(True):
    p, extra = jax.tree.map(np.float64, (state.params, state.extra))
    extra.pop("statistics")
    losses = []
    for local in batches(steps):
      local = padded(name, local)
      image, has = local["image"].astype(np.float64), members(local["text"])
      of = functools.partial(globals()[name], extra=extra, image=image, has=has)
      (loss, (extra, _)), grads = jax.value_and_grad(of, has_aux=True)(p)
      p = jax.tree.map(lambda x, g: x - LR * g, p, grads)
      losses.append(float(loss))
    return losses, jax.device_get((p, extra))


METHODS = ("catlip", "superclass")


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_are_those_of_the_formula(name):
  losses, state = alone(name)
  expected, (params, extra) = formula(name, make(name)[1])
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-5)
  own = {k: v for k, v in state.extra.items() if k != "statistics"}
  chex.assert_trees_all_close(own, extra, rtol=1e-6)
  assert np.ptp(losses) > 1e-3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(2, 1, 1), (8, 4, 2), (4, 1, 4)])
def test_devices_and_split_classes_change_nothing(name, shape):
  losses, state = trained(name, make(name, *shape)[1])
  expected, one = alone(name)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  chex.assert_trees_all_close(state.params, one.params, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(state.extra, one.extra, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_and_tiles_change_nothing(name):
  losses, state = trained(name, make(name, 2, micro_batch=12, tile=5)[1])
  expected, one = alone(name)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  chex.assert_trees_all_close(state.params, one.params, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(state.extra, one.extra, rtol=1e-4, atol=1e-5)


def test_catlip_begins_at_the_entropy_of_the_classes():
  """Exactly, on images that have the classes as often as they were counted."""
  method, placed = make("catlip")
  p = COUNTS / 100
  entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
  np.testing.assert_allclose(method.chance, entropy, rtol=1e-12)
  params = placed.init().params
  bias = np.asarray(params["classifier"]["linear"]["bias"], np.float64)
  assert not np.asarray(params["classifier"]["linear"]["kernel"]).any()
  # 100 captions, COUNTS[v] of which have v.
  loss = (np.log1p(np.exp(bias)) * 100 - bias * COUNTS).sum() / 100
  np.testing.assert_allclose(loss, entropy, rtol=1e-6)


def test_other_odds_may_be_given():
  method, placed = make("catlip", odds=-8.5)
  bias = placed.init().params["classifier"]["linear"]["bias"]
  np.testing.assert_array_equal(bias, np.full(V, -8.5, np.float32))
  assert method.chance is None


def test_the_chance_of_superclass_is_the_first_loss():
  method, placed = make("superclass")
  batch = sharding.to_global(batches(1)[0], BATCH, placed.mesh)
  state = placed.init()
  _, metrics = placed.update(state, batch)
  np.testing.assert_allclose(metrics["loss"], np.log(V), rtol=1e-6)
  np.testing.assert_allclose(method.chance, np.log(V), rtol=1e-12)


def test_what_each_caption_has_weighs_nothing():
  """BOS, EOS and padding of SuperClass: their gradient is that of no label."""
  _, placed = make("superclass")
  state = first_state(placed)
  local = batches(1)[0]
  local["text"][:, 0] = 7
  with_it, metrics = placed.update(
    state, sharding.to_global(local, BATCH, placed.mesh)
  )
  assert float(with_it.extra["frequency"][7]) == 1
  only = local | {"text": np.full_like(local["text"], 7)}
  state = first_state(placed)
  _, none = placed.update(state, sharding.to_global(only, BATCH, placed.mesh))
  assert float(none["loss"]) == 0 and float(none["unlabeled"]) == 1
  assert float(metrics["unlabeled"]) < 1


def test_the_metrics_count_labels_and_images_without_any():
  _, placed = make("catlip")
  local = padded("catlip", batches(1)[0])
  local["text"][:18] = V
  batch = sharding.to_global(local, BATCH, placed.mesh)
  _, metrics = placed.update(first_state(placed), batch)
  assert float(metrics["unlabeled"]) == 0.75
  count = members(local["text"]).sum() / BATCH
  np.testing.assert_allclose(metrics["labels"], count, rtol=1e-6)
  method, _ = make("catlip")
  line = method.signs({"unlabeled": 0.75}, {})["unlabeled"]
  assert line.startswith("75% of the images")
  assert method.signs({"unlabeled": 0.2}, {}) == {"unlabeled": None}


def _setting(classes=V, kind="catlip", **sections):
  head = {"name": "classifier", "classes": classes}
  built = build.build_model(
    {"image": {"tower": TOWER, "res": 16}, "heads": {"classifier": head}}
    | sections
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return objectives.Setting(built, mesh, BATCH, None, 1, {}, tokenizer(kind))


@pytest.mark.parametrize(
  ("name", "setting", "said"),
  [
    ("catlip", lambda: _setting(39), "classes = 39; expected 40.*(41 ids, 40"),
    ("superclass", lambda: _setting(39, "superclass"), "expected 40"),
    ("catlip", lambda: _setting(kind="superclass"), "kind = 'bytes'; expected"),
    ("catlip", lambda: _setting(heads={}), "heads.classifier is missing"),
    (
      "catlip",
      lambda: _setting(heads={"classifier": {"name": "mlp", "out_dim": V}}),
      "classifier.name = 'mlp'; expected classifier",
    ),
  ],
)  # fmt: skip
def test_another_model_or_tokenizer_is_one_line(name, setting, said):
  build_it = registry.module("objectives", name, "").build
  with pytest.raises(errors.UserError) as e:
    build_it(setting())
  for part in said.split(".*"):
    assert part in str(e.value)


@pytest.mark.peers
@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_that_of_torch(name):
  """Torch's own losses, on the same features, and their gradients."""
  torch = peers.torch()
  _, placed = make(name)
  state = jax.device_get(first_state(placed))
  local = padded(name, batches(1)[0])
  has = torch.tensor(members(local["text"]).astype(np.float32))
  image = jnp.asarray(local["image"], jnp.float32)
  x = np.array(tower(state.params["img"], image, 3)[0])
  head = jax.tree.map(
    lambda a: torch.tensor(np.array(a), requires_grad=True),
    state.params["classifier"],
  )
  x = torch.tensor(x)
  functional = torch.nn.functional
  if name == "superclass":
    norm = head["norm"]
    x = functional.layer_norm(x, (16,), norm["scale"], norm["bias"], 1e-6)
  logits = x @ head["linear"]["kernel"] + head["linear"]["bias"]
  if name == "catlip":
    loss = functional.binary_cross_entropy_with_logits(
      logits, has, reduction="sum"
    )
    loss = loss / BATCH
  else:
    rare = torch.log((1 + 1 / BATCH) / (has.mean(0) + 1 / BATCH))
    target = functional.normalize(has * rare, p=1, dim=1)
    loss = functional.cross_entropy(logits, target, reduction="sum") / BATCH
  loss.backward()
  batch = sharding.to_global(local, BATCH, placed.mesh)
  new, metrics = placed.update(first_state(placed), batch)
  np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
  for part in ("kernel", "bias"):
    moved = head["linear"][part].detach() - LR * head["linear"][part].grad
    np.testing.assert_allclose(
      new.params["classifier"]["linear"][part], moved, rtol=1e-4, atol=1e-6
    )
