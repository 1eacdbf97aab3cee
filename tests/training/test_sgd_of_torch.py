"""SGD and LARC against torch's and timm's optimizers, step by step."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import peers
from big_contrastive.training import optimizers

pytestmark = pytest.mark.peers

WEIGHT_DECAY = 0.05
# As of a warm-up and a decay.
RATES = [0.05, 0.1, 0.3, 0.2, 0.01]


def ours(direction, start, gradients):
  """Parameters after all steps."""
  table = jnp.asarray(RATES)
  ones = dict.fromkeys(start, 1.0)
  tx = optimizers.build(
    direction, lambda step: table[step], weight_decay=WEIGHT_DECAY,
    decay=ones, lr_mult=ones, clip=None,
  )  # fmt: skip
  params = {k: jnp.asarray(v) for k, v in start.items()}
  state = tx.init(params)
  for grads in gradients:
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def theirs(make, start, gradients):
  """The same in torch; make: parameters -> optimizer."""
  torch = peers.torch()
  tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
  optimizer = make(tensors.values())
  for rate, grads in zip(RATES, gradients, strict=True):
    optimizer.param_groups[0]["lr"] = rate
    for name, g in grads.items():
      tensors[name].grad = torch.tensor(np.array(g))
    optimizer.step()
  return {k: t.detach().numpy() for k, t in tensors.items()}


def random():
  """First parameters, and the gradients of each step, float32."""
  r = np.random.default_rng(0)

  def draw():
    shapes = {"w": (3, 4), "b": (4,)}
    return {k: r.normal(size=s).astype(np.float32) for k, s in shapes.items()}

  return draw(), [draw() for _ in RATES]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_torch(nesterov):
  torch, (start, gradients) = peers.torch(), random()
  wanted = theirs(
    lambda tensors: torch.optim.SGD(
      tensors, lr=1.0, momentum=0.9, weight_decay=WEIGHT_DECAY,
      nesterov=nesterov,
    ),
    start, gradients,
  )  # fmt: skip
  found = ours(optimizers.sgd(nesterov=nesterov), start, gradients)
  for name, p in wanted.items():
    np.testing.assert_allclose(found[name], p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("variant", ["larc", "solo"])
def test_larc_is_that_of_timm(variant, nesterov):
  peers.torch()
  timm = pytest.importorskip("timm.optim")
  start, gradients = random()
  # Solo's limit is reached by most steps of b, and by few of w.
  start["w"] /= 10
  eta = 0.2
  wanted = theirs(
    lambda tensors: timm.Lars(
      tensors, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=nesterov,
      trust_coeff=eta, trust_clip=variant == "solo",
    ),
    start, gradients,
  )  # fmt: skip
  lars = optimizers.lars(variant=variant, eta=eta, nesterov=nesterov)
  found = ours(lars, start, gradients)
  for name, p in wanted.items():
    np.testing.assert_allclose(found[name], p, rtol=1e-5, atol=1e-6)
