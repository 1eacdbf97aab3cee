"""The writer survives a kill; peaks of known devices."""

import json

import PIL.Image
import pytest

from big_contrastive.training import flops, metrics, progress


def lines(folder):
  text = (folder / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_one_json_line_a_step_with_step_first(tmp_path):
  writer = metrics.Writer(tmp_path, 0)
  writer.write(1, {"train/loss": 2.5})
  writer.write(2, {"train/loss": 1.5, "picture": PIL.Image.new("RGB", (4, 4))})
  writer.close()
  assert lines(tmp_path) == [
    {"step": 1, "train/loss": 2.5}, {"step": 2, "train/loss": 1.5}
  ]  # fmt: skip
  first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
  assert first.startswith('{"step": 1,')
  assert (tmp_path / "pictures" / "picture.png").exists()


def test_lines_after_the_last_checkpoint_are_dropped_on_restart(tmp_path):
  writer = metrics.Writer(tmp_path, 0)
  for step in (1, 2, 3):
    writer.write(step, {"a": step})
  writer.close()
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write('{"step": 4, "a"')  # Killed while writing.
  writer = metrics.Writer(tmp_path, 2)
  writer.write(3, {"a": 30})
  writer.close()
  found = [(line["step"], line["a"]) for line in lines(tmp_path)]
  assert found == [(1, 1), (2, 2), (3, 30)]


def test_an_evaluation_that_was_not_finished_leaves_no_line(tmp_path):
  writer = metrics.Writer(tmp_path, 0)
  writer.write(1, {"eval/a": 1.0})
  writer.write(2, {"train/loss": 2.0})
  writer.write(2, {"eval/a": 2.0})
  writer.close()
  again = metrics.Writer(tmp_path, 2)
  again.close()
  assert again.latest == {"train/loss": 2.0, "eval/a": 2.0}
  undone = metrics.Writer(tmp_path, 2, evaluated=False)
  undone.close()
  assert undone.latest == {"train/loss": 2.0, "eval/a": 1.0}
  assert [row["step"] for row in lines(tmp_path)] == [1, 2]


def test_what_is_not_finite_is_still_json(tmp_path):
  writer = metrics.Writer(tmp_path, 0)
  writer.write(1, {"a": float("nan"), "b": float("-inf"), "c": 1.0})
  writer.close()
  text = (tmp_path / "metrics.jsonl").read_text()

  def refuse(constant):
    raise AssertionError(constant)

  row = json.loads(text, parse_constant=refuse)
  assert row == {"step": 1, "a": None, "b": None, "c": 1.0}


@pytest.mark.parametrize(
  ("kind", "peak"),
  [
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("cpu", None),
  ],
)
def test_the_peak_is_that_of_the_device(kind, peak):
  assert flops.peak_flops(kind) == peak


def test_mfu_is_rate_times_flops_over_peak(monkeypatch):
  monkeypatch.setattr(flops, "peak_flops", lambda kind: 1e9)
  clock = iter([0.0, 10.0, 10.0])
  monkeypatch.setattr(flops.time, "monotonic", lambda: next(clock))
  speed = flops.Speed(batch_size=100, flops=4e6)
  for _ in range(5):
    speed.step()
  values = speed.read()
  assert values["perf/images_per_s"] == 50
  devices = metrics.jax.device_count()
  assert values["perf/mfu"] == pytest.approx(50 * 4e6 / (1e9 * devices))


def test_progress_prints_plain_lines_in_a_log(capsys):
  shown = progress.Progress(total=10, start=0)
  shown.show(5, {"train/loss": 0.5})
  out = capsys.readouterr().err
  assert out.startswith("step 5/10  50%  train/loss 0.5  ETA 00:00")
  assert "\r" not in out
