"""Teacher, queue, center and running statistics are saved and restored."""

import pathlib
import shutil

import chex
import jax
import numpy as np
import PIL.Image
import pytest

import tiny
from big_contrastive.checkpoints import checkpointer
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.training import loop

TOWER = str(pathlib.Path(__file__).parents[1] / "normed_tower.py")


def config(name="moco", **changes):
  """Of a method over a tower with a batch norm, for four steps."""
  made = tiny.load(name, "smoke")
  group = 2 if name == "moco" else None
  made["model"]["image"] = {"tower": TOWER, "res": 32, "norm_group": group}
  made["optimizer"] = {"name": "adamw", "lr": 1e-3, "eps": 1e-4}
  for field in ("schedules", "adapt"):  # Of the optimizer that was.
    made.pop(field, None)
  del made["evals"]
  return made | {"total": 4, "save_every": 2, "log_every": 1} | changes


def fit(workdir, devices, **changes):
  made = experiment.build(config(**changes), jax.devices()[:devices])
  return loop.fit(made, workdir)


def cut_off(whole, at_two):
  """Makes a workdir of a run that was killed after it had saved at step 2.

  A shorter run would have other schedules.
  """
  shutil.copytree(whole, at_two)
  shutil.rmtree(at_two / "checkpoints/4")


def saved(workdir, step):
  """All arrays of a checkpoint, by item and name."""
  folder = workdir / "checkpoints" / str(step)
  items = ("params", "training", "extra")
  return {item: checkpointer._read_host(folder, item) for item in items}


@pytest.mark.parametrize(
  "name", ["moco", "dino", "swav", "superclass", "instdisc"]
)
def test_a_resumed_run_has_the_same_bits(name, tmp_path):
  whole = fit(tmp_path / "whole", 2, name=name)
  cut_off(tmp_path / "whole", tmp_path / "halves")
  resumed = fit(tmp_path / "halves", 2, name=name)
  assert whole["train/loss"] == resumed["train/loss"]
  a, b = (saved(tmp_path / w, 4) for w in ("whole", "halves"))
  chex.assert_trees_all_equal(a, b)
  extra = rules.flatten(a["extra"])
  own = {
    "moco": {"teacher/img/fc2/kernel", "queue", "at"},
    "dino": {"teacher/img/fc2/kernel", "center"},
    "swav": {"queue"},
    "superclass": {"frequency", "batches"},
    "instdisc": {"bank/rows"},
  }
  assert {"statistics/img/norm/mean", *own[name]} <= extra.keys()
  early = rules.flatten(saved(tmp_path / "halves", 2)["extra"])
  for key in extra:
    # A bias before a norm has no gradient.
    moves = key != "at" and not key.endswith("bias")
    assert not moves or not np.array_equal(extra[key], early[key]), key


@pytest.mark.parametrize("name", ["moco", "instdisc"])
def test_other_devices_restore_the_same_bits_and_go_on(name, tmp_path):
  whole = fit(tmp_path / "whole", 8, mesh={"fsdp": 2}, name=name)
  cut_off(tmp_path / "whole", tmp_path / "moved")
  before = saved(tmp_path / "moved", 2)
  made = experiment.build(config(name), jax.devices()[:4])
  store = checkpointer.Checkpoints(tmp_path / "moved")
  items, *_ = store.restore(2, made.placed.abstract.items())
  store.close()
  restored = {k: jax.device_get(items[k]) for k in before}
  a, b = (
    [np.asarray(x) for x in jax.tree.leaves(tree)]
    for tree in (before, restored)
  )
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
  moved = fit(tmp_path / "moved", 4, name=name)
  np.testing.assert_allclose(
    moved["train/loss"], whole["train/loss"], rtol=1e-5
  )
  a, b = (saved(tmp_path / w, 4)["extra"] for w in ("whole", "moved"))
  chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_queue_of_another_batch_is_refused(tmp_path):
  fit(tmp_path, 1, total=2)
  with pytest.raises(errors.UserError, match="batch_size"):
    fit(tmp_path, 1, batch_size=8)


def test_a_bank_is_not_taken_for_that_of_other_records(tmp_path, caplog):
  """With one less, as many rows, padded, would fit; with more they do not."""
  data, workdir = tmp_path / "data", tmp_path / "run"

  def run(count, order=1):
    shutil.rmtree(data, ignore_errors=True)
    (data / "squares").mkdir(parents=True)
    for name, i in enumerate(range(count)[::order]):
      square = np.full((32, 32, 3), 5 * i, np.uint8)
      PIL.Image.fromarray(square).save(data / f"squares/{name:02}.png")
    fit(workdir, 1, name="instdisc", total=2, source=f"folder:{data}")

  run(40)
  assert saved(workdir, 2)["extra"]["bank"]["rows"].shape[0] == 48
  run(40)  # It goes on.
  assert "bank" not in caplog.text
  for count in (39, 41, 49):
    with pytest.raises(
      errors.UserError,
      match=f"records of config.source = {count}; expected 40: .* row for each",
    ):
      run(count)
  run(40, order=-1)
  assert "as many records" in caplog.text and "row of the bank" in caplog.text


def test_blips_teacher_and_queues_come_back_bit_for_bit(tmp_path):
  def run(workdir):
    made = tiny.load("blip", "smoke") | {
      "total": 4, "save_every": 2, "log_every": 1, "evals": {},
    }  # fmt: skip
    return loop.fit(experiment.build(made, jax.devices()[:2]), workdir)

  whole = run(tmp_path / "whole")
  cut_off(tmp_path / "whole", tmp_path / "halves")
  resumed = run(tmp_path / "halves")
  for name in ("loss", "itc", "itm", "lm"):
    assert whole[f"train/{name}"] == resumed[f"train/{name}"]
  a, b = (saved(tmp_path / w, 4) for w in ("whole", "halves"))
  chex.assert_trees_all_equal(a, b)
  extra = rules.flatten(a["extra"])
  early = rules.flatten(saved(tmp_path / "halves", 2)["extra"])
  moved = {
    "queue/image", "queue/text", "queue/id", "teacher/img/pos",
    "teacher/txt/stack/blocks/cross/key/kernel",
  }  # fmt: skip
  assert moved | {"at"} <= extra.keys()
  for key in moved:
    assert not np.array_equal(extra[key], early[key]), key
