"""What happens to a run besides its metrics: events.jsonl in the workdir."""

import datetime
import json
import pathlib
from typing import Any

import jax

FILE = "events.jsonl"


class Events:
  """Adds a JSON line for each start, warning, skipped step and stop of a run.

  A line has the time (UTC), the step, the kind ("began", "resumed", "warning",
  "skipped" or "stopped") and a text; "began" and "resumed" also the steps of
  the run in all and the values of guessing. Only process 0 writes.

  Args:
    workdir: the run's folder.
  """

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / FILE

  def add(self, step: int, kind: str, text: str = "", **more: Any) -> None:
    """Adds a line."""
    if jax.process_index():
      return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": now, "step": step, "kind": kind, "text": text, **more}
    with self._path.open("ab+") as file:
      # A run that was killed may have left half of a line.
      if file.tell() and file.seek(-1, 2) and file.read() != b"\n":
        file.write(b"\n")
      file.write(json.dumps(line).encode() + b"\n")
