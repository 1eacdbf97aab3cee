"""Checkpoints: bit for bit, on other meshes, complete or not at all."""

import functools
import os
import re
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import optax
import pytest

import tiny
from big_contrastive.checkpoints import checkpointer, compare, find
from big_contrastive.config import errors, rules
from big_contrastive.training import optimizers, step
from big_contrastive.training.state import State, from_items

META = {"config": {"model": [1, {"a": None}]}, "position": {"examples": 48}}


@functools.cache
def trained(mesh):
  return tiny.train(mesh, steps=1)[1]


def placed(mesh):
  return step.place(tiny.make_step(mesh)[0], mesh, [(".*", "fsdp")])


def save(folder, state, *steps, **kwargs):
  checkpoints = checkpointer.Checkpoints(folder, **kwargs)
  for s in steps:
    checkpoints.save(s, state.items(), META, b"vocabulary")
  checkpoints.wait()
  return checkpoints


@pytest.mark.parametrize("shape", [(1,), (2, 4), (2, 2, 2)])
def test_a_state_comes_back_bit_for_bit_on_another_mesh(shape, mesh, tmp_path):
  state = trained(mesh(4))
  checkpoints = save(tmp_path, state, 1)
  abstract = placed(mesh(*shape)).abstract
  items, meta, blob = checkpoints.restore(1, abstract.items())
  found = from_items(items)
  chex.assert_trees_all_equal(state, found)
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
  found = find.find(str(tmp_path), "x")
  assert found.name == "3"
  assert find.find(str(found), "x") == found
  assert find.find(str(tmp_path / "checkpoints"), "x") == found
  assert checkpointer.read_meta(found) == META
  assert checkpointer.read_blob(found) == b"vocabulary"
  tower = checkpointer.read_exported(found)["txt"]
  chex.assert_trees_all_equal(tower, state.params["txt"])
  abstract = placed(mesh(1)).abstract.params
  params = checkpointer.read_params(found, abstract)
  chex.assert_trees_all_equal(params, state.params)


@pytest.mark.parametrize("part", ["params", "opt"])
def test_a_state_that_is_not_finite_is_not_gone_on_with(part, mesh, tmp_path):
  state, value = trained(mesh(4)), getattr(trained(mesh(4)), part)
  leaves, structure = jax.tree.flatten(value)
  i = next(i for i, x in enumerate(leaves) if x.ndim > 1)
  leaves[i] = leaves[i].at[0].set(np.inf)
  value = jax.tree.unflatten(structure, leaves)
  checkpoints = save(tmp_path, state._replace(**{part: value}), 1)
  said = f"checkpoint .*/1: not finite: (training/)?{part}/.*the one before"
  with pytest.raises(errors.RunError, match=said) as e:
    checkpoints.restore(1, placed(mesh(4)).abstract.items())
  assert e.value.code == errors.BAD_NUMBERS


def test_no_checkpoint_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="--checkpoint.*no checkpoint"):
    find.find(str(tmp_path), "--checkpoint")
  with pytest.raises(errors.UserError, match="does not exist"):
    find.find(str(tmp_path / "nowhere"), "--checkpoint")


def test_another_shape_is_named(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 3)
  found = find.find(str(tmp_path), "x")
  shapes = placed(mesh(1)).abstract.params
  flat = rules.flatten(shapes)
  wide = jax.ShapeDtypeStruct((16, 64), np.float32)
  other = rules.unflatten(flat | {"img/pos": wide})
  with pytest.raises(errors.UserError, match=r"img/pos .*\(16, 32\)"):
    compare.params(found, other)
  fewer = rules.unflatten({k: v for k, v in flat.items() if k != "b"})
  with pytest.raises(errors.UserError, match=r"'b \(\) for no such parameter"):
    compare.params(found, fewer)


def damage(folder, how):
  """Damages a file that holds arrays."""
  file = max((folder / "params").rglob("*"), key=lambda f: f.stat().st_size)
  if how == "truncated":
    os.truncate(file, file.stat().st_size // 2)
  elif how == "flipped":
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
  elif how == "missing":
    file.unlink()
  elif how == "no metadata":
    (folder / "_CHECKPOINT_METADATA").unlink()
  elif how == "no folder":
    shutil.rmtree(folder / "params")


HOW = ["truncated", "flipped", "missing", "no metadata", "no folder"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_newest_falls_back_to_the_one_before(
  how, mesh, tmp_path, caplog
):
  save(tmp_path, trained(mesh(4)), 3, 6, 9).close()
  damage(tmp_path / "checkpoints" / "9", how)
  again = checkpointer.Checkpoints(tmp_path)
  assert find.find(str(tmp_path), "x").name == "6"
  assert again.newest() == 6
  assert "9 is damaged" in caplog.text
  kept = {d.name for d in (tmp_path / "checkpoints").iterdir()}
  assert kept == {"6", "9.damaged"}
  items, _, _ = again.restore(6, placed(mesh(1)).abstract.items())
  found = from_items(items)
  chex.assert_trees_all_equal(trained(mesh(4)), found)
  # The same step can be saved again, and again be damaged.
  again.save(9, trained(mesh(4)).items(), META, b"v")
  again.close()
  damage(tmp_path / "checkpoints" / "9", how)
  assert checkpointer.Checkpoints(tmp_path).newest() == 6


def test_where_all_are_damaged_nothing_begins_anew(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 3, 6).close()
  for step_ in ("3", "6"):
    damage(tmp_path / "checkpoints" / step_, "flipped")
  with pytest.raises(errors.UserError, match=r"all damaged: \[6, 3\]"):
    checkpointer.Checkpoints(tmp_path).newest()
  with pytest.raises(errors.UserError, match="--checkpoint.*no checkpoint"):
    find.find(str(tmp_path), "--checkpoint")
  where = str(tmp_path / "checkpoints" / "6.damaged")
  with pytest.raises(errors.UserError, match="6.damaged is damaged: params"):
    find.find(where, "--checkpoint")


def test_sha256sum_finds_the_same(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 3).close()
  folder = tmp_path / "checkpoints" / "3"
  check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
  assert subprocess.run(check, cwd=folder, check=False).returncode == 0
  files = {p for p in folder.rglob("*") if p.is_file()}
  listed = (folder / "SHA256SUMS").read_text().splitlines()
  assert len(listed) == len(files) - 1
  damage(folder, "flipped")
  found = subprocess.run(check, cwd=folder, check=False, capture_output=True)
  assert found.returncode == 1


def test_what_a_killed_run_left_is_removed_and_the_rest_is_not(mesh, tmp_path):
  save(tmp_path, trained(mesh(4)), 3).close()
  folder = tmp_path / "checkpoints"
  for left in ("6.saving", "6.saving.orbax-checkpoint-tmp", "2.deleting"):
    shutil.copytree(folder / "3", folder / left)
  mine = {"3", "1.damaged", "best", "3.copy"}
  for name in mine - {"3"}:
    (folder / name).mkdir()
  assert checkpointer.Checkpoints(tmp_path).newest() == 3
  assert {d.name for d in folder.iterdir()} == mine


_FULL = """
import resource, sys
import jax.numpy as jnp
import numpy as np
from big_contrastive.checkpoints import checkpointer
from big_contrastive.config import errors

def state(seed):
  noise = np.random.default_rng(seed).normal(size=(64, 1024))
  weights = {"img": {"w": noise.astype(np.float32)}}
  training = {"step": jnp.int32(0), "opt": {}}
  return {"params": weights, "training": training}

checkpoints = checkpointer.Checkpoints(sys.argv[1])
checkpoints.save(3, state(3), {}, b"v")
checkpoints.save(6, state(6), {}, b"v")
checkpoints.wait()
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
try:
  checkpoints.save(9, state(9), {}, b"v")
  checkpoints.wait()
except errors.UserError as e:
  print(e)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
left = sorted(d.name for d in checkpoints.folder.iterdir())
print(checkpoints.newest(), left)
checkpoints.save(9, state(9), {}, b"v")  # Once there is room, it goes on.
checkpoints.close()
print(checkpoints.newest())
"""


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path):
  """A limit on the size of a file stands for a full disk.

  In a process of its own: after an error Orbax leaves coroutines behind that
  would complain in whichever test the garbage is collected.
  """
  command = [sys.executable, "-c", _FULL, str(tmp_path)]
  ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
  assert ran.returncode == 0, ran.stderr
  error, before, after = ran.stdout.splitlines()
  assert re.match("checkpoint 9 .*not written", error)
  assert before == "6 ['3', '6']"
  assert after == "9"


def stacked(tx, layers):
  """A state of an optimizer of one bias and one kernel of each layer."""
  params = {
    "img/encoder/blocks/norm1/scale": np.ones((layers, 48), np.float32),
    "img/encoder/blocks/mlp/fc1/kernel": np.ones((layers, 48, 64), np.float32),
  }
  opt = tx.init(jax.tree.map(jax.numpy.asarray, params))
  t = {"t": jax.numpy.zeros(())}
  return State(jax.numpy.zeros((), int), params=t, opt=opt, extra={})


def layers_at_once():
  """Adafactor as it was: with the axis of the layers like any other."""
  return optax.chain(
    optax.scale_by_factored_rms(min_dim_size_to_factor=32),
    optax.clip_by_block_rms(1.0),
    optax.ema(0.9, debias=False, accumulator_dtype="bfloat16"),
  )


def abstract(state):
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state
  )


def test_an_adafactor_that_took_layers_for_rows_is_resumed_or_refused(tmp_path):
  few, many = (stacked(layers_at_once(), n) for n in (24, 40))
  checkpoints = save(tmp_path, few, 1)
  now = stacked(optimizers.adafactor(), 24)
  items, _, _ = checkpoints.restore(1, abstract(now.items()))
  found = items["training"]["opt"]
  chex.assert_trees_all_equal(found, few.opt)
  checkpoints = save(tmp_path, many, 2)
  with pytest.raises(errors.UserError, match="Adafactor of 32 layers") as e:
    checkpoints.restore(
      2, abstract(stacked(optimizers.adafactor(), 40).items())
    )
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), {1, 2}])
def test_metadata_that_is_no_json_is_not_written(wrong, mesh, tmp_path):
  checkpoints = checkpointer.Checkpoints(tmp_path)
  with pytest.raises(errors.UserError, match="metadata"):
    checkpoints.save(1, trained(mesh(4)).items(), {"config": {"a": wrong}}, b"")
  assert not list((tmp_path / "checkpoints").iterdir())
