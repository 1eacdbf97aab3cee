"""Checkpoints in buckets: what holds on a disk holds there."""

import json

import buckets
import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.checkpoints import checkpointer, find, folders
from big_contrastive.checkpoints.checkpointer import Checkpoints
from big_contrastive.config import errors
from big_contrastive.storage import paths, urls


@pytest.fixture
def run(bucket, request):
  """The URL of a workdir of this test's own."""
  return f"{bucket}/{abs(hash(request.node.name))}"


def system(url):
  return fsspec.filesystem(url.partition("://")[0])


def items(value=1.0):
  return {
    "params": {"w": jnp.full((40, 3), value)},
    "training": {"step": jnp.asarray(3, jnp.int32)},
  }


def save(workdir, *steps, **kwargs):
  checkpoints = Checkpoints(workdir, **kwargs)
  for step in steps:
    meta = {"config": {"seed": step}}
    checkpoints.save(step, items(float(step)), meta, b"words")
  checkpoints.close()
  return checkpoints


def restored(workdir, step):
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    items(),
  )
  return Checkpoints(workdir).restore(step, abstract)


def marks(run):
  """What is beside the folders of the checkpoints."""
  return [n for n in buckets.names(f"{run}/checkpoints") if "/" not in n]


def test_what_is_saved_is_restored_and_old_ones_go(run):
  save(run, 1, 2, 3, 4, keep=2, keep_every=3)
  assert find.steps(paths.at(f"{run}/checkpoints", "x")) == [3, 4]
  assert not marks(run)
  assert not [n for n in buckets.names(run) if "/1/" in n or "/2/" in n]
  loaded, meta, blob = restored(run, 4)
  np.testing.assert_array_equal(loaded["params"]["w"], np.full((40, 3), 4.0))
  assert meta == {"config": {"seed": 4}} and blob == b"words"
  assert "commit_success.txt" in buckets.names(f"{run}/checkpoints/4")


def test_a_step_is_none_while_it_is_written(run, monkeypatch):
  """And what a killed save leaves is gone when the next run begins."""
  seen = []
  real = folders.Bucket.finish

  def look(self, step):
    seen.append((self.steps(), Checkpoints(run).newest()))
    with pytest.raises(errors.UserError, match="a workdir, or a checkpoint"):
      find.find(f"{run}/checkpoints/{step}", "x")
    real(self, step)

  save(run, 1)
  with monkeypatch.context() as patch:
    patch.setattr(folders.Bucket, "prepare", lambda self: None)
    patch.setattr(folders.Bucket, "finish", look)
    save(run, 2)
    assert seen == [([1], 1)]
    patch.setattr(folders.Bucket, "finish", lambda self, step: None)
    save(run, 3)
  assert marks(run) == ["3.saving"] and find.find(run, "x").name == "2"
  assert Checkpoints(run).newest() == 2
  assert not marks(run)
  assert not [n for n in buckets.names(run) if "/3/" in n]
  save(run, 3)
  assert Checkpoints(run).newest() == 3


def test_a_removal_that_was_killed_is_finished(run, monkeypatch):
  save(run, 1, 2)
  with monkeypatch.context() as patch:
    patch.setattr(folders.Bucket, "_rm", lambda self, name: None)
    folders.of(paths.at(f"{run}/checkpoints", "x")).remove(1)
  assert find.steps(paths.at(f"{run}/checkpoints", "x")) == [2]
  Checkpoints(run)
  assert not marks(run)
  assert not [n for n in buckets.names(run) if "/1/" in n]


@pytest.mark.parametrize("how", ["missing", "other", "no list"])
def test_a_damaged_one_is_told_and_the_one_before_is_taken(how, run, caplog):
  save(run, 1, 2)
  files, folder = system(run), f"{run}/checkpoints/2"
  (name,) = [
    n
    for n in buckets.names(folder)
    if n.startswith("params/ocdbt") and "/d/" in n
  ]
  content = files.cat_file(f"{folder}/{name}")
  if how == "missing":
    files.rm(f"{folder}/{name}")
  elif how == "other":
    files.pipe_file(f"{folder}/{name}", content[:-1] + b"!")
  else:
    files.pipe_file(f"{folder}/OBJECTS.json", b"{")
  assert find.find(run, "x").name == "1"
  assert Checkpoints(run).newest() == 1
  assert "checkpoint 2 is damaged" in caplog.text
  assert marks(run) == ["2.damaged"]
  assert Checkpoints(run).newest() == 1
  save(run, 2)  # The run comes to that step again.
  assert not marks(run) and Checkpoints(run).newest() == 2
  restored(run, 2)


def test_if_all_are_damaged_nothing_is_begun_anew(run):
  save(run, 1)
  system(run).rm(f"{run}/checkpoints/1/params", recursive=True)
  with pytest.raises(errors.UserError, match=r"all damaged: \[1\]"):
    Checkpoints(run).newest()


def test_a_copy_elsewhere_is_intact_and_half_a_copy_is_not(run):
  """Other ETags are no damage there; what is missing still is."""
  save(run, 5)
  files, copy = system(run), f"{run}-copy"
  for name in buckets.names(run):
    files.pipe_file(f"{copy}/{name}", files.cat_file(f"{run}/{name}"))
  about = json.loads(files.cat_file(f"{copy}/checkpoints/5/OBJECTS.json"))
  about["objects"] = {k: [v[0], "x"] for k, v in about["objects"].items()}
  files.pipe_file(
    f"{copy}/checkpoints/5/OBJECTS.json", json.dumps(about).encode()
  )
  assert find.find(copy, "x").name == "5"
  files.rm(f"{copy}/checkpoints/5/params/_METADATA")
  with pytest.raises(errors.UserError, match="params/_METADATA is missing"):
    find.find(copy, "x")


def test_a_save_that_fails_is_one_error(run, monkeypatch):
  monkeypatch.setattr(urls, "PAUSES", ())
  checkpoints = save(run, 1)
  checkpoints = Checkpoints(run)

  def fails(self, step):
    raise RuntimeError("HTTP 403\nForbidden")

  monkeypatch.setattr(folders.Bucket, "finish", fails)
  checkpoints.save(2, items(), {}, b"")
  with pytest.raises(errors.UserError) as e:
    checkpoints.close()
  assert "not written: RuntimeError: HTTP 403" in str(e.value)
  assert "1 and those before are intact" in str(e.value)
  assert not marks(run)


def test_a_bucket_that_is_not_there_is_one_error(bucket, monkeypatch):
  monkeypatch.setattr(urls, "PAUSES", ())
  kind = bucket.partition("://")[0]
  with pytest.raises(errors.UserError, match="--checkpoint = ") as e:
    find.find(f"{kind}://no-such-bucket/run", "--checkpoint")
  assert "\n" not in str(e.value)


def test_what_orbax_is_asked_for_is_what_it_has():
  """The functions that orbax_s3 replaces are there, and are called."""
  from orbax.checkpoint._src.serialization import tensorstore_utils

  spec = tensorstore_utils.build_kvstore_tspec("s3://b/a/../c", use_ocdbt=True)
  assert spec["base"]["driver"] == "s3" and spec["base"]["bucket"] == "b"
  assert spec["base"]["path"].rstrip("/") == "c"
  spec = tensorstore_utils.build_kvstore_tspec("gs://b/c", use_ocdbt=True)
  assert spec["base"]["driver"] == "gcs"


def test_checkpointer_reads_only_what_it_is_asked_for(run):
  save(run, 7)
  system(run).rm(f"{run}/checkpoints/7/training/d", recursive=True)
  directory = find.find(run, "x")  # Evaluation needs no optimizer.
  assert checkpointer.read_exported(directory)["w"].shape == (40, 3)
