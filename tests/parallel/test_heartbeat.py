"""A process that dies is named, and the others end; the watch, by itself."""

import pytest

from big_contrastive.config import errors
from big_contrastive.parallel import heartbeat


class Store:
  """The key-value store of jax.distributed, and its clock."""

  def __init__(self, monkeypatch):
    self.values, self.time, self.gone = {}, 0.0, False
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: self.time)
    monkeypatch.setattr(heartbeat.distributed.global_state, "client", self)
    monkeypatch.setattr(heartbeat.jax, "process_count", lambda: 3)

  def watch(self, index, monkeypatch):
    monkeypatch.setattr(heartbeat.jax, "process_index", lambda: index)
    return heartbeat._Watch()

  def key_value_set(self, key, value, allow_overwrite):
    assert allow_overwrite
    if self.gone:
      raise ConnectionError
    self.values[key] = value

  def key_value_dir_get(self, folder):
    if self.gone:
      raise ConnectionError
    return [(k, v) for k, v in self.values.items() if k.startswith(folder)]


@pytest.fixture
def three(monkeypatch):
  """A store and the watches of three processes."""
  store = Store(monkeypatch)
  watches = [store.watch(i, monkeypatch) for i in range(3)]
  return store, watches


def pass_time(store, watches, seconds, alive):
  for _ in range(int(seconds)):
    store.time += 1
    for i in alive:
      watches[i].tell()


def test_the_silent_one_is_named_to_all(three):
  store, watches = three
  pass_time(store, watches, 100, alive=(0, 1, 2))
  assert all(w.verdict is None for w in watches)
  pass_time(store, watches, heartbeat._PATIENCE - 2, alive=(0, 2))
  assert all(w.verdict is None for w in watches)
  pass_time(store, watches, 5, alive=(0, 2))
  for i in (0, 2):
    assert watches[i].verdict.startswith("process 1 of 3 (pid ")
    assert "silent for 6" in watches[i].verdict


def test_after_a_failed_collective_patience_is_shorter(three):
  store, watches = three
  pass_time(store, watches, 10, alive=(0, 1, 2))
  watches[0].patience = heartbeat._SUSPICION
  pass_time(store, watches, heartbeat._SUSPICION + 3, alive=(0, 1))
  assert watches[1].verdict.startswith("process 2 of 3")


def test_who_ends_with_an_error_is_named_with_it(three):
  store, watches = three
  pass_time(store, watches, 3, alive=(0, 1, 2))
  watches[2].ended("error: no such file", 2)
  pass_time(store, watches, 3, alive=(0, 1))
  for i in (0, 1):
    assert "process 2 of 3" in watches[i].verdict
    assert "exit code 2: error: no such file" in watches[i].verdict


@pytest.mark.parametrize("code, theirs", [(1, 4), (2, 2), (3, 3), (4, 4)])
def test_all_say_whether_to_begin_again_helps(code, theirs, three, monkeypatch):
  store, watches = three
  pass_time(store, watches, 3, alive=(0, 1, 2))
  watches[2].ended("error: something", code)
  pass_time(store, watches, 3, alive=(0, 1))
  ended = []
  monkeypatch.setattr(heartbeat.time, "sleep", lambda seconds: None)
  monkeypatch.setattr(heartbeat, "leave", lambda *a: ended.append(a))
  for i in (0, 1):
    watches[i].guard()
  assert [c for _, c in ended] == [theirs, theirs]


def test_what_process_0_ends_with_the_others_hear(three, monkeypatch):
  store, watches = three

  def sleep(seconds):  # While process 0 waits for the others to hear it.
    pass_time(store, watches, 1, alive=(1, 2))

  monkeypatch.setattr(heartbeat.time, "sleep", sleep)
  pass_time(store, watches, 3, alive=(0, 1, 2))
  watches[0].ended("error: the disk is full", 2)
  for i in (1, 2):
    assert "process 0 of 3" in watches[i].verdict
    assert "exit code 2: error: the disk is full" in watches[i].verdict


def test_who_has_saved_and_ended_is_not_missed(three):
  store, watches = three
  pass_time(store, watches, 3, alive=(0, 1, 2))
  watches[1].ended("stopped by SIGTERM", errors.SAVED_AT_SIGTERM)
  pass_time(store, watches, 300, alive=(0, 2))
  assert watches[0].verdict is None and watches[2].verdict is None


@pytest.mark.parametrize("first", [0, 1])
def test_who_is_stopped_before_all_agree_ends_the_others_likewise(
  first, three, monkeypatch
):
  store, watches = three
  others = [i for i in range(3) if i != first]

  def sleep(seconds):  # While it waits for the others to hear it.
    pass_time(store, watches, 1, alive=others)

  monkeypatch.setattr(heartbeat.time, "sleep", sleep)
  pass_time(store, watches, 3, alive=(0, 1, 2))
  watches[first].stop("stopped by SIGTERM", errors.SAVED_AT_SIGTERM)
  pass_time(store, watches, 3, alive=others)
  ended = []
  monkeypatch.setattr(heartbeat, "leave", lambda *a: ended.append(a))
  for i in others:
    watches[i].guard()
  for line, code in ended:
    assert code == errors.SAVED_AT_SIGTERM == 75
    assert line.startswith(f"error: process {first} of 3 (pid ")
    assert "was stopped by SIGTERM. The same command" in line
  assert len(ended) == 2


def test_a_process_0_that_is_silent_ends_the_others(three, monkeypatch, capsys):
  """Its store does not answer any more."""
  store, watches = three
  pass_time(store, watches, 3, alive=(0, 1, 2))
  store.gone = True
  ended = []
  monkeypatch.setattr(heartbeat, "leave", lambda *a: ended.append(a))

  def sleep(seconds):
    store.time += seconds
    watches[2].tell()

  monkeypatch.setattr(heartbeat.time, "sleep", sleep)
  watches[2].guard()
  ((line, code),) = ended
  assert code == errors.PROCESS_DIED == 4
  assert "process 0 of 3 is silent" in line and "newest checkpoint" in line
  assert line in capsys.readouterr().err


def test_jax_still_has_the_door_to_the_key_value_store():
  """No public name leads there (jax 0.10.2)."""
  client = heartbeat.distributed.global_state.client
  assert client is None  # Of one process; else it has these:
  methods = vars(heartbeat.distributed._jax.DistributedRuntimeClient)
  assert {"key_value_set", "key_value_dir_get"} <= methods.keys()
