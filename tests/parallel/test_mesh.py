"""Mesh and placement rules."""

import jax
import jax.numpy as jnp
import pytest

from big_contrastive.config import errors
from big_contrastive.parallel import placement, sharding

SHAPES = {
  "img": {
    "encoder": {"blocks": {"kernel": jax.ShapeDtypeStruct((8, 16, 12), "f4")}},
    "pos": jax.ShapeDtypeStruct((6, 20), "f4"),
  },
  "t": jax.ShapeDtypeStruct((), "f4"),
}


def spec(found, *path):
  for key in path:
    found = found[key]
  return tuple(found.spec)


def test_fsdp_splits_the_largest_axis_but_never_the_layers(mesh):
  placed = placement.params([(".*", "fsdp")], SHAPES, mesh(2, 4))
  kernel = spec(placed, "img", "encoder", "blocks", "kernel")
  assert kernel == (None, "fsdp")
  assert spec(placed, "img", "pos") == (None, "fsdp")
  assert spec(placed, "t") == ()


def test_explicit_axes_are_taken_as_they_are(mesh):
  rules = [("img/pos", ["tensor", None]), (".*", "replicate")]
  placed = placement.params(rules, SHAPES, mesh(4, 1, 2))
  assert spec(placed, "img", "pos") == ("tensor", None)
  assert spec(placed, "img", "encoder", "blocks", "kernel") == ()


@pytest.mark.parametrize(
  "chosen", ["fdsp", ["tensor"], ["model", None], [None, "fsdp", None], 3]
)
def test_a_placement_that_does_not_fit_is_named(chosen, mesh):
  rules = [("img/pos", chosen), (".*", "replicate")]
  with pytest.raises(errors.UserError, match=r"config\.shard.*img/pos"):
    placement.params(rules, SHAPES, mesh(2, 4))


def test_an_axis_that_does_not_divide_is_named(mesh):
  rules = [("img/pos", ["fsdp", None]), (".*", "replicate")]
  with pytest.raises(errors.UserError, match="divides 6"):
    placement.params(rules, SHAPES, mesh(2, 4))


def test_a_mesh_must_use_all_devices():
  with pytest.raises(errors.UserError, match=r"config\.mesh\.fsdp = 3"):
    sharding.make_mesh(fsdp=3)


def test_a_batch_that_does_not_divide_gets_the_nearest_that_does(mesh):
  with pytest.raises(errors.UserError, match="nearest is 32"):
    sharding.check_batch(30, mesh(8), "config.batch_size")
  sharding.check_batch(32, mesh(8), "config.batch_size")


def test_global_arrays_hold_the_rows_in_order(mesh):
  x = jnp.arange(16).reshape(16, 1)
  for shape in ((8,), (2, 2, 2), (4,)):
    placed = sharding.to_global({"x": x}, 16, mesh(*shape))["x"]
    assert (jax.device_get(placed) == x).all()
    assert placed.sharding.spec == jax.P(("data", "fsdp"))
