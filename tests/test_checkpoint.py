"""Checkpoints: bit for bit, on other meshes, complete or not at all."""

import functools

import jax
import numpy as np
import pytest

import tiny
from big_contrastive import checkpoint, errors, step, tree

META = {"config": {"model": [1, {"a": None}]}, "position": {"examples": 48}}


@functools.cache
def trained(mesh):
  return tiny.train(mesh, steps=1)[1]


def placed(mesh):
  return step.place(tiny.make_step(mesh)[0], mesh, [(".*", "fsdp")])


def save(folder, state, *steps, **kwargs):
  checkpoints = checkpoint.Checkpoints(folder, **kwargs)
  for s in steps:
    checkpoints.save(s, state, META, b"vocabulary")
  checkpoints.wait()
  return checkpoints


@pytest.mark.parametrize("shape", [(1,), (2, 4), (2, 2, 2)])
def test_a_state_comes_back_bit_for_bit_on_another_mesh(shape, mesh, tmp_path):
  state = trained(mesh(4))
  checkpoints = save(tmp_path, state, 1)
  abstract = placed(mesh(*shape)).abstract
  found, meta, blob = checkpoints.restore(1, abstract)
  jax.tree.map(np.testing.assert_array_equal, state, found)
  where = jax.tree.map(lambda x: x.sharding, found)
  assert where == jax.tree.map(lambda x: x.sharding, abstract)
  assert meta == META and blob == b"vocabulary"


def test_the_newest_and_every_nth_are_kept(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 2, 4, 5, 6, 7, keep=2, keep_every=4)
  kept = {int(d.name) for d in (tmp_path / "checkpoints").iterdir()}
  assert kept == {4, 6, 7}


def test_a_checkpoint_holds_what_evaluation_needs(mesh, tmp_path):
  state = trained(mesh(4))
  save(tmp_path, state, 3)
  found = checkpoint.find(str(tmp_path), "x")
  assert found.name == "3"
  assert checkpoint.find(str(found), "x") == found
  assert checkpoint.find(str(tmp_path / "checkpoints"), "x") == found
  assert checkpoint.read_meta(found) == META
  assert checkpoint.read_blob(found) == b"vocabulary"
  tower = checkpoint.read_tower(found, "txt")
  jax.tree.map(np.testing.assert_array_equal, tower, state.params["txt"])
  abstract = placed(mesh(1)).abstract.params
  params = checkpoint.read_params(found, abstract)
  jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_an_unfinished_checkpoint_is_not_one(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 3)
  folder = tmp_path / "checkpoints"
  (folder / "4.orbax-checkpoint-tmp-1").mkdir()
  (folder / "5").mkdir()  # Killed before anything was in it.
  assert checkpoint.find(str(tmp_path), "x").name == "3"


def test_no_checkpoint_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="--checkpoint.*no checkpoint"):
    checkpoint.find(str(tmp_path), "--checkpoint")
  with pytest.raises(errors.UserError, match="does not exist"):
    checkpoint.find(str(tmp_path / "nowhere"), "--checkpoint")


def test_another_shape_is_named(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 3)
  found = checkpoint.find(str(tmp_path), "x")
  shapes = placed(mesh(1)).abstract.params
  flat = tree.flatten(shapes)
  wide = jax.ShapeDtypeStruct((16, 64), np.float32)
  other = tree.unflatten(flat | {"img/pos": wide})
  with pytest.raises(errors.UserError, match=r"img/pos .*\(16, 32\)"):
    checkpoint.check_shapes(found, other)
  fewer = tree.unflatten({k: v for k, v in flat.items() if k != "b"})
  with pytest.raises(errors.UserError, match="parameter b "):
    checkpoint.check_shapes(found, fewer)
