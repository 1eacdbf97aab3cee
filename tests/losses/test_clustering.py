"""Sinkhorn's codes and the swapped prediction, against loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import peers
from big_contrastive.losses.clustering import sinkhorn, swapped
from big_contrastive.parallel import sharding

EPSILON = 0.05
codes = functools.partial(sinkhorn.codes, epsilon=EPSILON, iterations=3)


def cosines(*shape, seed=0):
  x = np.random.default_rng(seed).uniform(-1, 1, shape)
  return jnp.asarray(x, jnp.float32)


def loops(scores, epsilon, iterations):
  """Of the paper: sums one after the other, no logarithms."""
  q = np.exp(np.asarray(scores, np.float64) / epsilon)
  n, k = q.shape
  for _ in range(iterations):
    for j in range(k):
      q[:, j] /= sum(q[i, j] for i in range(n)) * k
    for i in range(n):
      q[i] /= sum(q[i, j] for j in range(k)) * n
  return q * n


@pytest.mark.parametrize(
  "iterations, epsilon", [(1, 0.05), (3, 0.05), (4, 1.0)]
)
def test_codes_are_those_of_loops(iterations, epsilon):
  scores = cosines(14, 6)
  q = sinkhorn.codes(scores, epsilon=epsilon, iterations=iterations)
  expected = loops(scores, epsilon, iterations)
  np.testing.assert_allclose(q, expected, rtol=2e-5, atol=1e-12)


def test_samples_sum_to_one_and_prototypes_to_about_their_share():
  q = np.asarray(codes(cosines(64, 30)))
  np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)
  shares = q.sum(0) / (64 / 30)
  assert np.ptp(shares) > 0.1 and 0.3 < shares.min() < shares.max() < 2
  many = sinkhorn.codes(cosines(64, 30), epsilon=EPSILON, iterations=300)
  np.testing.assert_allclose(many.sum(0), 64 / 30, rtol=1e-3)


def test_a_constant_and_a_tiny_epsilon_change_what_they_should():
  scores = cosines(16, 5)
  # The sums of scores are rounded, and 8 / 0.05 has 1e-5 of it.
  for more in (8.0, cosines(1, 5, seed=2)):
    np.testing.assert_allclose(codes(scores + more), codes(scores), rtol=2e-4)
  # exp(1 / 1e-4) overflows in any dtype.
  q = np.asarray(sinkhorn.codes(scores, epsilon=1e-4, iterations=3))
  assert np.isfinite(q).all()
  np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)


def test_samples_that_do_not_count_change_nothing():
  scores = cosines(3, 8, 5)
  valid = np.zeros((3, 8), bool)
  valid[0], valid[1, :3] = True, True
  q = codes(scores, valid=jnp.asarray(valid))
  among = np.asarray(codes(scores[valid]))
  np.testing.assert_allclose(np.asarray(q)[valid], among, rtol=1e-6)
  np.testing.assert_array_equal(
    codes(scores), codes(scores, valid=jnp.ones((3, 8), bool))
  )


def swap(q, scores, temperature):
  """The loss and its gradient by the scores."""
  q, scores = np.asarray(q, np.float64), np.asarray(scores, np.float64)
  size, first, k = q.shape
  views = scores.shape[1]
  value, grad = 0.0, np.zeros(scores.shape)
  for b in range(size):
    for i in range(first):
      for v in range(views):
        if v == i:
          continue
        weight = 1 / (size * first * (views - 1))
        p = np.exp(scores[b, v] / temperature)
        p /= p.sum()
        value -= weight * sum(q[b, i, j] * np.log(p[j]) for j in range(k))
        grad[b, v] += weight * (p * q[b, i].sum() - q[b, i]) / temperature
  return value, grad


@pytest.mark.parametrize("views", [2, 5])
def test_the_swapped_prediction_is_that_of_loops(views):
  scores = cosines(6, views, 7)
  q = jnp.stack([codes(scores[:, i]) for i in range(2)], axis=1)
  loss = functools.partial(swapped.loss, temperature=0.1)
  value, grad = jax.value_and_grad(loss, argnums=1)(q, scores)
  expected, gradient = swap(q, scores, 0.1)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(grad, gradient, atol=1e-6)
  # Codes are constants; without knowledge, the loss is log K.
  assert not jax.grad(loss)(q, scores).any()
  np.testing.assert_allclose(loss(q, 0 * scores), np.log(7), rtol=1e-6)


def of_batch(scores):
  """The loss and its gradient, [B, V, K] sharded over the batch."""

  def loss(scores):
    q = jnp.stack([codes(scores[:, i]) for i in range(2)], axis=1)
    return swapped.loss(q, scores, temperature=0.1)

  return jax.value_and_grad(loss)(scores)


def test_eight_devices_are_one_and_memory_is_linear(mesh):
  scores = cosines(16, 4, 12)
  value, grad = of_batch(scores)
  over = sharding.batch(mesh(8))
  step = jax.jit(of_batch, in_shardings=over, out_shardings=(None, over))
  sharded = step(jax.device_put(scores, over))
  np.testing.assert_allclose(sharded[0], value, rtol=1e-6)
  np.testing.assert_allclose(sharded[1], grad, atol=1e-7)
  # A device's rows of a matrix of the batch by itself would have 32 MiB.
  shape = jax.ShapeDtypeStruct((8192, 4, 12), jnp.float32)
  memory = step.lower(shape).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 2**20


@pytest.mark.peers
def test_codes_and_loss_are_lightlys():
  torch = peers.torch()
  lightly = pytest.importorskip("lightly.loss.swav_loss")
  scores = cosines(12, 5, 9)
  of_views = [torch.tensor(np.array(scores[:, v])) for v in range(5)]
  theirs = [lightly.sinkhorn(of_views[i]) for i in range(2)]
  ours = [codes(scores[:, i]) for i in range(2)]
  np.testing.assert_allclose(ours, [q.numpy() for q in theirs], rtol=1e-5)
  loss = lightly.SwaVLoss()(of_views[:2], of_views[2:])
  value = swapped.loss(jnp.stack(ours, 1), scores, temperature=0.1)
  np.testing.assert_allclose(value, float(loss), rtol=1e-6)
  # And with a queue in front of the batch.
  queue = torch.tensor(np.array(cosines(24, 9, seed=1)))
  loss = lightly.SwaVLoss()(of_views[:2], of_views[2:], [queue, queue])
  samples = [jnp.concatenate([queue.numpy(), scores[:, i]]) for i in range(2)]
  q = jnp.stack([codes(x)[-12:] for x in samples], axis=1)
  value = swapped.loss(q, scores, temperature=0.1)
  np.testing.assert_allclose(value, float(loss), rtol=1e-6)
