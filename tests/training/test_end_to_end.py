"""Shipped configs in full: train, save, be killed, resume, evaluate."""

import json
import signal

import chex
import jax
import numpy as np
import pytest

import big_contrastive
import tiny
from big_contrastive import evaluate
from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import errors, rules
from big_contrastive.data.build import build_source
from big_contrastive.factory import experiment
from big_contrastive.training import loop


class Killed(Exception):
  pass


def fit(config, workdir):
  return loop.fit(experiment.build(config), workdir)


def before(built, step, act):
  """Lets something happen as that step asks for its batch."""
  batches = built.training.batches

  def acting(start, stop, put):
    for i, batch in enumerate(batches(start, stop, put), start):
      if i == step:
        act()
      yield batch

  built.training.batches = acting


def kill():
  raise Killed


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  return [
    {k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows
  ]


def happened(workdir):
  text = (workdir / "events.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def params(workdir):
  return checkpointer.read_exported(find.find(str(workdir), "x"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lit", "demo")]


@pytest.mark.parametrize("name", ["siglip", *SLOW])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(name, tmp_path):
  released = [
    "--config.start=[('img/pos','3 steps'),('img/head/.*',6),('.*',0)]",
    "--config.optimizer.final_weight_decay=0.1",
  ]
  config = tiny.load(name, "smoke", *released * (name == "siglip"))
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  built = experiment.build(config)
  result = loop.fit(built, whole)
  assert all(np.isfinite(figure) for figure in result.values())
  before(built, 6, kill)  # Saved at 4; steps 5 and 6 are lost.
  with pytest.raises(Killed):
    loop.fit(built, broken)
  assert find.find(str(broken), "x").name == "4"
  fit(config, broken)
  assert lines(whole) == lines(broken)
  told = [(e["step"], e["kind"], e["total"]) for e in happened(broken)]
  assert told == [(0, "began", 8), (4, "resumed", 8)]
  ours, theirs = params(whole), params(broken)
  chex.assert_trees_all_equal(ours, theirs)
  meta = [
    checkpointer.read_meta(find.find(str(d), "x")) for d in (whole, broken)
  ]
  assert meta[0] == meta[1]
  assert meta[0]["position"]["examples"] == 8 * 16


def test_micro_batches_and_tiles_of_a_config_change_no_figure(tmp_path):
  # In bfloat16 a gradient summed over micro-batches is rounded less often.
  same = [
    "--config.total=2",
    "--config.evals={}",
    "--config.model.dtype=float32",
  ]
  cut = ["--config.micro_batch.text=8", "--config.objective.tile=1"]
  fit(tiny.load("flip", "smoke", *same), tmp_path / "plain")
  fit(tiny.load("flip", "smoke", *same, *cut), tmp_path / "cut")
  both = [lines(tmp_path / name) for name in ("plain", "cut")]
  for a, b in zip(*both, strict=True):
    for key in ("train/loss", "train/grad_norm"):
      np.testing.assert_allclose(a[key], b[key], rtol=1e-5)


@pytest.mark.slow
def test_a_finished_run_has_nothing_left_to_do(one_device, tmp_path):
  config = tiny.load("siglip", "smoke")
  fit(config, tmp_path)
  rows = lines(tmp_path)
  built = experiment.build(config)
  before(built, 0, kill)
  again = loop.fit(built, tmp_path)
  assert lines(tmp_path) == rows
  assert again["train/loss"] == rows[-2]["train/loss"]
  config["total"] = "7 steps"
  with pytest.raises(errors.UserError, match="config.total = 7.*at least 8"):
    fit(config, tmp_path)
  assert lines(tmp_path) == rows


@pytest.mark.slow
def test_flip_unmasked_begins_where_masked_ended(one_device, tmp_path):
  masked, unmasked = tmp_path / "a", tmp_path / "b"
  fit(tiny.load("flip", "smoke"), masked)
  config = tiny.load("flip", f"smoke,init={masked}")
  assert config["model"]["image"]["keep"] == 1.0
  built = experiment.build(config)
  state = built.first()
  chex.assert_trees_all_equal(params(masked), state.params)
  fit(config, unmasked)
  pos = [rules.flatten(params(d))["txt/pos"] for d in (masked, unmasked)]
  assert not np.array_equal(*pos)


@pytest.mark.slow
def test_lit_locks_the_tower_that_it_is_given(one_device, tmp_path):
  siglip, lit = tmp_path / "siglip", tmp_path / "lit"
  fit(tiny.load("siglip", "smoke"), siglip)
  fit(tiny.load("lit", f"smoke,pool=map,init={siglip}"), lit)
  image = [params(d)["img"] for d in (siglip, lit)]
  chex.assert_trees_all_equal(*image)
  text = [params(d)["txt"]["pos"] for d in (siglip, lit)]
  assert not np.array_equal(*text)


def test_evaluate_needs_the_checkpoint_alone(tmp_path, monkeypatch, capsys):
  result = fit(tiny.load("siglip", "smoke"), tmp_path)
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
  source = build_source(data, "--data")
  model, records = big_contrastive.load(tmp_path), [*source]
  label = np.array([record["label"] for record in records])
  ztxt = sum(
    model.encode_text([template.format(c=name) for name in source.classes])
    for template in ("a {c}", "{c}")
  )
  ztxt /= np.linalg.norm(ztxt, axis=1, keepdims=True)
  scores = model.encode_image([r["image"] for r in records]) @ ztxt.T
  own = scores[np.arange(len(label)), label]
  ahead = (scores > own[:, None]).sum(axis=1)
  for k in (1, 5):
    assert figures[f"zero_shot/top{k}"] == pytest.approx((ahead < k).mean())


@pytest.mark.parametrize(
  "flags, said",
  [
    (["retrieval", "--source", "shapes:train"], "--source.*--data once"),
    (["gallery"], "--task = 'gallery'"),
  ],
)
def test_evaluate_does_what_it_is_asked_or_says_so(
  flags, said, small, monkeypatch
):
  data = "shapes:split=heldout,train_size=512,size=32"
  given = ["--checkpoint", str(small), "--data", data, "--task", *flags]
  monkeypatch.setattr("sys.argv", ["x", *given])
  with pytest.raises(errors.UserError, match=said):
    evaluate.run()


def test_another_optimizer_does_not_take_the_state_of_the_first(
  one_device, tmp_path
):
  flags = ["--config.total=4", "--config.schedule.warmup=0"]
  fit(tiny.load("siglip", "smoke", *flags), tmp_path)
  rows = lines(tmp_path)
  said = "config.optimizer, config.freeze and config.start"
  for change in (
    "--config.optimizer.clip=None",
    "--config.optimizer={'name':'adafactor','lr':1e-3}",
    "--config.freeze=[('img/.*',True),('.*',False)]",
  ):
    with pytest.raises(errors.UserError, match=said):
      fit(tiny.load("siglip", "smoke", *flags, change), tmp_path)
    assert lines(tmp_path) == rows and find.find(str(tmp_path), "x")


@pytest.mark.slow
def test_when_and_how_often_it_saves_changes_no_figure(
  one_device, tmp_path, monkeypatch
):
  """By minutes, by steps, stopped by SIGTERM where an evaluation is due."""
  flags = ["--config.total=8", "--config.log_every=3", "--config.eval_every=4"]
  whole, often, stopped = tmp_path / "a", tmp_path / "b", tmp_path / "c"
  config = tiny.load("siglip", "smoke", *flags, "--config.save_every=0")
  built = experiment.build(config)
  loop.fit(built, whole)
  assert [r["step"] for r in lines(whole)] == [1, 3, 4, 6, 8, 8]
  saved = []
  save = checkpointer.Checkpoints.save
  monkeypatch.setattr(
    checkpointer.Checkpoints, "save",
    lambda self, step, *args: saved.append(step) or save(self, step, *args),
  )  # fmt: skip
  minutes = ["--config.save_every=3", "--config.save_minutes=1e-9"]
  fit(tiny.load("siglip", "smoke", *flags, *minutes), often)
  assert saved == [1, 2, 3, 4, 5, 6, 7, 8]
  assert lines(often) == lines(whole)
  before(built, 3, lambda: signal.raise_signal(signal.SIGTERM))
  handler = signal.getsignal(signal.SIGTERM)
  with pytest.raises(errors.RunError, match="saved at step 4, in .* s") as e:
    loop.fit(built, stopped)
  assert e.value.code == 75 and signal.getsignal(signal.SIGTERM) == handler
  assert [r["step"] for r in lines(stopped)] == [1, 3]
  fit(config, stopped)
  assert lines(stopped) == lines(whole)
  for other in (often, stopped):
    chex.assert_trees_all_equal(params(whole), params(other))


@pytest.mark.parametrize("at", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_sigterm_in_an_evaluation_saves_and_the_evaluation_is_repeated(
  at, one_device, tmp_path
):
  """In the second of two evaluators, amid the run and at its end."""
  flags = ["--config.total=8", "--config.eval_every=4"]
  config = tiny.load("siglip", "smoke", *flags, "--config.save_every=0")
  config["evals"] = {"a": config["evals"]["shapes"]} | config["evals"]
  built = experiment.build(config)
  loop.fit(built, tmp_path / "whole")
  evaluator, calls = built.evaluators["retrieval/shapes"], []

  def then_sigterm(embed):
    calls.append("")
    if 4 * len(calls) == at:
      signal.raise_signal(signal.SIGTERM)
    return evaluator(embed)

  built.evaluators["retrieval/shapes"] = then_sigterm
  with pytest.raises(errors.RunError, match=f"saved at step {at}, in") as e:
    loop.fit(built, tmp_path / "cut")
  assert e.value.code == 75
  told = [[r["step"] for r in lines(tmp_path / d)] for d in ("whole", "cut")]
  assert told[0].count(at) == told[1].count(at) + 1
  *_, stopped = happened(tmp_path / "cut")
  assert stopped["kind"] == "stopped" and stopped["step"] == at
  fit(config, tmp_path / "cut")
  assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_run_or_are_skipped(
  one_device, tmp_path
):
  """By a bias that the first update throws to infinity."""
  flags = ["--config.evals={}", "--config.save_every=1", "--config.total=4"]
  flags += ["--config.lr_mult=[('b', 1e38), ('.*', 1.0)]"]
  flags += ["--config.optimizer.lr=10", "--config.schedule.warmup=0"]
  built = experiment.build(tiny.load("siglip", "smoke", *flags))
  with pytest.raises(errors.RunError, match="step 1: not finite: the up") as e:
    loop.fit(built, tmp_path)
  assert e.value.code == 3 and "config.skip_nonfinite" in str(e.value)
  assert not list((tmp_path / "checkpoints").iterdir())
  kept = np.load(tmp_path / "nonfinite" / "step_1_process_0.npz")
  first = next(built.training.batches(0, 1))
  for name in ("image", "text", "id"):
    np.testing.assert_array_equal(kept[name], first[name])
  assert kept["position"].tolist() == list(range(16))
  skip = tiny.load("siglip", "smoke", *flags, "--config.skip_nonfinite=True")
  fit(skip, tmp_path / "skip")
  rows = lines(tmp_path / "skip")
  assert [r["train/skipped"] for r in rows] == [1, 2, 3, 4]
  told = [(e["step"], e["kind"]) for e in happened(tmp_path / "skip")]
  assert told[1:] == [(i, "skipped") for i in (1, 2, 3, 4)]
  begun = jax.device_get(built.placed.init()).params
  chex.assert_trees_all_equal(begun, params(tmp_path / "skip"))
