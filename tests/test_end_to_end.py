"""Shipped configs in full: train, save, be killed, resume, evaluate."""

import json
import pathlib

import jax
import numpy as np
import pytest

from big_contrastive import (
  checkpoint,
  command,
  evaluate,
  experiment,
  loop,
  tree,
)

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


class Killed(Exception):
  pass


def load(name, argument, *overrides):
  return command.load_config(f"{CONFIGS}/{name}.py:{argument}", list(overrides))


def fit(config, workdir, kill_before=None):
  """Trains; as if killed before it asks for the batch of that step."""
  built = experiment.build(config)
  batches = built.training.batches

  def killed(start, stop):
    for step, batch in enumerate(batches(start, stop), start):
      if step == kill_before:
        raise Killed
      yield batch

  built.training.batches = killed
  return loop.fit(built, workdir)


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  return [
    {k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows
  ]


def params(workdir):
  return checkpoint.read_arrays(checkpoint.find(str(workdir), "x"))


@pytest.mark.parametrize("name", ["siglip", "clip", "lit", "flip", "demo"])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(name, tmp_path):
  config = load(name, "smoke")
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  result = fit(config, whole)
  assert np.isfinite(result["train/loss"])
  assert 0 <= result["eval/retrieval/shapes/img2txt_r1"] <= 1
  with pytest.raises(Killed):
    fit(config, broken, kill_before=6)  # Saved at 4; steps 5 and 6 are lost.
  assert checkpoint.find(str(broken), "x").name == "4"
  fit(config, broken)
  assert lines(whole) == lines(broken)
  ours, theirs = params(whole), params(broken)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  meta = [
    checkpoint.read_meta(checkpoint.find(str(d), "x")) for d in (whole, broken)
  ]
  assert meta[0] == meta[1]
  assert meta[0]["position"]["examples"] == 8 * 16


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
  config = load("siglip", "smoke")
  fit(config, tmp_path)
  before = lines(tmp_path)
  fit(config, tmp_path, kill_before=0)
  assert lines(tmp_path)[: len(before)] == before


def test_flip_unmasked_begins_where_masked_ended(tmp_path):
  masked, unmasked = tmp_path / "a", tmp_path / "b"
  fit(load("flip", "smoke"), masked)
  config = load("flip", f"smoke,init={masked}")
  assert config["model"]["image"]["keep"] == 1.0
  built = experiment.build(config)
  state = built.load(built.placed.init())
  jax.tree.map(np.testing.assert_array_equal, params(masked), state.params)
  fit(config, unmasked)
  pos = [tree.flatten(params(d))["txt/pos"] for d in (masked, unmasked)]
  assert not np.array_equal(*pos)


def test_lit_locks_the_tower_that_it_is_given(tmp_path):
  siglip, lit = tmp_path / "siglip", tmp_path / "lit"
  fit(load("siglip", "smoke"), siglip)
  fit(load("lit", f"smoke,pool=map,init={siglip}"), lit)
  image = [params(d)["img"] for d in (siglip, lit)]
  jax.tree.map(np.testing.assert_array_equal, *image)
  text = [params(d)["txt"]["pos"] for d in (siglip, lit)]
  assert not np.array_equal(*text)


def test_evaluate_needs_the_checkpoint_alone(tmp_path, monkeypatch, capsys):
  result = fit(load("siglip", "smoke"), tmp_path)
  data = "shapes:split=heldout,train_size=512,size=32"
  flags = ["--checkpoint", str(tmp_path), "--data", data]
  monkeypatch.setattr("sys.argv", ["x", *flags, "--task", "retrieval"])
  evaluate.run()
  figures = json.loads(capsys.readouterr().out)
  for k in (1, 5, 10):
    for way in ("img2txt", "txt2img"):
      name = f"{way}_r{k}"
      assert figures[f"retrieval/{name}"] == pytest.approx(
        result[f"eval/retrieval/shapes/{name}"], abs=1e-6
      )
  extra = ["--task", "zero_shot", "--templates", '["a {c}", "{c}"]']
  monkeypatch.setattr("sys.argv", ["x", *flags, *extra])
  evaluate.run()
  figures = json.loads(capsys.readouterr().out)
  assert 0 <= figures["zero_shot/top1"] <= figures["zero_shot/top5"] <= 1
