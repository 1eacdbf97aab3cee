"""What a run says at its end, on one screen."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import PIL.Image

from big_contrastive.training.experiment import Experiment


def lines(
  done: int,
  experiment: Experiment,
  latest: Mapping[str, Any],
  picture: Callable[[str], str],
) -> Iterator[str]:
  """Yields the last figures, and where the pictures are.

  Args:
    done: steps of the run.
    experiment: gives the batch size and the evaluators' names.
    latest: the last value of each name.
    picture: returns where a user finds the picture of a name.
  """
  examples, loss = done * experiment.batch_size, latest.get("train/loss")
  yield f"\nfinished {done} steps of {examples:,} examples in all, loss {loss}"
  for name in experiment.evaluators:
    prefix = f"eval/{name}/"
    results = {k: v for k, v in latest.items() if k.startswith(prefix)}
    yield line(name, results)
    for key, value in results.items():
      if isinstance(value, PIL.Image.Image):
        yield f"{'':34}{picture(key)}"


def line(name: str, values: Mapping[str, Any]) -> str:
  """Returns one evaluator's metrics on one line."""
  figures = [
    f"{key.rpartition('/')[2]} {value:.4f}"
    for key, value in values.items()
    if isinstance(value, float)
  ]
  return f"{name:34}" + "  ".join(figures)
