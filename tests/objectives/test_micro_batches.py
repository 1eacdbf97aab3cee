"""Micro-batches over several devices: gradients are reduced once."""

import math

import jax
import jax.numpy as jnp
import pytest

import tiny
from benchmarks import hlo
from big_contrastive.models.model import Model
from big_contrastive.objectives import _base
from big_contrastive.parallel import placement, sharding


@pytest.mark.parametrize("fsdp", [1, 2])
def test_gradients_are_reduced_once_for_any_number_of_micro_batches(fsdp, mesh):
  """Each device's share of them crosses the data axis; in no loop."""
  data = 8 // fsdp
  devices = mesh(data, fsdp)
  recipe, _ = tiny.make_step(devices, depth=1)
  setting = recipe.objective.setting
  shapes = setting.model.shapes
  where = placement.params([(".*", "fsdp")], shapes, devices)

  def value(params, tokens, count):
    model = _base.Applied(setting, params, {})
    return model.embed(Model.embed_text, tokens, None, count=count).sum()

  gradient = jax.jit(
    jax.grad(value), static_argnums=2, out_shardings=where,
    in_shardings=(where, sharding.batch(devices)),
  )  # fmt: skip
  tokens = jax.ShapeDtypeStruct((64, 8), jnp.int32)
  share = sum(
    4 * math.prod(at.shard_shape(x.shape))
    for x, at in zip(*map(jax.tree.leaves, (shapes["txt"], where["txt"])))
  )
  for count in (2, 8):
    text = gradient.lower(shapes, tokens, count).compile().as_text()
    assert hlo.reduced_bytes(text, data) == share
