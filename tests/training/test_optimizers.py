"""Optimizers against their formulas, schedules against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_contrastive.config import errors
from big_contrastive.training import optimizers, per_parameter, schedules


def run(tx, params, grads, steps):
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params)
    params = {k: params[k] + updates[k] for k in params}
  return params, state


def build(rate, **kwargs):
  defaults = dict(
    weight_decay=0.0, decay={"w": 1.0, "b": 0.0},
    lr_mult={"w": 1.0, "b": 1.0}, clip=None,
  )  # fmt: skip
  return optimizers.build(
    optimizers.adamw(), lambda _: rate, **defaults | kwargs
  )


PARAMS = {"w": jnp.asarray([2.0, -3.0]), "b": jnp.asarray([0.5])}
GRADS = {"w": jnp.asarray([0.3, 0.1]), "b": jnp.asarray([-0.7])}


def test_adamw_is_the_papers_formula():
  """AdamW as in PyTorch: the decay is times the learning rate."""
  lr, wd, b1, b2, eps = 0.1, 0.3, 0.9, 0.95, 1e-8
  got, _ = run(build(lr, weight_decay=wd), PARAMS, GRADS, 3)
  for name, decay in (("w", 1.0), ("b", 0.0)):
    p, g = (np.asarray(x[name], np.float64) for x in (PARAMS, GRADS))
    m = v = 0
    for t in range(1, 4):
      m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
      step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
      p = p - lr * (step + wd * decay * p)
    np.testing.assert_allclose(got[name], p, rtol=1e-5)


def test_lr_mult_scales_the_whole_update():
  one, _ = run(build(0.1, weight_decay=0.2), PARAMS, GRADS, 1)
  half, _ = run(
    build(0.1, weight_decay=0.2, lr_mult={"w": 0.5, "b": 0.0}),
    PARAMS, GRADS, 1,
  )  # fmt: skip
  np.testing.assert_allclose(
    half["w"] - PARAMS["w"], (one["w"] - PARAMS["w"]) / 2, rtol=1e-5
  )
  np.testing.assert_array_equal(half["b"], PARAMS["b"])


def test_clipping_bounds_the_global_norm():
  tx = optimizers.build(
    # The gradient itself as the direction.
    optimizers.optax.identity(), lambda _: 1.0, weight_decay=0.0,
    decay={"w": 0.0, "b": 0.0}, lr_mult={"w": 1.0, "b": 1.0}, clip=0.1,
  )  # fmt: skip
  got, _ = run(tx, PARAMS, GRADS, 1)
  moved = {k: got[k] - PARAMS[k] for k in got}
  np.testing.assert_allclose(optimizers.optax.tree.norm(moved), 0.1, rtol=1e-5)


def test_adafactor_state_is_factored_with_bfloat16_momentum():
  shape = jax.ShapeDtypeStruct((64, 128), jnp.float32)
  state = jax.eval_shape(optimizers.adafactor().init, {"w": shape})
  big = [x for x in jax.tree.leaves(state) if x.size == 64 * 128]
  assert [x.dtype for x in big] == [jnp.bfloat16]
  assert sum(x.size for x in jax.tree.leaves(state)) < 64 * 128 + 64 + 128 + 9


def layers_of(flat):
  """The same parameters, each layer's alone, under names of their own."""
  return {
    (k, i): x
    for k, p in flat.items()
    for i, x in enumerate(p if k.startswith("img/encoder/blocks/") else [p])
  }


def papers_adafactor(kwargs):
  """The same of optax's own parts, which know of no layers."""
  b2 = lambda t, power: jnp.minimum(0.999, 1 - (t + 1.0) ** -power)  # noqa: E731
  return optax.chain(
    optax.scale_by_factored_rms(
      decay_rate=0.8, epsilon=1e-30, min_dim_size_to_factor=32,
      decay_rate_fn=b2,
    ),
    optax.clip_by_block_rms(kwargs["clip_rms"]),
    optax.ema(0.9, debias=False),
  )  # fmt: skip


# As many layers as a matrix has rows: none of these axes is the layers' alone.
SHAPES = {
  "img/encoder/blocks/norm1/scale": (40, 48),
  "img/encoder/blocks/attention/query/bias": (40, 4, 36),
  "img/encoder/blocks/attention/query/kernel": (40, 33, 4, 36),
  "img/encoder/blocks/attention/out/kernel": (40, 4, 36, 33),
  "img/encoder/blocks/mlp/fc1/kernel": (40, 33, 64),
  "img/encoder/blocks/mlp/fc2/kernel": (40, 20, 64),
  "img/head/probe": (1, 48),
  "txt/pos": (40, 48),
  "t": (),
}


@pytest.mark.slow
def test_adafactor_treats_each_layer_as_if_it_were_alone():
  r = np.random.default_rng(0)
  params = {k: jnp.zeros(s) for k, s in SHAPES.items()}
  kwargs = {"mu_dtype": "float32", "clip_rms": 0.7}
  ours, theirs = optimizers.adafactor(**kwargs), papers_adafactor(kwargs)
  state, alone = ours.init(params), theirs.init(layers_of(params))
  for _ in range(3):
    # Layers differ a thousandfold: what is shared between them is seen.
    grads = {
      k: jnp.asarray(
        r.normal(size=s) * 10.0 ** r.uniform(-3, 1, (*s[:1], 1, 1, 1)[: len(s)])
      )
      for k, s in SHAPES.items()
    }
    found, state = ours.update(grads, state, params)
    wanted, alone = theirs.update(layers_of(grads), alone, layers_of(params))
    for name, u in layers_of(found).items():
      np.testing.assert_allclose(
        u, wanted[name], rtol=1e-5, atol=1e-6, err_msg=str(name)
      )
  # The second moments, too: rows and columns where optax has them.
  for ours_of, theirs_of in zip(state[0][1:], alone[0][1:], strict=True):
    for name, one in theirs_of.items():
      if one.shape != (1,):
        stored = layers_of({name[0]: ours_of[name[0]]})[name]
        np.testing.assert_allclose(stored, one, rtol=1e-5, err_msg=str(name))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_reaches_the_minimum(name):
  # LARS moves by a fraction of the weights' norm, whatever the gradient.
  kwargs = {"eta": 0.1} if name == "lars" else {}
  direction = optimizers.OPTIMIZERS[name](**kwargs)
  tx = optimizers.build(
    direction, lambda s: 0.2 * 0.97**s, weight_decay=0.0, decay={"w": 0.0},
    lr_mult={"w": 1.0}, clip=None, adapt={"w": True},
  )  # fmt: skip
  target = jnp.asarray(np.random.default_rng(0).normal(size=(4, 40)))
  params = {"w": jnp.zeros((4, 40))}
  state = tx.init(params)
  for _ in range(200):
    updates, state = tx.update({"w": params["w"] - target}, state, params)
    params = {"w": params["w"] + updates["w"]}
  assert float(jnp.abs(params["w"] - target).max()) < 0.05


def test_schedules_are_their_closed_forms():
  kwargs = dict(peak=2.0, total=110, warmup=10)
  cosine = schedules.schedule(decay="cosine", **kwargs)
  np.testing.assert_allclose(cosine(0), 0.2)  # Never a step for nothing.
  np.testing.assert_allclose(cosine(9), 2.0)
  np.testing.assert_allclose(cosine(60), 1.0, rtol=1e-6)
  np.testing.assert_allclose(cosine(110), 0.0, atol=1e-7)
  linear = schedules.schedule(decay="linear", end=0.1, **kwargs)
  np.testing.assert_allclose(linear(60), 2 * 0.55, rtol=1e-6)
  np.testing.assert_allclose(linear(110), 0.2, rtol=1e-6)
  rsqrt = schedules.schedule(decay="rsqrt", timescale=30, cooldown=10, **kwargs)
  np.testing.assert_allclose(rsqrt(100), 2 * 0.5, rtol=1e-6)
  np.testing.assert_allclose(rsqrt(105), 2 * np.sqrt(30 / 125) / 2, rtol=1e-6)
  constant = schedules.schedule(decay="constant", **kwargs)
  np.testing.assert_allclose(constant(100), 2.0)


def test_a_warmup_longer_than_the_run_is_an_error():
  with pytest.raises(errors.UserError, match="warmup"):
    schedules.schedule(1.0, 10, decay="cosine", warmup=11)


def test_the_schedule_goes_on_while_steps_are_skipped():
  rate = schedules.schedule(1.0, 10, decay="linear", warmup=0)
  ones = {"w": 1.0}
  tx = optimizers.build(
    optimizers.adamw(),
    rate,
    weight_decay=0.0,
    decay=ones,
    lr_mult=ones,
    clip=1.0,
  )
  params, grads = {"w": jnp.ones(())}, {"w": jnp.ones(())}
  state = tx.init(params)
  for _ in range(3):
    state = per_parameter.skipped(state, tx.update(grads, state, params)[1])
  updates, _ = tx.update(grads, state, params)
  # Adam's first step is 1: what is left is the rate of the fourth step.
  np.testing.assert_allclose(updates["w"], -rate(3), rtol=1e-4)
