"""SGD and the four LARS against float64 formulas of single layers."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_contrastive.config import errors
from big_contrastive.training import optimizers, per_parameter

# Three layers stacked; and a parameter or a layer of zeros for each case.
SHAPES = {
  "img/encoder/blocks/mlp/fc1/kernel": (3, 4, 5),
  "img/encoder/blocks/norm1/scale": (3, 4),
  "head/kernel": (4, 3),
  "head/bias": (3,),
  "zero/kernel": (2, 2),
  "still/kernel": (2, 2),
  "nothing/kernel": (2, 2),
}
# A layer's weights may be zero, and its gradient.
ZERO = {
  "zero/kernel",
  "nothing/kernel",
  ("img/encoder/blocks/mlp/fc1/kernel", 1),
}
STILL = {
  "still/kernel", "nothing/kernel", ("img/encoder/blocks/mlp/fc1/kernel", 2)
}  # fmt: skip
WEIGHT_DECAY = 0.3
KERNELS = {k: k.endswith("kernel") for k in SHAPES}
EVERYTHING = dict.fromkeys(SHAPES, True)
LR_MULT = {k: 1.0 for k in SHAPES} | {"head/kernel": 2.0}
# The first is 0, as after a warm-up from 0; they rise and fall.
RATES = [0.0, 0.05, 0.4, 0.1]


def arrays(seed, zeros):
  """Random arrays whose layers differ in size, float64, some of them zero."""
  r = np.random.default_rng(seed)
  made = {}
  for name, shape in SHAPES.items():
    made[name] = r.normal(size=shape) * 10.0 ** r.uniform(-1, 1)
    if name in zeros:
      made[name][:] = 0
    for i in range(3 * ("/blocks/" in name)):
      made[name][i] *= 0 if (name, i) in zeros else 10.0**i
  return made


PARAMS = arrays(0, ZERO)
GRADS = [arrays(1 + i, STILL) for i in range(len(RATES))]


def layers(flat):
  """Each layer's array under a name of its own."""
  return {
    (k, i): x
    for k, p in flat.items()
    for i, x in enumerate(p if "/blocks/" in k else [p])
  }


def ours(direction, decay, adapt=None, rates=RATES):
  """The update of each step, in float32."""
  table = jnp.asarray(rates, jnp.float32)
  tx = optimizers.build(
    direction, lambda step: table[step], weight_decay=WEIGHT_DECAY,
    decay={k: float(v) for k, v in decay.items()}, lr_mult=LR_MULT, clip=None,
    adapt=adapt,
  )  # fmt: skip
  params = {k: jnp.asarray(v, jnp.float32) for k, v in PARAMS.items()}
  state, steps = tx.init(params), []
  for grads in GRADS:
    grads = {k: jnp.asarray(v, jnp.float32) for k, v in grads.items()}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    steps.append(updates)
  return steps


def papers(step, decay, adapt):
  """The same of one layer after another, in float64.

  Args:
    step: (p, g, m, rate, wd, adapted) -> new p and m.
    decay, adapt: whether, by name.
  """
  flat, momenta, steps = layers(PARAMS), {}, []
  for rate, grads in zip(RATES, GRADS, strict=True):
    new = {}
    for (name, i), g in layers(grads).items():
      p, m = flat[name, i], momenta.get((name, i), 0.0)
      wd = WEIGHT_DECAY * decay[name]
      new[name, i], momenta[name, i] = step(
        p, g, m, rate * LR_MULT[name], wd, adapt[name]
      )
    steps.append({name: new[name] - p for name, p in flat.items()})
    flat = new
  return steps


def torch_sgd(momentum, nesterov):
  def step(p, g, m, rate, wd, adapted):
    g = g + wd * p
    m = momentum * m + g
    return p - rate * (g + momentum * m if nesterov else m), m

  return step


def byol(momentum, nesterov, eta):
  """BYOL's, MoCo v3's, DINO's and MAE's."""

  def step(p, g, m, rate, wd, adapted):
    g = g + wd * p
    if adapted and np.linalg.norm(p) > 0 and np.linalg.norm(g) > 0:
      g = g * eta * np.linalg.norm(p) / np.linalg.norm(g)
    m = momentum * m + g
    return p - rate * (g + momentum * m if nesterov else m), m

  return step


def simclr(momentum, nesterov, eta):
  """SimCLR's with classic momentum."""

  def step(p, g, m, rate, wd, adapted):
    g, scaled = g + wd * p, rate
    if adapted and np.linalg.norm(p) > 0 and np.linalg.norm(g) > 0:
      scaled = rate * eta * np.linalg.norm(p) / np.linalg.norm(g)
    m = momentum * m + scaled * g
    return p - (momentum * m + scaled * g if nesterov else m), m

  return step


def larc(momentum, nesterov, eta, clip, eps=1e-8):
  """NVIDIA's; clipped, it is solo-learn's."""

  def step(p, g, m, rate, wd, adapted):
    wide, steep = np.linalg.norm(p), np.linalg.norm(g)
    if not adapted:
      g = g + wd * p
    elif wide > 0 and steep > 0:
      local = eta * wide / (steep + wd * wide + eps)
      if clip:
        local = min(local / rate, 1) if rate else 1
      g = local * (g + wd * p)
    m = momentum * m + g
    return p - rate * (g + momentum * m if nesterov else m), m

  return step


def check(found, wanted):
  for i, (mine, paper) in enumerate(zip(found, wanted, strict=True)):
    for name, x in layers(mine).items():
      np.testing.assert_allclose(
        x, paper[name], rtol=1e-5, atol=1e-7, err_msg=f"step {i}, {name}"
      )


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_decays_the_gradient_before_the_momentum(nesterov):
  found = ours(optimizers.sgd(momentum=0.8, nesterov=nesterov), KERNELS)
  check(found, papers(torch_sgd(0.8, nesterov), KERNELS, KERNELS))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("variant", ["byol", "simclr", "larc", "solo"])
def test_lars_is_the_formula_of_its_variant(variant, nesterov):
  """Kernels alone are decayed and adapted; a layer is on its own."""
  eta = 0.02 if variant == "solo" else 0.001
  formula = {
    "byol": byol(0.9, nesterov, eta),
    "simclr": simclr(0.9, nesterov, eta),
    "larc": larc(0.9, nesterov, eta, clip=False),
    "solo": larc(0.9, nesterov, eta, clip=True),
  }[variant]
  found = ours(optimizers.lars(variant=variant, nesterov=nesterov), KERNELS)
  check(found, papers(formula, KERNELS, KERNELS))


@pytest.mark.parametrize("variant", ["byol", "simclr", "larc", "solo"])
@pytest.mark.parametrize(
  ("decay", "adapt"), [(EVERYTHING, KERNELS), (KERNELS, EVERYTHING)]
)
def test_decay_and_adaptation_are_chosen_one_by_one(variant, decay, adapt):
  eta = 0.5  # So large that solo's limit is reached by some.
  formula = {
    "byol": byol(0.9, False, eta),
    "simclr": simclr(0.9, False, eta),
    "larc": larc(0.9, False, eta, clip=False, eps=0.1),
    "solo": larc(0.9, False, eta, clip=True, eps=0.1),
  }[variant]
  found = ours(optimizers.lars(variant=variant, eta=eta, eps=0.1), decay, adapt)
  check(found, papers(formula, decay, adapt))


def test_what_is_decayed_is_adapted_unless_said_otherwise():
  """With a decay for everything LARC is that of SwAV: biases and norms too."""
  found = ours(optimizers.lars(variant="larc"), EVERYTHING)
  check(found, papers(larc(0.9, False, 0.001, False), EVERYTHING, EVERYTHING))


def one_step(variant, p, g, weight_decay=0.5):
  """The change of a kernel with rate 0.1."""
  tx = optimizers.build(
    optimizers.lars(variant=variant, eta=0.01), lambda _: 0.1,
    weight_decay=weight_decay, decay={"w": 1.0}, lr_mult={"w": 1.0}, clip=None,
  )  # fmt: skip
  p, g = {"w": jnp.asarray(p)}, {"w": jnp.asarray(g)}
  return np.asarray(tx.update(g, tx.init(p), p)[0]["w"])


@pytest.mark.parametrize("variant", ["byol", "simclr", "larc", "solo"])
def test_where_a_norm_is_zero_the_ratio_is_one(variant):
  zero = [0.0, 0.0]
  # Zero weights would never leave zero with a ratio of 0.
  moved = one_step(variant, zero, [3.0, 4.0])
  np.testing.assert_allclose(moved, [-0.3, -0.4], rtol=1e-6)
  np.testing.assert_array_equal(one_step(variant, zero, zero), zero)
  # The decayed gradient has a norm: 0.1 * 0.01 * 5 along the weights.
  still = one_step(variant, [3.0, 4.0], zero)
  wanted = zero if variant in ("larc", "solo") else [-3e-3, -4e-3]
  np.testing.assert_allclose(still, wanted, rtol=1e-6)
  # The decay cancels the gradient: nothing is left to scale.
  cancelled = one_step(variant, [3.0, 4.0], [-1.5, -2.0])
  np.testing.assert_array_equal(cancelled, zero)


def test_solo_never_moves_faster_than_the_rate_itself():
  # |p| / |g| = 500, so eta times it is 5: 50 times the rate.
  fast = one_step("solo", [3.0, 4.0], [6e-3, 8e-3], weight_decay=0.0)
  np.testing.assert_allclose(fast, [-6e-4, -8e-4], rtol=1e-6)
  # Below the limit the rate cancels: eta * |p| along the gradient.
  slow = one_step("solo", [3.0, 4.0], [6.0, 8.0], weight_decay=0.0)
  np.testing.assert_allclose(slow, [-0.03, -0.04], rtol=1e-6)
  unlimited = one_step("larc", [3.0, 4.0], [6e-3, 8e-3], weight_decay=0.0)
  np.testing.assert_allclose(unlimited, [-3e-3, -4e-3], rtol=1e-5)


def test_variants_part_where_the_rate_changes():
  """At a constant rate SimCLR's is BYOL's."""
  by_name = {}
  for rates in ([0.3] * 4, RATES):
    for variant in ("byol", "simclr"):
      lars = optimizers.lars(variant=variant)
      by_name[variant] = ours(lars, KERNELS, rates=rates)[-1]["head/kernel"]
    same = np.allclose(by_name["byol"], by_name["simclr"], rtol=1e-6)
    assert same == (rates is not RATES)


@pytest.mark.parametrize("nesterov", [False, True])
def test_simclrs_lars_is_that_of_optax(nesterov):
  rate = optax.linear_schedule(0.0, 0.4, 3)
  tx = optimizers.build(
    optimizers.lars(variant="simclr", nesterov=nesterov), rate,
    weight_decay=WEIGHT_DECAY, decay={"w": 1.0, "b": 0.0},
    lr_mult={"w": 1.0, "b": 1.0}, clip=None,
  )  # fmt: skip
  mask = {"w": True, "b": False}
  theirs = optax.lars(
    rate, WEIGHT_DECAY, mask, trust_ratio_mask=mask, nesterov=nesterov
  )
  r = np.random.default_rng(0)
  params = {"w": jnp.asarray(r.normal(size=(3, 4)), jnp.float32)}
  params["b"] = jnp.zeros(4)
  state, their_state, their_params = (
    tx.init(params),
    theirs.init(params),
    params,
  )
  for _ in range(4):
    grads = {k: jnp.asarray(r.normal(size=p.shape)) for k, p in params.items()}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    updates, their_state = theirs.update(grads, their_state, their_params)
    their_params = optax.apply_updates(their_params, updates)
    for name, p in params.items():
      np.testing.assert_allclose(p, their_params[name], rtol=1e-6)


@pytest.mark.parametrize("variant", ["byol", "simclr", "larc", "solo"])
def test_rates_go_on_and_momentum_stays_where_a_step_is_skipped(variant):
  table = jnp.asarray([1.0, 2.0, 5.0, 7.0])
  ones = {"w": 1.0}
  tx = optimizers.build(
    optimizers.lars(variant=variant, eta=1.0), lambda step: table[step],
    weight_decay=0.0, decay=ones, lr_mult=ones, clip=None,
  )  # fmt: skip
  params, grads = {"w": jnp.asarray([2.0])}, {"w": jnp.asarray([0.5])}
  state = tx.init(params)
  for _ in range(2):
    state = per_parameter.skipped(state, tx.update(grads, state, params)[1])
  updates, _ = tx.update(grads, state, params)
  # The third step's rate; solo's ratio of 4 is less than 5, and is the rate.
  moved = {"byol": 10.0, "simclr": 10.0, "larc": 10.0, "solo": 2.0}[variant]
  np.testing.assert_allclose(updates["w"], [-moved], rtol=1e-6)


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: optimizers.sgd(momentum=1.0), "momentum = 1.0; .*below 1"),
    (lambda: optimizers.lars(momentum=-0.1), "momentum = -0.1"),
    (lambda: optimizers.lars(eta=-1.0), "eta = -1.0; .*from 0 up"),
    (lambda: optimizers.lars(eps=float("nan")), "eps = nan"),
  ],
)
def test_a_number_out_of_its_range_is_named(make, said):
  with pytest.raises(errors.UserError, match=said):
    make()


def test_a_rule_for_adaptation_that_is_no_bool_is_named():
  with pytest.raises(errors.UserError, match="config.adapt = 1.0; .*matches w"):
    optimizers.build(
      optimizers.lars(), lambda _: 0.1, weight_decay=0.0, decay={"w": 1.0},
      lr_mult={"w": 1.0}, clip=None, adapt={"w": 1.0},
    )  # fmt: skip
