"""Matryoshka: a pair loss at several widths, and evaluators at them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_evals

import tiny
from big_contrastive import losses
from big_contrastive.config import errors
from big_contrastive.evals import Embedded, retrieval, zero_shot
from big_contrastive.factory import experiment
from big_contrastive.models.model import unit
from big_contrastive.objectives import _base, _prefixes

WIDTHS, WEIGHTS = [3, 8, 12], [1.0, 0.5, 2.0]
SCALE, BIAS = 7.0, -2.0


def raw():
  r = np.random.default_rng(0)
  return r.normal(size=(2, 16, 12)), np.arange(16) // 2


def expected(name, x, ids):
  """In float64, from the towers' outputs before any norm."""
  total = 0.0
  for width, weight in zip(WIDTHS, WEIGHTS, strict=True):
    cut = x[:, :, :width]
    zimg, ztxt = cut / np.linalg.norm(cut, axis=-1, keepdims=True)
    logits = SCALE * zimg @ ztxt.T
    other = (ids[:, None] == ids) & ~np.eye(len(ids), dtype=bool)
    if name == "sigmoid":
      terms = np.log1p(np.exp((1 - 2 * np.eye(len(ids))) * (logits + BIAS)))
      total += weight * np.where(other, 0, terms).sum() / len(ids)
    else:
      masked = np.where(other, -np.inf, logits)
      lse = [np.log(np.exp(masked).sum(axis)).mean() for axis in (0, 1)]
      total += weight * (np.mean(lse) - np.diag(logits).mean())
  return total


@pytest.mark.parametrize(
  ("name", "devices"),
  [("sigmoid", 1), ("sigmoid", 2), ("sigmoid", 8), ("softmax", 8)],
)
def test_it_is_the_sum_over_prefixes_that_are_normalized_again(
  name, devices, mesh
):
  x, ids = raw()
  one = functools.partial(losses.pair_loss(name, "").loss, tile=2)
  loss = _prefixes.at_widths(one, WIDTHS, WEIGHTS)
  bias = jnp.float32(BIAS) if name == "sigmoid" else None

  @jax.jit
  def value_and_grad(x):
    def value(x):
      zimg, ztxt = unit(x)
      over = _base.over_mesh(loss, mesh(devices))
      return over(zimg, ztxt, jnp.float32(SCALE), bias, jnp.int32(ids))

    return jax.value_and_grad(value)(x)

  value, grad = value_and_grad(jnp.float32(x))
  np.testing.assert_allclose(value, expected(name, x, ids), rtol=2e-6)
  # Along some directions, against differences in float64.
  r, h = np.random.default_rng(1), 1e-5
  for _ in range(4):
    v = r.normal(size=x.shape)
    ahead, behind = (expected(name, x + s * h * v, ids) for s in (1, -1))
    slope = (ahead - behind) / (2 * h)
    np.testing.assert_allclose(np.sum(v * grad), slope, rtol=1e-4, atol=1e-4)


def test_one_whole_width_is_the_loss_itself():
  x, ids = raw()
  zimg, ztxt = unit(jnp.float32(x))
  one = losses.pair_loss("softmax", "").loss
  kwargs = {"scale": jnp.float32(SCALE), "ids": jnp.int32(ids)}
  whole = _prefixes.at_widths(one, [12], [1.0])(zimg, ztxt, **kwargs)
  assert whole == one(zimg, ztxt, **kwargs)


def test_memory_is_linear_in_the_batch(mesh):
  """Compiled plans: twice the pairs take twice the memory beside a tile."""
  one = functools.partial(losses.pair_loss("sigmoid", "").loss, tile=64)
  over = _base.over_mesh(
    _prefixes.at_widths(one, [32, 64, 128], [1.0] * 3), mesh(2)
  )

  def temporary(size):
    z = jax.ShapeDtypeStruct((size, 128), jnp.float32)
    ids = jax.ShapeDtypeStruct((size,), jnp.int32)
    run = jax.value_and_grad(
      lambda a, b, ids: over(a, b, jnp.float32(9), jnp.float32(-9), ids), (0, 1)
    )
    plan = jax.jit(run).lower(z, z, ids).compile()
    return plan.memory_analysis().temp_size_in_bytes

  small, large = temporary(1024), temporary(4096)
  assert large <= 4.2 * small
  assert large < 4096 * 4096 * 4 / 2 / 2  # Far from batch x batch.


def test_it_is_a_field_of_the_objective_and_so_is_its_chance():
  config = tiny.load("siglip", "smoke")
  fields = {"widths": [8, 32], "width_weights": [0.5, 1.0]}
  config["objective"] = config["objective"] | fields
  made = experiment.build(config, jax.devices()[:1]).objective
  chance = losses.pair_loss("sigmoid", "").chance(config["batch_size"])
  assert made.chance == pytest.approx(1.5 * chance)


@pytest.mark.parametrize(
  ("widths", "weights", "said"),
  [
    ([], None, r"widths = \[\]; expected whole numbers that ascend"),
    ([8, 4, 12], None, "ascend.*The last is that of the embeddings, 12"),
    ([4, 4, 12], None, "ascend"),
    ([0, 12], None, "from 1 up"),
    ([4, 8], None, "all of the embedding"),
    ([4, 16], None, "all of the embedding"),
    ([4.0, 12], None, "whole numbers"),
    (["4", 12], None, "whole numbers"),
    ([4, 12], [1.0], "width_weights = .*expected 2 finite numbers above 0"),
    ([4, 12], [1.0, 0.0], "width_weights"),
    ([4, 12], [1.0, float("nan")], "width_weights"),
    ([4, 12], [1.0, "1"], "width_weights"),
  ],
)
def test_wrong_widths_are_one_line(widths, weights, said):
  with pytest.raises(errors.UserError, match=said):
    _prefixes.check(widths, weights, 12)


def test_weights_without_widths_are_an_error():
  config = tiny.load("siglip", "smoke")
  config["objective"]["width_weights"] = [1.0]
  with pytest.raises(errors.UserError, match="width_weights = .*None with"):
    experiment.build(config, jax.devices()[:1])


def test_evaluators_take_the_first_features():
  """The second feature alone knows what belongs together."""
  z = np.float32([[0.8, 0.6], [0.8, -0.6]])
  source = test_evals.Source(["a", "b"], [0, 1], [0, 1], ["a", "b"])
  images = Embedded(z, np.array([0, 1]), np.array([0, 1]))
  embed = test_evals.model(
    lambda _: images, test_evals.embed_texts({"a": z[0], "b": z[1]})
  )
  for prepare, metric in ((retrieval, "img2txt_r1"), (zero_shot, "top1")):
    found = {
      width: dict(prepare.prepare(source, width=width)(embed))[metric]
      for width in (None, 1, 2)
    }
    assert found == {None: 1.0, 1: 0.0, 2: 1.0}
    with pytest.raises(errors.UserError, match="width = 3; .*embeddings' 2"):
      dict(prepare.prepare(source, width=3)(embed))
  cut = embed.narrow(1).images(source).zimg
  np.testing.assert_allclose(cut, [[1.0], [1.0]])
