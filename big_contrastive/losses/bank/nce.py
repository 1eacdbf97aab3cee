"""Noise-contrastive estimation as InstDisc has it (arXiv:1805.01978)."""

import math

import jax
from jaxtyping import Array, Float

# Of the official code, added to the denominators.
_EPS = 1e-7


def loss(
  logits: Float[Array, "b k"], log_z: Float[Array, ""], records: int
) -> Float[Array, ""]:
  """Returns -mean_i [log P_0 / (P_0 + c) + sum_j log (K / N) / (P_j + c)].

  P_j = exp(logit_j) / Z is the model's, K / N the rate of K draws among N
  records, c = K / N + 1e-7.

  Args:
    logits: [b, 1 + K], of each image's own row and of the K rows drawn.
    log_z: log Z, see `log_z`.
    records: N.
  """
  rate = (logits.shape[1] - 1) / records
  over = logits - log_z - math.log(rate + _EPS)
  # Each of K terms is about 1 / K: not a difference of logarithms.
  own = -jax.nn.softplus(-over[:, 0])
  others = -math.log1p(_EPS / rate) - jax.nn.softplus(over[:, 1:])
  return -(own + others.sum(axis=1)).mean()


def log_z(logits: Float[Array, "b k"], records: int) -> Float[Array, ""]:
  """Returns log Z: N times the mean of exp(logit) is Z.

  The official code keeps that of the first batch for all of the run.
  """
  return jax.nn.logsumexp(logits) + math.log(records / logits.size)


def chance(records: int, draws: int) -> float:
  """Returns the loss of P = 1 / N for all."""
  return math.log1p(draws) + draws * math.log1p(1 / draws)
