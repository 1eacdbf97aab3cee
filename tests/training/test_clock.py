"""What wall time goes to adds up to it, over kills and restarts too."""

import json
import threading

import pytest

from big_contrastive.training import clock


@pytest.fixture
def time(monkeypatch):
  """time(seconds): lets time go by, of both clocks."""
  now = [1000.0]
  monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(clock.time, "time", lambda: 1e9 + now[0])

  def go_by(seconds):
    now[0] += seconds

  return go_by


def spent(made):
  made.enter("step")
  return {k: v for k, v in made.seconds.items() if v}


def test_what_is_inside_is_not_counted_outside(time):
  made = clock.Clock(None, 0)
  time(1)
  made.enter("compile")
  time(2)
  made.enter("step")
  time(4)
  with made.of("evaluation"):
    time(8)
    with made.of("step"):
      time(16)
    time(32)
  time(64)
  with pytest.raises(OSError), made.of("save"):
    time(128)
    raise OSError
  assert spent(made) == {
    "start": 1, "compile": 2, "step": 84, "evaluation": 40, "save": 128
  }  # fmt: skip
  assert made.read() == {"perf/goodput": 84 / 255, "perf/hours": 84 / 3600}


class Result:
  """An array that is there when it is told to be."""

  def __init__(self):
    self.ready = threading.Event()

  def block_until_ready(self):
    assert self.ready.wait(10)


def finish(made, result):
  result.ready.set()
  while made.device._done < made.device._given:
    pass


def test_a_wait_for_a_batch_counts_once_the_device_is_idle(time):
  """Not before: it is busy with a step, and nothing is lost."""
  made, busy = clock.Clock(None, 0), Result()
  made.enter("step")
  made.device.give(busy)
  with made.waiting():
    time(5)  # All the while it computes.
  assert spent(made) == {"step": 5}
  with made.waiting():
    time(3)
    finish(made, busy)
    time(4)  # It has nothing to do any more.
  assert spent(made) == {"step": 8, "input": 4}
  time(1)
  with made.waiting():
    time(2)  # It has been idle before.
  assert spent(made) == {"step": 9, "input": 6}
  made.close()


def test_the_first_batch_is_of_the_start(time):
  made = clock.Clock(None, 0)
  with made.waiting():
    time(5)
  made.enter("step")
  assert spent(made) == {"start": 5}


def run(file, begin, end, time, save=(), stop=False):
  """A second a step, as one that is killed after its last; 10 to begin."""
  made = clock.Clock(file, begin)
  time(10)
  made.enter("step")
  for step in range(begin + 1, end + 1):
    time(1)
    if step in save:
      with made.of("save"):
        made.saved(step)
        time(2)
    made.read()
  if stop:
    made.saved(end)
    made.close()
  return made


def test_what_a_kill_undoes_and_the_time_until_the_restart_are_lost(
  tmp_path, time
):
  file = tmp_path / clock.FILE
  run(file, 0, 9, time, save=(4, 8))
  time(100)
  made = run(file, 8, 12, time, save=(12,))
  # Of the first: 10 to begin, 8 steps, a save; lost are a save that was not
  # yet known, a step, and 100 seconds.
  assert spent(made) == {
    "start": 20, "step": 8 + 4, "save": 2 + 2, "lost": 2 + 1 + 100
  }  # fmt: skip
  # Each step that remains counts once in the hours, and no pause.
  assert made.read() == {"perf/goodput": 12 / 139, "perf/hours": 12 / 3600}
  # The checkpoint of step 12 is damaged: that of 8 is taken.
  time(1000)
  again = run(file, 8, 8, time)
  assert sum(spent(again).values()) == 139 + 1000 + 10
  assert again.seconds["step"] == 8


def test_a_run_that_starts_over_has_lost_everything(tmp_path, time):
  file = tmp_path / clock.FILE
  run(file, 0, 3, time)
  made = run(file, 0, 1, time)
  assert spent(made) == {"start": 10, "step": 1, "lost": 13}


def test_killed_before_its_first_line_it_has_lost_that_too(tmp_path, time):
  file = tmp_path / clock.FILE
  clock.Clock(file, 0)
  time(50)
  assert spent(run(file, 0, 1, time)) == {"start": 10, "step": 1, "lost": 50}


def test_a_run_that_was_stopped_loses_only_the_pause(tmp_path, time):
  file = tmp_path / clock.FILE
  run(file, 0, 5, time, stop=True)
  time(30)
  assert spent(run(file, 5, 6, time)) == {"start": 20, "step": 6, "lost": 30}


def test_after_its_end_no_time_is_lost(tmp_path, time):
  file = tmp_path / clock.FILE
  first = run(file, 0, 5, time, save=(5,))
  first.saved(5)
  first.finished = True
  first.close()
  time(1e6)
  longer = run(file, 5, 6, time)
  assert spent(longer) == {"start": 20, "step": 6, "save": 2}


def test_the_table_has_every_share_and_the_whole(time):
  made = clock.Clock(None, 0)
  made.enter("step")
  time(75)
  made.enter("save")
  time(25)
  whole, *rows = made.table()
  assert whole == "wall time 100.0 s"
  assert [row.split() for row in rows] == [
    ["step", "75.0", "%", "75.0", "s"], ["save", "25.0", "%", "25.0", "s"]
  ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", '{"time": 1'])
def test_times_that_are_damaged_begin_anew(text, tmp_path, time):
  (tmp_path / clock.FILE).write_text(text)
  assert spent(run(tmp_path / clock.FILE, 3, 4, time)) == {
    "start": 10, "step": 1
  }  # fmt: skip


def test_times_that_can_not_be_written_end_no_run(tmp_path, time, caplog):
  made = run(tmp_path / "gone" / clock.FILE, 0, 2, time)
  assert spent(made)["step"] == 2 and "gone" in caplog.text


def test_they_are_written_seldom_and_whole(tmp_path, time):
  file = tmp_path / clock.FILE
  made = clock.Clock(file, 0)
  written = []
  for _ in range(40):
    time(0.125)
    made.read()
    written.append(json.loads(file.read_text())["time"])
  assert 4 <= len(set(written)) <= 6
