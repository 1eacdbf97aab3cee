"""Blocks of the data axis that run a loop by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from big_contrastive.parallel import blocks, sharding


@custom_partitioning
def forward(x):
  return jnp.sin(x)


@custom_partitioning
def backward(x, dy):
  return jnp.cos(x) * dy


for function in (forward, backward):
  function.def_partition(
    partition=lambda mesh, given, result, f=function: (
      mesh, f.fun, result.sharding, tuple(x.sharding for x in given)
    ),
    infer_sharding_from_operands=lambda mesh, given, _: given[0].sharding,
    sharding_rule="b d, b d -> b d" if function is backward else "b d -> b d",
  )  # fmt: skip


@jax.custom_vjp
def sine(x):
  return forward(x)


sine.defvjp(lambda x: (forward(x), x), lambda x, dy: (backward(x, dy),))


@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2)])
def test_what_partitions_itself_may_be_in_a_block(shape, mesh):
  """As cuDNN's attention does, forward and backward; the sums are exact."""
  devices = mesh(*shape)
  pin = sharding.pin(devices)

  def each(w, rows):
    out = jax.lax.map(lambda x: sine(pin(x @ w)), rows)
    return out, out.sum(), out.mean()

  def value(w, rows):
    out, total, mean = blocks.run(each, devices)(w, rows)
    return (out**2).sum() + total + mean

  def formula(w, rows):
    out = jnp.sin(rows @ w)
    return (out**2).sum() + out.sum() + out.mean()

  w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
  rows = np.linspace(0, 2, 256, dtype=np.float32).reshape(4, 16, 4)
  one = NamedSharding(devices, PartitionSpec())
  split = NamedSharding(devices, PartitionSpec(None, sharding.BATCH))
  run = jax.jit(jax.value_and_grad(value), in_shardings=(one, split))
  for a, b in zip(
    run(w, rows), jax.value_and_grad(formula)(w, rows), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)
