"""Numbers that are not finite, and figures that usually mean a mistake."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.objectives import Objective

# A run whose every step is skipped learns nothing, and should not last.
_SKIPPED_IN_A_ROW = 20


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a run's figures are held against.

  Args:
    objective: knows its loss of guessing, and what else looks wrong.
    warmup: steps after which the loss should have left that of guessing.
    skip_nonfinite: whether bad steps are skipped and counted.
  """

  objective: Objective
  warmup: int = 0
  skip_nonfinite: bool = False


class Health:
  """Watches the figures of a run.

  Args:
    limits: what they are held against.
    names: what each entry of metrics["finite"] is about; the parameters are
      looked at besides.
    folder: where batches with bad numbers are kept.
    skipped: steps that were skipped before a resume.
  """

  def __init__(
    self, limits: Limits, names: list[str], folder: pathlib.Path, skipped: int
  ):
    self.limits, self.folder = limits, folder
    self.names = [*names, "the parameters"]
    self.skipped, self._in_a_row = skipped, 0
    self._losses: list[float] = []
    self._told: set[str] = set()

  def check(
    self,
    step: int,
    fine: np.ndarray,
    param_norm: float,
    batch: dict[str, np.ndarray],
  ) -> str | None:
    """Returns a line where a step was skipped, None where all is finite.

    Args:
      step: its number.
      fine: bool [n], as `names` has it.
      param_norm: of the parameters before the step: a NaN that no example and
        no update touches is seen nowhere else.
      batch: this process's rows, and "position", int [b], of each in the data.

    Raises:
      RunError: where a number is not finite and steps are not to be skipped.
    """
    fine = np.append(fine, np.isfinite(param_norm))
    if fine.all():
      self._in_a_row = 0
      return None
    wrong = [n for n, ok in zip(self.names, fine, strict=True) if not ok]
    self.skipped += 1
    self._in_a_row += 1
    told = f"step {step}: not finite: {finite.listed(wrong)}."
    go_on = self._in_a_row < _SKIPPED_IN_A_ROW
    if self.limits.skip_nonfinite and go_on:
      return f"{told} Skipped; {self.skipped} steps in all."
    if self.limits.skip_nonfinite:
      told += f" That is {_SKIPPED_IN_A_ROW} skipped steps in a row."
    kept = self._keep(step, wrong, batch)
    raise errors.RunError(
      f"{told} The batch is in {kept}; checkpoints are of steps before. Lower "
      "the learning rate, look at these examples, or set "
      "config.skip_nonfinite.",
      errors.BAD_NUMBERS,
    )

  def _keep(self, step: int, wrong: list[str], batch: dict[str, Any]) -> str:
    """Writes what it takes to look at the step again."""
    self.folder.mkdir(parents=True, exist_ok=True)
    name = f"step_{step}_process_{jax.process_index()}"
    np.savez(self.folder / f"{name}.npz", **batch)
    what = {
      "step": step,
      "not_finite": wrong,
      "ids": batch["id"].tolist(),
      "positions": batch["position"].tolist(),
    }
    (self.folder / f"{name}.json").write_text(json.dumps(what) + "\n")
    return str(self.folder / f"{name}.npz")

  def warnings(
    self, step: int, values: dict[str, float], batch: dict[str, np.ndarray]
  ) -> list[str]:
    """Returns a line for each thing that looks wrong; each once in a run."""
    own = {k.removeprefix("train/"): v for k, v in values.items()}
    found = {
      "chance": self._chance(step, own["loss"]),
      **self.limits.objective.signs(own, batch),
    }
    new = {k: v for k, v in found.items() if v and k not in self._told}
    self._told |= new.keys()
    return [f"warning: step {step}: {line}" for line in new.values()]

  def _chance(self, step: int, loss: float) -> str | None:
    # Twice the warm-up: at its end a slow start is no mistake yet.
    chance = self.limits.objective.chance
    if chance is None or step <= max(100, 2 * self.limits.warmup):
      return None
    self._losses = [*self._losses, loss][-10:]
    mean = float(np.mean(self._losses))
    if len(self._losses) < 10 or not mean > 0.98 * chance:
      return None
    return (
      f"the loss, {mean:.3f} after warm-up, is that of guessing "
      f"({chance:.3f}). Usually captions stand beside the wrong "
      "images, or the learning rate is far too high or too low."
    )
