"""DINO's AdamW against torch's: clipped, decaying more, one layer released."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import peers
from big_contrastive.training import optimizers, schedules

pytestmark = pytest.mark.peers

STEPS, RELEASED, LIMIT = 8, 3, 2.0
# 1 - 0.999**t, DINO's, has 4 digits in float32, ours, and 16 in torch.
B2 = 0.95
SHAPES = {"img/fc/kernel": (6, 4), "img/fc/bias": (4,), "head/kernel": (4, 9)}


def random():
  """First parameters, and the gradients of each step, float32."""
  r = np.random.default_rng(0)

  def draw(size=1.0):
    return {
      k: (size * r.normal(size=s)).astype(np.float32) for k, s in SHAPES.items()
    }

  # Some gradients are longer than the limit, some aren't.
  return draw(), [draw(10.0 ** r.uniform(-1, 1)) for _ in range(STEPS)]


def test_it_is_torchs_adamw_where_a_grad_is_none():
  torch, (start, gradients) = peers.torch(), random()
  rate = schedules.schedule(0.1, STEPS, decay="cosine", warmup=2)
  decay = schedules.cosine(0.04, 0.4, STEPS)

  tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
  plain = tensors.pop("img/fc/bias")
  groups = [{"params": tensors.values()}, {"params": [plain]}]
  theirs = torch.optim.AdamW(groups, betas=(0.9, B2))
  tensors["img/fc/bias"] = plain
  for step, grads in enumerate(gradients):
    for group in theirs.param_groups:
      group["lr"] = float(rate(step))
    theirs.param_groups[0]["weight_decay"] = float(decay(step))
    theirs.param_groups[1]["weight_decay"] = 0.0
    for name, p in tensors.items():
      p.grad = torch.tensor(grads[name])
      torch.nn.utils.clip_grad_norm_([p], LIMIT)
    if step < RELEASED:
      tensors["head/kernel"].grad = None
    theirs.step()

  tx = optimizers.build(
    optimizers.adamw(b2=B2), rate, weight_decay=0.04,
    final_weight_decay=0.4, total=STEPS, clip=None, clip_each=LIMIT,
    decay={k: float(k.endswith("kernel")) for k in SHAPES},
    lr_mult=dict.fromkeys(SHAPES, 1.0),
    start=dict.fromkeys(SHAPES, 0) | {"head/kernel": RELEASED},
  )  # fmt: skip
  params = {k: jnp.asarray(v) for k, v in start.items()}
  state, update = tx.init(params), jax.jit(tx.update)
  for grads in gradients:
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  for name, p in tensors.items():
    found, wanted = np.asarray(params[name]), p.detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
