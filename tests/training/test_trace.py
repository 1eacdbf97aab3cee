"""Traces: which steps, where, at a signal; and the memory in the log."""

import os
import pathlib
import signal
import types

import jax
import jax.numpy as jnp
import pytest

from big_contrastive.config import errors, schema
from big_contrastive.parallel import signals
from big_contrastive.training import clock, hooks, memory, trace


class Profiler:
  """jax.profiler, as far as it is used."""

  def __init__(self, wrong=None):
    self.calls, self.wrong = [], wrong

  def start_trace(self, path):
    if self.wrong:
      raise self.wrong
    self.calls.append(("start", pathlib.Path(path).name))

  def stop_trace(self):
    self.calls.append("stop")


@pytest.fixture
def profiler(monkeypatch):
  def use(**kwargs):
    made = Profiler(**kwargs)
    for name in ("start_trace", "stop_trace"):
      monkeypatch.setattr(jax.profiler, name, getattr(made, name))
    return made

  return use


def tracer(folder, window=None):
  said = []
  return trace.Tracer(folder, window, str, said.append), said


def through(made, steps, signal_at=None, begin=0):
  """Takes the steps as the loop does."""
  for done in range(begin, steps):
    if made.over(done):
      made.end()
    if made.due(done + 1):
      made.begin(done + 1)
    if done + 1 == signal_at:
      os.kill(os.getpid(), trace.SIGNAL)
  made.end()


def test_the_steps_of_a_config_are_traced(profiler, tmp_path):
  calls = profiler().calls
  made, said = tracer(tmp_path, trace.Window(3, 2))
  seen = []
  for done in range(8):
    if made.over(done):
      seen.append(("over", done))
      made.end()
    if made.due(done + 1):
      seen.append(("due", done + 1))
      made.begin(done + 1)
  assert seen == [("due", 3), ("over", 4)]
  assert calls == [("start", "3"), "stop"]
  assert said == [f"trace: xprof {tmp_path}/3"]


def test_a_run_that_resumes_after_them_has_them_already(profiler, tmp_path):
  calls = profiler().calls
  through(tracer(tmp_path, trace.Window(3, 2))[0], 8, begin=3)
  assert not calls


def test_a_signal_traces_the_next_five_and_ends_nothing(profiler, tmp_path):
  calls = profiler().calls
  before = signal.getsignal(trace.SIGNAL)
  made, _ = tracer(tmp_path, trace.Window(2, 1))
  with made.listening():
    through(made, 20, signal_at=4)
    assert calls == [("start", "2"), "stop", ("start", "5"), "stop"]
    through(made, 40, signal_at=38, begin=30)  # Near its end: what there is.
  assert calls[4:] == [("start", "39"), "stop"]
  assert signal.getsignal(trace.SIGNAL) == before


def test_the_signal_is_kept_from_threads_and_workers():
  with signals.unheard():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
  assert trace.SIGNAL in mask
  assert trace.SIGNAL not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_another_process_traces_at_a_signal_alone(
  profiler, tmp_path, monkeypatch
):
  monkeypatch.setattr(jax, "process_index", lambda: 3)
  calls = profiler().calls
  made, _ = tracer(tmp_path, trace.Window(2, 1))
  with made.listening():
    through(made, 9, signal_at=5)
  assert calls == [("start", "6_process_3"), "stop"]


def test_a_trace_that_fails_is_a_line(profiler, tmp_path):
  profiler(wrong=RuntimeError("one is at work"))
  made, said = tracer(tmp_path, trace.Window(3, 2))
  through(made, 8)
  assert said == ["warning: no trace: RuntimeError: one is at work"]


def test_a_trace_of_one_process_reads_no_step():
  """To read one is to meet the others, who are a step further by then."""
  run, calls = object.__new__(hooks.Run), []
  pending = types.SimpleNamespace(step=3, values={"loss": jnp.ones(())})
  run.pending, run.settle, run._read = pending, None, None
  speed = types.SimpleNamespace(restart=lambda: calls.append("restart"))
  run.watch = types.SimpleNamespace(clock=clock.Clock(None, 0), speed=speed)
  run._trace(lambda: calls.append("trace"))
  assert calls == ["trace", "restart"]
  assert run.pending is pending and run.paused == 3
  run.watch.clock.close()


def test_xprof_finds_what_was_traced(tmp_path):
  made, said = tracer(tmp_path, trace.Window(1, 1))
  made.begin(1)
  jax.block_until_ready(jax.jit(jnp.sin)(1.0))
  made.end()
  assert len(said) == 1
  assert list(tmp_path.glob("1/plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize(
  ("section", "said"),
  [
    ({"first": 0}, "config.profile.first = 0; expected a whole number from 1"),
    ({"steps": 0}, "config.profile.steps = 0; expected a whole number from 1"),
    ({"first": "10%"}, "config.profile.first = '10%'; expected int"),
    ({"first": 2.5}, "config.profile.first = 2.5; expected int"),
    ({"first": True}, "config.profile.first = True; expected int"),
    ({"frist": 1}, "config.profile.frist = 1; .*'first'"),
    (
      {"first": 8, "steps": 4},
      "config.profile = 'steps 8 to 11'; expected steps of the run, which has",
    ),
  ],
)
def test_a_wrong_window_is_one_line(section, said):
  with pytest.raises(errors.UserError, match=said):
    window = schema.call(trace.Window, section, "config.profile")
    window.check(10, "config.profile")


class Device:
  def __init__(self, stats):
    self.memory_stats = lambda: stats


def test_the_log_has_the_fullest_device(monkeypatch):
  gib = 2**30
  stats = [
    {"bytes_in_use": 3 * gib, "peak_bytes_in_use": 5 * gib, "num_allocs": 1},
    {"bytes_in_use": 2 * gib, "peak_bytes_in_use": 7 * gib},
  ]
  monkeypatch.setattr(jax, "local_devices", lambda: [*map(Device, stats)])
  found = memory.used()
  assert found.pop("perf/host_memory_gib") > 0.05
  assert found == {
    "perf/device_memory_gib": 3.0, "perf/device_memory_peak_gib": 7.0
  }  # fmt: skip


def test_a_cpu_has_none_and_a_host_may_not_tell(monkeypatch, tmp_path):
  assert memory.used().keys() == {"perf/host_memory_gib"}
  monkeypatch.setattr(memory, "_STATM", tmp_path / "statm")
  assert memory.used() == {}
