"""SIGTERM and Ctrl-C at any moment of a command: what it says and leaves."""

import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import killing
from big_contrastive.parallel import signals

CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}

# Runs a command that sends a signal to its whole process group when it comes
# to a function, or none. Ctrl-C is heard, even where pytest is not to hear it.
COMMAND = """
import functools, importlib, os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
module, place, number = sys.argv[1:4]
sys.argv[1:4] = []
if place:
  holder, _, name = place.partition(":")
  *path, name = name.split(".")
  holder = functools.reduce(getattr, path, importlib.import_module(holder))
  original, sent = getattr(holder, name), []
  def sending(*args, **kwargs):
    if not sent:
      sent.append(os.killpg(0, int(number)))
    return original(*args, **kwargs)
  setattr(holder, name, sending)
runpy.run_module(f"big_contrastive.{module}", run_name="__main__")
"""


class Run:
  """A command in a process group of its own."""

  def __init__(self, folder, module, *flags, at="", number=0, **environment):
    self.out, self.err = folder / "out", folder / "err"
    alone = {"JAX_NUM_CPU_DEVICES": "1", "PJRT_NPROC": "16"}
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, module, at]
    with self.out.open("w") as out, self.err.open("w") as err:
      self.process = subprocess.Popen(
        [*command, str(int(number)), *map(str, flags)], cwd=killing.ROOT,
        env=os.environ | alone | environment, stdout=out, stderr=err,
        start_new_session=True,
      )  # fmt: skip

  def hears(self):
    """Waits until it has begun to hear SIGTERM."""

    def heard():
      status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
      caught = re.search(r"SigCgt:\s*(\w+)", status)
      return bool(caught and int(caught[1], 16) >> signal.SIGTERM - 1 & 1)

    killing.wait_until(self.process, heard)
    return self

  def end(self, number):
    """Checks how it ends that was sent a signal; returns whether it had."""
    code, said = self.process.wait(timeout=900), self.err.read_text()
    assert code in (0, CODES[number]), (code, said)
    for word in ("Traceback", "Exception ignored", "Interrupt", "leaked"):
      assert word not in said, said
    lines = [x for x in said.splitlines() if x.startswith("error: ")]
    named = f"error: stopped by {number.name}: "
    assert len(lines) == bool(code) and said.count(named) == bool(code), said
    until = time.monotonic() + 300
    while left := group(self.process.pid):
      assert time.monotonic() < until, left
      time.sleep(0.05)
    return code == 0


def group(leader):
  """What lives of a process group."""
  listed = subprocess.run(
    ["ps", "-o", "stat=,args=", "-s", str(leader)],
    capture_output=True, text=True, check=False,
  ).stdout.splitlines()  # fmt: skip
  return [line for line in listed if line[0] != "Z"]


def swept(number_of_runs, begin, took):
  """Yields runs that were sent a signal at random moments, and which."""
  rng = random.Random(0)
  for i in range(number_of_runs):
    run, number = begin(), list(CODES)[i % 2]
    run.hears()
    time.sleep(rng.uniform(0, took))
    if run.process.poll() is None:
      os.killpg(run.process.pid, number)
    yield run, number


FLAGS = [
  "--config", "configs/siglip.py:smoke", "--config.total=8",
  "--config.eval_every=4", "--config.save_every=3",
  "--config.model.dtype=float32", "--config.loading.workers=2",
]  # fmt: skip


def train(folder, workdir, **options):
  return Run(folder, "train", *FLAGS, "--workdir", workdir, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run's workdir."""
  folder = tmp_path_factory.mktemp("whole")
  run = train(folder, folder / "w").hears()
  assert run.end(signal.SIGTERM), run.err.read_text()
  return folder / "w"


@pytest.mark.parametrize("number", CODES)
def test_before_it_has_built_anything_a_command_ends_at_once(number, tmp_path):
  place = "big_contrastive.config.files:load_config"
  run = train(tmp_path, tmp_path / "w", at=place, number=number)
  assert not run.end(number)
  assert not (tmp_path / "w").exists()


# Where a run is, which of the steps it has saved then.
MOMENTS = [
  ("big_contrastive.data.synthetic.drawing:draw", None),
  ("big_contrastive.factory.experiment:build", None),
  ("big_contrastive.training.loop:_begin", None),
  ("multiprocessing.popen_spawn_posix:Popen._launch", None),
  ("big_contrastive.training.step:Step.update", 1),  # Compiling.
  ("big_contrastive.checkpoints.checkpointer:Checkpoints.restore", 1),
  ("big_contrastive.inference.embedder:Embedder.images", 4),
  ("big_contrastive.checkpoints.checkpointer:Checkpoints.save", 7),
  ("big_contrastive.checkpoints.checkpointer:Checkpoints.wait", 8),
]


@pytest.mark.slow
def test_at_each_moment_of_a_run_it_stops_and_goes_on(whole, tmp_path):
  """One after the other on the same workdir, by either signal in turn."""
  workdir = tmp_path / "w"
  data = {"BIG_CONTRASTIVE_DATA": str(tmp_path / "data")}
  for i, (place, saved) in enumerate(MOMENTS):
    number = list(CODES)[i % 2]
    run = train(tmp_path, workdir, at=place, number=number, **data)
    finished = run.end(number)
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")]
    assert max(steps, default=None) == saved, (place, run.err.read_text())
    assert finished == (saved == 8), (place, run.err.read_text())
    assert not killing.saving(workdir)
  killing.assert_same_bits(whole, workdir)


def flags_of(whole):
  data = "shapes:split=heldout,train_size=512,size=32"
  return ["--checkpoint", whole, "--data", data]


@pytest.mark.slow
def test_evaluate_prints_all_figures_or_none(whole, tmp_path):
  def begin():
    return Run(tmp_path, "evaluate", *flags_of(whole), "--task", "retrieval")

  began = time.monotonic()
  run = begin()
  assert run.hears().end(signal.SIGTERM), run.err.read_text()
  took, printed = time.monotonic() - began, run.out.read_text()
  assert printed.startswith('{"retrieval/')
  for run, number in swept(2, begin, took):
    # It may have printed all and not be gone yet.
    assert run.end(number) <= (run.out.read_text() == printed)
    assert run.out.read_text() in ("", printed)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_embed_leaves_nothing_half_written(number, whole, tmp_path):
  """At a random moment, and when a part of it lies on disk."""
  folder = tmp_path / "vectors"
  folder.mkdir()
  out = "--out", folder / "out"
  run = Run(
    tmp_path, "embed", *flags_of(whole), *out,
    at="pyarrow.parquet:write_table", number=number,
  )  # fmt: skip
  assert not run.end(number)
  assert os.listdir(folder / "out") == ["about.json"]

  def begin():
    return Run(tmp_path, "embed", *flags_of(whole), *out)

  began = time.monotonic()
  assert begin().hears().end(number)
  took, made = time.monotonic() - began, sorted(os.listdir(folder / "out"))
  assert made == ["about.json", "part-00000.parquet"]
  expected = (folder / "out" / made[1]).read_bytes()
  shutil.rmtree(folder / "out")
  for run, sent in swept(2, begin, took):
    done, there = run.end(sent), set()
    if (folder / "out").exists():
      there = set(os.listdir(folder / "out"))
    assert there <= set(made) and (not done or there == set(made))
    if made[1] in there:
      assert (folder / "out" / made[1]).read_bytes() == expected
      shutil.rmtree(folder / "out")


@pytest.mark.parametrize("number", CODES)
def test_pack_leaves_nothing_half_written(number, tmp_path):
  flags = "--data", "shapes:split=heldout,train_size=512,size=32", "--out"
  folder = tmp_path / "packed"
  at = "tarfile:TarFile.addfile"  # Of the first record.
  run = Run(
    tmp_path, "pack", *flags, folder / "x.tar", at=at, number=number
  )  # fmt: skip
  assert not run.end(number) and not [*folder.iterdir()]


def ends_itself():
  for number in CODES:
    os.kill(os.getpid(), number)
  os._exit(7)


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_what_begins_unheard_is_never_ended_by_them(kind):
  process = multiprocessing.get_context(kind).Process(target=ends_itself)
  with signals.unheard():
    process.start()
  process.join()
  assert process.exitcode == 7


def test_a_command_that_has_no_steps_yet_outlives_a_request_for_a_trace():
  code = (
    "import os, signal; from big_contrastive.parallel import signals;"
    "signals.end_at_once(); os.kill(os.getpid(), signal.SIGUSR1); print(7)"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], cwd=killing.ROOT, capture_output=True
  )
  assert (run.returncode, run.stdout, run.stderr) == (0, b"7\n", b"")
