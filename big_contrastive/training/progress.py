"""How far a run is, on the terminal."""

import sys
import time

import jax


class Progress:
  """A bar that is redrawn on a terminal, plain lines in a log; process 0.

  Args:
    total: steps of the run.
    start: the first step.
  """

  def __init__(self, total: int, start: int):
    self._total, self._start, self._began = total, start, time.monotonic()
    self._quiet = jax.process_index() != 0
    self._bar = sys.stderr.isatty()

  def show(self, step: int, values: dict[str, float]) -> None:
    """Shows how far the run is, and some figures."""
    if self._quiet:
      return
    done = step - self._start
    eta = (self._total - step) * (time.monotonic() - self._began) / max(1, done)
    figures = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    percent = 100 * step / self._total
    line = f"step {step}/{self._total} {percent:3.0f}%  {figures}"
    line += f"  ETA {int(eta) // 60}:{int(eta) % 60:02d}"
    if self._bar:
      filled = int(20 * step / self._total)
      bar = "#" * filled + "." * (20 - filled)
      print(f"\r[{bar}] {line}\x1b[K", end="", file=sys.stderr, flush=True)
    else:
      print(line, file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """Prints a line of its own."""
    if not self._quiet:
      print(("\r\x1b[K" if self._bar else "") + text, file=sys.stderr)

  def close(self) -> None:
    if self._bar and not self._quiet:
      print(file=sys.stderr)
