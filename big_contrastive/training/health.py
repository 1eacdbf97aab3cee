"""Stops on numbers that are not finite; warns of what is usually a mistake."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.objectives import Objective

# A run that skips every step learns nothing, and should end.
_SKIPPED_IN_A_ROW = 20


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a run's metrics are checked against.

  Args:
    objective: gives its loss of guessing, and its own signs of mistakes.
    warmup: steps after which the loss should have left that of guessing.
    skip_nonfinite: whether bad steps are skipped and counted.
  """

  objective: Objective
  warmup: int = 0
  skip_nonfinite: bool = False


class Health:
  """Watches the metrics of a run.

  Args:
    limits: what they are checked against.
    names: what each entry of metrics["finite"] checks; the parameters are
      checked, too.
    folder: where batches with bad numbers are kept.
    named: returns where a user finds a file of that folder.
    skipped: steps that were skipped before a resume.
  """

  def __init__(
    self,
    limits: Limits,
    names: list[str],
    folder: pathlib.Path,
    named: Callable[[pathlib.Path], str],
    skipped: int,
  ):
    self.limits, self.folder, self._named = limits, folder, named
    self.names = [*names, "the parameters"]
    self.skipped, self._in_a_row = skipped, 0
    self._values: dict[str, list[float]] = {}
    self._warned: set[str] = set()

  def check(
    self,
    step: int,
    is_finite: np.ndarray,
    param_norm: float,
    batch: dict[str, np.ndarray],
  ) -> str | None:
    """Returns a line if the step was skipped, None if all is finite.

    Args:
      step: its number.
      is_finite: bool [n], in the order of `names`.
      param_norm: norm of the parameters before the step. Only it shows a NaN
        that no example and no update touches.
      batch: this process's rows, and "position", int [b], of each in the data.

    Raises:
      RunError: if a number is not finite and the step must not be skipped.
    """
    is_finite = np.append(is_finite, np.isfinite(param_norm))
    if is_finite.all():
      self._in_a_row = 0
      return None
    wrong = [n for n, ok in zip(self.names, is_finite, strict=True) if not ok]
    self.skipped += 1
    self._in_a_row += 1
    message = f"step {step}: not finite: {finite.listed(wrong)}."
    may_skip = self._in_a_row < _SKIPPED_IN_A_ROW
    if self.limits.skip_nonfinite and may_skip:
      return f"{message} Skipped; {self.skipped} steps in all."
    if self.limits.skip_nonfinite:
      message += f" That is {_SKIPPED_IN_A_ROW} skipped steps in a row."
    path = self._save_batch(step, wrong, batch)
    raise errors.RunError(
      f"{message} The batch is in {path}; checkpoints are of steps before. "
      "Lower the learning rate, look at these examples, or set "
      "config.skip_nonfinite.",
      errors.BAD_NUMBERS,
    )

  def _save_batch(
    self, step: int, wrong: list[str], batch: dict[str, Any]
  ) -> str:
    """Writes the step's batch, so that it can be examined; returns the path."""
    self.folder.mkdir(parents=True, exist_ok=True)
    name = f"step_{step}_process_{jax.process_index()}"
    np.savez(self.folder / f"{name}.npz", **batch)
    about = {
      "step": step,
      "not_finite": wrong,
      "positions": batch["position"].tolist(),
    }
    if "id" in batch:
      about["ids"] = batch["id"].tolist()
    (self.folder / f"{name}.json").write_text(json.dumps(about) + "\n")
    return self._named(self.folder / f"{name}.npz")

  def warnings(
    self, step: int, values: dict[str, float], batch: dict[str, np.ndarray]
  ) -> list[str]:
    """Returns a line for each sign of a mistake, each once in a run."""
    metrics = {k.removeprefix("train/"): v for k, v in values.items()}
    signs = {
      **{
        f"chance of {name}": self._chance(step, name, metrics[name], chance)
        for name, chance in self.limits.objective.chances.items()
        if name in metrics
      },
      **self.limits.objective.signs(metrics, batch),
    }
    new = {k: v for k, v in signs.items() if v and k not in self._warned}
    self._warned |= new.keys()
    return [f"warning: step {step}: {line}" for line in new.values()]

  def _chance(
    self, step: int, name: str, value: float, chance: float
  ) -> str | None:
    # Twice the warm-up: at its end a slow start is no mistake yet.
    if step <= max(100, 2 * self.limits.warmup):
      return None
    values = [*self._values.get(name, []), value][-10:]
    self._values[name], mean = values, float(np.mean(values))
    if len(values) < 10 or not mean > 0.98 * chance:
      return None
    named = "the loss" if name == "loss" else name
    return (
      f"{named}, {mean:.3f} after warm-up, is that of guessing "
      f"({chance:.3f}). Usually the learning rate is far too high or too low; "
      "or captions stand beside the wrong images."
    )
