"""Shows the progress of a run on the terminal."""

import sys
import time

import jax
import tqdm


class Progress:
  """A bar on a terminal, plain lines in a log; only process 0 writes.

  Args:
    total: steps of the run.
    start: the first step.
  """

  def __init__(self, total: int, start: int):
    self._quiet = jax.process_index() != 0
    self._total, self._start, self._began = total, start, time.monotonic()
    self._bar: tqdm.tqdm | None = None
    if sys.stderr.isatty() and not self._quiet:
      self._bar = tqdm.tqdm(
        total=total, initial=start, unit="step", dynamic_ncols=True
      )

  def show(self, step: int, values: dict[str, float]) -> None:
    """Shows the progress of the run, and some metrics."""
    figures = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    if self._bar is not None:
      self._bar.set_postfix_str(figures, refresh=False)
      self._bar.update(step - self._bar.n)
    elif not self._quiet:
      done = step - self._start
      left = self._total - step
      eta = left * (time.monotonic() - self._began) / max(1, done)
      percent = 100 * step / self._total
      line = f"step {step}/{self._total} {percent:3.0f}%  {figures}"
      line += f"  ETA {tqdm.tqdm.format_interval(eta)}"
      print(line, file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """Prints text on a line of its own."""
    if not self._quiet:
      tqdm.tqdm.write(text, file=sys.stderr)

  def close(self) -> None:
    """Leaves the bar as it is; later output begins on a new line."""
    if self._bar is not None:
      self._bar.close()
