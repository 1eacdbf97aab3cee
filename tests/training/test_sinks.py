"""Sinks of metrics: what they get, and that none of them stops a run."""

import json
import os
import threading
import time
import types

import PIL.Image
import pytest
from tensorboardX.proto import event_pb2

from big_contrastive.config import errors, registry
from big_contrastive.factory import parts
from big_contrastive.training import delivery, metrics, sinks

PICTURE = PIL.Image.new("RGB", (4, 4))


class Kept(sinks.Sink):
  """Keeps what it gets in lists that a run's end survives."""

  def __init__(self, **does):
    super().__init__()
    self.begun, self.rows, self.pictures, self.closed = [], [], [], 0
    self.does = does

  def begin(self, start):
    self.begun.append(start)
    self.does.get("begin", lambda: None)()
    return self.does.get("id")

  def write(self, step, numbers):
    self.does.get("write", lambda: None)()
    self.rows.append((step, numbers))

  def picture(self, step, name, image):
    self.pictures.append((step, name))

  def close(self):
    self.closed += 1


class Rewinding(Kept):
  rewinds = True


class Run:
  """A writer and its sinks, as training/watch.py has them."""

  def __init__(self, folder, kept, step=0, evaluated=True, seconds=60.0):
    self.said, self.seconds = [], seconds
    start = sinks.Start(folder, "run", {"a": 1}, step, None)
    self.to = delivery.Deliveries(kept, start, self.said.append)
    self.writer = metrics.Writer(folder, step, evaluated, self.to.put)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.to.close(self.seconds)
    self.writer.close()


def raising():
  raise OSError("no route to host\nand more")


def test_several_sinks_get_all_that_the_file_gets(tmp_path):
  kept = {"one": Kept(), "two": Kept()}
  with Run(tmp_path, kept) as run:
    run.writer.write(1, {"train/loss": 2.5, "n": float("nan")})
    run.writer.write(2, {"eval/x": 1.0, "eval/sheet": PICTURE})
    run.writer.write(3, {"eval/sheet": PICTURE})
  for sink in kept.values():
    assert [step for step, _ in sink.rows] == [1, 2]
    assert sink.rows[0][1].keys() == {"train/loss", "n"}
    assert sink.rows[0][1]["n"] != sink.rows[0][1]["n"]
    assert sink.rows[1] == (2, {"eval/x": 1.0})
    assert sink.pictures == [(2, "eval/sheet"), (3, "eval/sheet")]
    (start,) = sink.begun
    assert start[1:] == ("run", {"a": 1}, 0, None) and sink.closed == 1
  assert not run.said


def test_a_sink_that_raises_loses_lines_and_says_so_once_and_at_the_end(
  tmp_path,
):
  kept = {"bad": Kept(write=raising), "good": Kept()}
  with Run(tmp_path, kept) as run:
    for step in range(5):
      run.writer.write(step, {"a": step})
  assert len(kept["good"].rows) == 5 and not kept["bad"].rows
  first, last = run.said
  why = "OSError: no route to host"
  assert first == (
    f"warning: sink bad: {why}. Training goes on; metrics.jsonl has all."
  )
  assert f"5 of 5 lines are not there: {why}" in last
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_sink_that_blocks_slows_nothing_and_its_queue_is_bounded(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(delivery, "_BOUND", 10)
  forever = threading.Event()
  kept = {"slow": Kept(write=forever.wait), "good": Kept()}
  began = time.monotonic()
  with Run(tmp_path, kept, seconds=0.1) as run:
    for step in range(50):
      run.writer.write(step, {"a": step})
      while len(kept["good"].rows) <= step:
        time.sleep(1e-3)
  assert time.monotonic() - began < 30  # A blocked sink would take forever.
  forever.set()
  assert "10 lines wait for it" in run.said[0]
  assert "sink slow: 50 of 50 lines" in run.said[1] and len(run.said) == 2


def test_a_sink_that_can_not_begin_tries_again_and_loses_nothing(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(delivery, "_AGAIN", 1e-3)
  left = [raising, raising, lambda: None]
  kept = {"late": Kept(begin=lambda: left.pop(0)())}
  with Run(tmp_path, kept) as run:
    run.writer.write(1, {"a": 1})
    until = time.monotonic() + 60
    while not kept["late"].rows and time.monotonic() < until:
      time.sleep(1e-3)
  assert len(kept["late"].begun) == 3 and len(kept["late"].rows) == 1
  assert len(run.said) == 1 and "OSError" in run.said[0]


def test_a_sink_that_never_begins_ends_with_the_run(tmp_path):
  kept = {"away": Kept(begin=raising)}
  began = time.monotonic()
  with Run(tmp_path, kept) as run:
    run.writer.write(1, {"a": 1})
  assert time.monotonic() - began < delivery._AGAIN / 2
  assert "1 of 1 lines" in run.said[-1]


def rows(folder, sink, step, evaluated=True, upto=4):
  """Writes train lines, and at step 2 two evaluations, from `step` on."""
  with Run(folder, {"it": sink}, step, evaluated) as run:
    for at in range(step, upto + 1):
      if at > step:
        run.writer.write(at, {"train/loss": at})
      if at == 2 and (at > step or not evaluated):
        run.writer.write(2, {"eval/sheet": PICTURE})
        run.writer.write(2, {"eval/x": 20})
  sink.said = run.said
  return sink


LINES = [
  (1, {"train/loss": 1.0}),
  (2, {"train/loss": 2.0}),
  (2, {"eval/x": 20.0}),
  (3, {"train/loss": 3.0}),
  (4, {"train/loss": 4.0}),
]


@pytest.mark.parametrize(
  ("step", "evaluated"), [(0, True), (2, False), (2, True), (3, True)]
)
def test_a_resumed_run_goes_on_with_the_same_one_and_repeats_no_line(
  step, evaluated, tmp_path
):
  first = rows(tmp_path, Kept(id="abc"), 0, upto=3)
  # Killed after step 3, resumed from a checkpoint at or before it.
  second = rows(tmp_path, Kept(id="abc"), step, evaluated)
  assert first.rows + second.rows == LINES
  assert (first.pictures + second.pictures).count((2, "eval/sheet")) == 1
  assert [start.id for start in first.begun + second.begun] == [None, "abc"]
  assert second.begun[0].step == step
  told = ["sink it goes on after step 3, which it has"] * (step < 3)
  assert not first.said and second.said == told


def test_one_that_rewinds_gets_them_again(tmp_path):
  first = rows(tmp_path, Rewinding(), 0)
  again = rows(tmp_path, Rewinding(), 2)
  assert first.rows == LINES and again.rows == LINES[3:]


def test_what_is_kept_of_them_may_be_damaged(tmp_path):
  (tmp_path / delivery.FILE).write_text('{"it": {"id"')
  sink = rows(tmp_path, Kept(id="abc"), 0)
  assert sink.begun[0].id is None and sink.rows == LINES
  kept = json.loads((tmp_path / delivery.FILE).read_text())
  assert kept == {"it": {"id": "abc", "at": [4, 0]}}


def test_tensorboard_has_scalars_and_pictures_by_step(tmp_path):
  sink = parts.sink({}, "tensorboard", used=True)
  rows(tmp_path, sink, 0)
  (file,) = (tmp_path / "tensorboard").iterdir()
  data, found = file.read_bytes(), []
  while data:  # Records of TFRecord: length, its CRC, bytes, their CRC.
    size = int.from_bytes(data[:8], "little")
    event = event_pb2.Event.FromString(data[12 : 12 + size])
    found += [(event.step, v.tag) for v in event.summary.value]
    data = data[16 + size :]
  assert (2, "eval/sheet") in found and len(found) == 6
  assert {step for step, tag in found if tag == "train/loss"} == {1, 2, 3, 4}


@pytest.mark.parametrize("name", registry.names("training.sinks"))
def test_a_sink_has_its_contract(name):
  made = registry.module("training.sinks", name, "").Sink
  assert issubclass(made, sinks.Sink) and made.__doc__
  assert made.write is not sinks.Sink.write


@pytest.mark.parametrize(
  ("section", "name", "said"),
  [
    ({}, "wandbb", "config.sinks.wandbb = 'wandbb'; .*'wandb'"),
    ({"name": "tensorbord"}, "a", "config.sinks.a.name = .*'tensorboard'"),
    ({"name": "gone.py"}, "a", "config.sinks.a.name = 'gone.py'"),
    ({"every": 5}, "tensorboard", "tensorboard.every = 5; expected no fields"),
    ({"projekt": "x"}, "wandb", "wandb.projekt = 'x'; .*'project'"),
    ({"project": 5}, "trackio", "config.sinks.trackio.project = 5"),
    (None, "wandb", "config.sinks.wandb is missing"),
    ("x", "wandb", "config.sinks.wandb = 'x'; expected a section"),
  ],
)
@pytest.mark.parametrize("used", [True, False])
def test_a_wrong_sink_is_one_line(section, name, said, used):
  with pytest.raises(errors.UserError, match=said) as e:
    parts.sink(section, name, used)
  assert "\n" not in str(e.value)


# With `used`: the library, and whom it finds there.
def library(monkeypatch, name, **attributes):
  monkeypatch.setitem(
    __import__("sys").modules, name, types.SimpleNamespace(**attributes)
  )


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_sink_without_its_library_is_one_line(name, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, name, None)
  section = {"project": "x"} if name == "trackio" else {}
  said = f"{name} = 'not there'.*pip install 'big_contrastive.{name}.'"
  with pytest.raises(errors.UserError, match=said):
    parts.sink(section, name, used=True)
  # Nor does a plan, or another process, need it.
  assert isinstance(parts.sink(section, name, used=False), sinks.Sink)


def test_wandb_without_an_account_is_one_line(monkeypatch):
  library(monkeypatch, "wandb", login=lambda prompt: prompt)
  monkeypatch.delenv("WANDB_MODE", raising=False)
  with pytest.raises(errors.UserError, match=r"wandb.mode = 'online'.*API_KEY"):
    parts.sink({"project": "x"}, "wandb", used=True)
  with pytest.raises(errors.UserError, match=r"wandb.mode = 'ofline'"):
    parts.sink({"mode": "ofline"}, "wandb", used=True)
  parts.sink({"mode": "offline"}, "wandb", used=True)
  monkeypatch.setenv("WANDB_MODE", "offline")
  parts.sink({}, "wandb", used=True)


def test_mlflow_without_a_store_is_one_line(monkeypatch):
  library(monkeypatch, "mlflow", MlflowClient=lambda uri: 1 / len(uri[3:]))
  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  for section, said in (
    ({}, "mlflow.uri is missing.*MLFLOW_TRACKING_URI"),
    ({"uri": "abc"}, "mlflow.uri = 'abc'.*It says: .*division"),
  ):
    with pytest.raises(errors.UserError, match=said):
      parts.sink(section, "mlflow", used=True)
  monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://x")
  parts.sink({}, "mlflow", used=True)


def test_a_file_elsewhere_is_a_sink(tmp_path):
  path = tmp_path / f"sink_of_mine_{os.getpid()}.py"
  path.write_text(
    "from big_contrastive.training import sinks\n"
    "class Sink(sinks.Sink):\n"
    "  def __init__(self, text: str):\n"
    "    self.text = text\n"
  )
  section = {"name": str(path), "text": "x"}
  assert parts.sink(section, "mine", used=True).text == "x"
  with pytest.raises(errors.UserError, match="config.sinks.mine.text = 5"):
    parts.sink(section | {"text": 5}, "mine", used=True)
