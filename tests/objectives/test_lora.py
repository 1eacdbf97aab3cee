"""Adapters: the formula, the first step, gradients, memory, export, errors."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

import tiny
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.models import lora
from big_contrastive.objectives import _lora
from big_contrastive.parallel import sharding
from big_contrastive.training import loop, optimizers

STACK = "img/encoder/blocks"
QUERY, OUT, FC1 = (
  f"{STACK}/{k}/kernel" for k in ("attention/query", "attention/out", "mlp/fc1")
)
# The formula of each: what a and b are in an einsum, and the weight's axes.
WEIGHTS = {
  QUERY: ("lir,lrx->lix", (3, 10, 2, 5), 10, 10),
  OUT: ("lir,lrx->lix", (3, 2, 5, 10), 10, 10),
  FC1: ("lir,lrx->lix", (3, 10, 40), 10, 40),
  "img/head/attention/value/kernel": ("ir,rx->ix", (10, 2, 6), 10, 12),
  "img/head/attention/out/kernel": ("ir,rx->ix", (2, 6, 9), 12, 9),
  "txt/embed/embedding": ("ir,rx->ix", (30, 8), 30, 8),
  "img/stem/kernel": ("ir,rx->ix", (3, 3, 4, 16), 36, 16),
}


def one(pattern, **section):
  return [(pattern, section), (".*", None)]


def filled(tree, seed=0):
  r = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: np.asarray(r.normal(size=x.shape), np.float32), tree
  )


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_sum_is_w_and_alpha_over_rank_times_a_b(name):
  """In float64, for each kind of weight; and from arrays of either library."""
  formula, shape, inputs, outputs = WEIGHTS[name]
  params = rules.unflatten({name: np.zeros(shape), "t": np.zeros(())})
  made = lora.new(params, {name: 4}, jax.random.key(0))
  own = rules.flatten(made)
  assert own[f"{name}/a"].shape[-2:] == (inputs, 4)
  assert own[f"{name}/b"].shape[-2:] == (4, outputs)
  limit = inputs**-0.5
  assert 0.8 * limit < float(abs(own[f"{name}/a"]).max()) <= limit
  assert not own[f"{name}/b"].any()
  params = filled(params | {lora.PART: made})
  flat = {k: np.float64(x) for k, x in rules.flatten(params).items()}
  a, b = (flat[f"lora/{name}/{k}"] for k in "ab")
  wanted = flat[name] + 0.75 * np.einsum(formula, a, b).reshape(shape)
  for tree in (params, jax.tree.map(jax.numpy.asarray, params)):
    found = rules.flatten(lora.fold(tree, {name: 0.75}))
    assert found.keys() == {name, "t"}
    np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-5)
    assert found["t"] is tree["t"]


RULES = [
  (f"{STACK}/(attention/query|attention/out|mlp/fc1)/kernel",
   {"rank": 4, "alpha": 2.0}),
  (".*", None),
]  # fmt: skip
ADAPTED = {QUERY, OUT, FC1}


def recipe(mesh, given=RULES):
  """tiny's step of adapters and t alone, by plain gradient descent."""
  made, _ = tiny.make_step(mesh, keep=1.0, dropout=0.0)
  method = _lora.adapted(made.objective, given)
  names = rules.shapes(jax.eval_shape(method.init, jax.random.key(0)))
  trained = frozenset(k for k in names if k.startswith("lora/")) | {"t"}
  ones = dict.fromkeys(names, 1.0)
  tx = optimizers.build(
    optimizers.OPTIMIZERS["adamw"](), lambda _: 0.1, weight_decay=0.0,
    decay=ones, lr_mult=ones, clip=None, trained=trained,
  )  # fmt: skip
  method = method.freeze(frozenset(names) - trained)
  return dataclasses.replace(made, objective=method, tx=tx, trained=trained)


def test_the_sharded_step_has_the_gradients_of_the_merged_model(mesh):
  """fsdp and tensor, against those of the sum's weights on one device."""
  over, alone = mesh(1, 2, 2), mesh(1)
  made = recipe(over)
  tensor = [(f"{FC1}", (None, None, "tensor")), (".*", "fsdp")]
  placed = tiny.place(made, over, tensor)
  state = placed.init()
  first = jax.device_get(state.params)
  flat = rules.flatten(first)
  r = np.random.default_rng(0)
  for name in flat:
    if name.endswith("/b") and name.startswith("lora/"):
      flat[name] = np.asarray(r.normal(size=flat[name].shape) / 9, np.float32)
  params = rules.unflatten(flat)
  where = jax.tree.map(lambda x: x.sharding, placed.abstract.params)
  state = state._replace(params=jax.device_put(params, where))
  state, metrics = placed.update(state, tiny.batch(over, 0))

  plain = tiny.make_step(alone, keep=1.0, dropout=0.0)[0].objective
  sums = rules.flatten(lora.fold(params, made.objective.scales))
  batch = tiny.batch(alone, 0)

  @jax.jit
  def gradients(w, rest):
    def loss(w):
      model = rules.unflatten(rest | w)
      return plain(model, {}, batch, jax.random.key(0), 0)[0]

    return jax.value_and_grad(loss)(w)

  rest = {k: x for k, x in sums.items() if k not in ADAPTED}
  loss, grads = gradients({k: sums[k] for k in ADAPTED}, rest)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  # Before the first step b is 0: the model is the pretrained one.
  base = {k: flat[k] for k in ADAPTED}
  begun = rules.flatten(lora.fold(first, made.objective.scales))
  chex.assert_trees_all_equal({k: begun[k] for k in ADAPTED}, base)
  after = rules.flatten(jax.device_get(state.params))
  (adam,) = [s for s in state.opt if hasattr(s, "mu")]
  for name, g in grads.items():
    a, b = (np.float64(flat[f"lora/{name}/{k}"]) for k in "ab")
    g = np.float64(g).reshape(*a.shape[:2], b.shape[-1]) * 0.5
    wanted = {"a": g @ b.swapaxes(1, 2), "b": a.swapaxes(1, 2) @ g}
    for k, x in wanted.items():
      mean = np.asarray(adam.mu[f"lora/{name}/{k}"]) / 0.1
      np.testing.assert_allclose(
        mean, x, rtol=1e-3, atol=1e-5 * abs(x).max(), err_msg=f"{name} {k}"
      )
    np.testing.assert_array_equal(after[name], flat[name])  # It is frozen.
  # The memory: moments of the adapters and of t alone.
  assert adam.mu.keys() == made.trained
  size = sum(x.size for x in adam.mu.values())
  # Two layers; rank 4; sides 32 and 32, 32 and 32, 32 and 128.
  assert size == 2 * 4 * (64 + 64 + 160) + 1


def config(**changes):
  made = tiny.load("siglip", "smoke", "--config.model.dtype=float32")
  made |= {
    "lora": one("img/.*/attention/(query|value)/kernel", rank=4, alpha=8.0),
    "freeze": [("lora/.*|t|b", False), (".*", True)],
    "schedule": {"decay": "constant"}, "evals": None, "total": 4,
  }  # fmt: skip
  made["optimizer"]["lr"] = 0.05
  return made | changes


@pytest.mark.slow
def test_it_resumes_bit_for_bit_and_exports_the_sum(tmp_path):
  """Loaded, it is the trained sum; and so where another run begins with it."""
  import big_contrastive

  devices = jax.devices()[:1]
  made = experiment.build(config(), devices)
  loop.fit(made, tmp_path / "whole")
  loop.fit(experiment.build(config(total=2), devices), tmp_path / "resumed")
  loop.fit(experiment.build(config(), devices), tmp_path / "resumed")
  from big_contrastive.checkpoints import checkpointer

  stored = [
    checkpointer._read_host(tmp_path / name / "checkpoints/4", "params")
    for name in ("whole", "resumed")
  ]
  chex.assert_trees_all_equal(*stored)
  found = big_contrastive.load(tmp_path / "whole").params
  assert "lora" not in found
  flat, found = rules.flatten(stored[0]), rules.flatten(found)
  a, b = (np.float64(flat[f"lora/{QUERY}/{k}"]) for k in "ab")
  wanted = flat[QUERY] + 2.0 * (a @ b).reshape(flat[QUERY].shape)
  np.testing.assert_allclose(found[QUERY], wanted, rtol=1e-5, atol=1e-6)
  assert abs(found[QUERY] - flat[QUERY]).max() > 1e-3
  # What training itself evaluates.
  state = made.placed.init()._replace(params=stored[0])
  state = jax.device_put(
    state, jax.tree.map(lambda x: x.sharding, made.placed.abstract)
  )
  for name, x in rules.flatten(made.weights(state)).items():
    np.testing.assert_allclose(x, found[name], rtol=1e-5, atol=1e-6)
  # Another run that begins with it, with new adapters.
  again = experiment.build(
    config(init={"all": str(tmp_path / "whole")}, seed=1), devices
  )
  begun = rules.flatten(again.first().params)
  np.testing.assert_allclose(begun[QUERY], found[QUERY], rtol=1e-6)
  assert not begun[f"lora/{QUERY}/b"].any()
  # Another alpha would be another model.
  other = one("img/.*/attention/(query|value)/kernel", rank=4, alpha=9.0)
  changed = experiment.build(config(lora=other), devices)
  with pytest.raises(errors.UserError, match="alpha / rank of config.lora"):
    loop.fit(changed, tmp_path / "whole")


@pytest.fixture(scope="module")
def plain():
  over = sharding.make_mesh(devices=jax.devices()[:1])
  return tiny.make_step(over)[0].objective


@pytest.mark.parametrize(
  ("given", "said"),
  [
    (one("img/.*/querry/kernel", rank=4), r"config.lora\[0\] = "),
    (one(".*/query/kernel", rank=32), "= 32; expected a rank below 32, the"),
    (one(".*/query/bias", rank=1), "query/bias'; expected rules that match"),
    (one(".*/norm/scale", rank=1), "norm/scale'; .*match matrices"),
    (one("t", rank=1), "'t'; expected rules that match matrices"),
    (one(".*/query/kernel", rank=0), "config.lora.rank = 0"),
    (one(".*/query/kernel", rank=2.5), "config.lora.rank = 2.5; .*int"),
    (one(".*/query/kernel", alpha=2), "config.lora.rank is missing"),
    (
      one(".*/query/kernel", rank=4, alpha=0),
      "config.lora.alpha = 0; expected a finite number above 0",
    ),
    (one(".*/query/kernel", rang=4), "Did you mean 'rank'"),
    ([(".*/query/kernel", 4), (".*", None)], "config.lora = 4; .*section"),
    ([(".*", None)], "a rule with a rank"),
    (one(".*/blocks[1:]/.*", rank=4), "without layers"),
  ],
)
def test_wrong_adapters_are_one_line(plain, given, said):
  with pytest.raises(errors.UserError, match=said):
    _lora.adapted(plain, given)
