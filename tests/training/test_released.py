"""Parameters released later, and decay that rises, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_contrastive.config import rules
from big_contrastive.parallel import placement
from big_contrastive.training import (
  from_optax,
  optimizers,
  per_parameter,
  schedules,
)

# One from the first step on, one from the third, one from the fifth.
START = {"head/kernel": 2, "img/encoder/blocks/fc/kernel": 0, "img/pos": 4}
SHAPES = {
  "img/encoder/blocks/fc/kernel": (2, 4, 8),
  "img/pos": (3, 4),
  "head/kernel": (8, 2),
}
STEPS, RATE = 6, schedules.schedule(0.1, 6, decay="linear", warmup=0)


def draw(seed):
  r = np.random.default_rng(seed)
  return {
    k: jnp.asarray(r.normal(size=s), jnp.float32) for k, s in SHAPES.items()
  }


PARAMS, GRADS = draw(0), [draw(1 + i) for i in range(STEPS)]


def build(direction=None, start=START, rate=RATE, names=SHAPES, **kwargs):
  ones = dict.fromkeys(names, 1.0)
  defaults = {"weight_decay": 0.3, "decay": ones, "lr_mult": ones, "clip": None}
  direction = optimizers.adamw() if direction is None else direction
  return optimizers.build(direction, rate, start=start, **defaults | kwargs)


def run(tx, params=PARAMS, grads=GRADS):
  """The parameters after each step, and the last state."""
  state, after, update = tx.init(params), [], jax.jit(tx.update)
  for g in grads:
    updates, state = update(g, state, params)
    params = optax.apply_updates(params, updates)
    after.append(params)
  return after, state


DIRECTIONS = {
  name: lambda make=make: make() for name, make in optimizers.OPTIMIZERS.items()
} | {"optax.lion": lambda: from_optax.direction("optax.lion", {}, "")}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_parameter_is_trained_as_if_the_run_began_at_its_start(name):
  """Weight decay and schedules excepted: they are those of the run."""
  after, _ = run(build(DIRECTIONS[name]()))
  for parameter, first in START.items():
    # Not one bit moves before, weight decay or not.
    for params in after[:first]:
      np.testing.assert_array_equal(params[parameter], PARAMS[parameter])
    alone = build(
      DIRECTIONS[name](), None, lambda step, first=first: RATE(step + first),
      [parameter],
    )  # fmt: skip
    wanted, _ = run(
      alone, {parameter: PARAMS[parameter]},
      [{parameter: g[parameter]} for g in GRADS[first:]],
    )  # fmt: skip
    for ours, theirs in zip(after[first:], wanted, strict=True):
      np.testing.assert_allclose(
        ours[parameter], theirs[parameter], rtol=1e-6, err_msg=parameter
      )


def test_released_adamw_is_the_formula_with_a_rising_decay():
  """DINO's: decays by a cosine of the step, each parameter's own Adam count."""
  first, last, b1, b2, eps = 0.04, 0.4, 0.9, 0.95, 1e-8
  tx = build(weight_decay=first, final_weight_decay=last, total=STEPS)
  after, _ = run(tx)
  for name, start in START.items():
    p, m, v = np.float64(PARAMS[name]), 0.0, 0.0
    for step in range(start, STEPS):
      t, g = step - start + 1, np.float64(GRADS[step][name])
      m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
      direction = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
      decay = last + (first - last) * (1 + np.cos(np.pi * step / STEPS)) / 2
      p = p - 0.1 * (1 - step / STEPS) * (direction + decay * p)
      np.testing.assert_allclose(after[step][name], p, rtol=1e-5, atol=1e-7)


def test_sgds_rising_decay_is_in_the_gradient():
  tx = build(
    optimizers.sgd(momentum=0.8), None, lambda step: 0.1,
    weight_decay=0.0, final_weight_decay=0.5, total=STEPS,
    decay={"img/pos": 1.0, "head/kernel": 0.5} | dict.fromkeys(SHAPES, 2.0),
  )  # fmt: skip
  after, _ = run(tx)
  for name in SHAPES:
    p, m = np.float64(PARAMS[name]), 0.0
    for step in range(STEPS):
      decay = 2.0 * 0.25 * (1 - np.cos(np.pi * step / STEPS))
      m = 0.8 * m + np.float64(GRADS[step][name]) + decay * p
      p = p - 0.1 * m
    np.testing.assert_allclose(after[-1][name], p, rtol=1e-5, atol=1e-6)


def test_skipped_steps_are_steps_of_the_run_and_of_no_parameter():
  """Skipped from the second to the fourth: Adam begins in the fifth."""
  tx = build(final_weight_decay=0.6, total=STEPS, start=START)
  state = tx.init(PARAMS)
  for grads in GRADS[:4]:
    state = per_parameter.skipped(state, tx.update(grads, state, PARAMS)[1])
  updates, _ = tx.update(GRADS[4], state, PARAMS)
  decay = 0.6 - 0.3 * (1 + np.cos(np.pi * 4 / STEPS)) / 2
  for name, p in PARAMS.items():
    step = np.sign(GRADS[4][name]) + decay * p
    np.testing.assert_allclose(updates[name], -RATE(4) * step, rtol=1e-4)


def test_all_gradients_count_for_the_global_norm():
  """As in DINO's code, which clips before it drops those of the last layer."""
  tx = build(optax.identity(), clip=1.0, weight_decay=0.0)
  after, _ = run(tx, grads=GRADS[:1])
  total = optax.tree.norm(GRADS[0])
  name = "img/encoder/blocks/fc/kernel"
  moved = after[0][name] - PARAMS[name]
  np.testing.assert_allclose(
    moved, -0.1 * GRADS[0][name] / total, rtol=1e-4, atol=1e-7
  )


def test_sharded_over_devices_it_is_the_same(mesh):
  """Moments lie where their parameters do, in each group."""
  tx, over = build(clip_each=3.0), mesh(1, 4)
  where = rules.flatten(
    placement.params((("img/pos", "replicate"), (".*", "fsdp")), PARAMS, over)
  )
  opt = placement.like(where, jax.eval_shape(tx.init, PARAMS), over)
  update = jax.jit(tx.update, out_shardings=(where, opt))
  params = jax.device_put(PARAMS, where)
  state = jax.device_put(tx.init(PARAMS), opt)
  for grads in GRADS:
    updates, state = update(jax.device_put(grads, where), state, params)
    params = optax.apply_updates(params, updates)
  for name, p in run(tx)[0][-1].items():
    np.testing.assert_allclose(params[name], p, rtol=1e-5, atol=1e-6)
    split = [x for x in jax.tree.leaves(state) if x.shape == p.shape]
    assert len(split) == 2  # Adam's moments.
    assert {x.sharding for x in split} == {where[name]}


def test_pieces_of_a_stack_start_with_it():
  name = "img/encoder/blocks/fc/kernel"
  of = {rules.piece(name, 1, 2): PARAMS[name][1:]}
  tx = build(start={name: 1}, names=[name], trained=of)
  grads = [{k: g[name][1:] for k in of} for g in GRADS[:2]]
  (first, second), _ = run(tx, of, grads)
  for k, p in of.items():
    np.testing.assert_array_equal(first[k], p)
    assert (np.asarray(second[k]) != np.asarray(p)).all()


def test_without_a_later_start_the_state_is_what_it_was():
  """So checkpoints of before go on."""
  states = [
    build(start=start).init(PARAMS)
    for start in (None, dict.fromkeys(START, 0), START)
  ]
  before, zero, later = map(jax.tree.structure, states)
  assert before == zero != later
