"""What the loop runs."""

import dataclasses
from collections.abc import Callable
from typing import Any

from big_contrastive.data.loader import training as training_loader
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.factory import evaluators
from big_contrastive.inference import embedder
from big_contrastive.training import health, step
from big_contrastive.training.state import State


@dataclasses.dataclass(frozen=True)
class Intervals:
  """When the loop does what, in steps; 0 for only at the end.

  It saves after save_minutes since the last save, too; 0 for never.
  """

  total: int
  log_every: int
  eval_every: int
  save_every: int
  save_minutes: float
  keep: int
  keep_every: int


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What `loop.fit` runs.

  Args:
    config: as it was given, but plain and JSON-serialisable.
    placed: the compiled step and where its state lies.
    load: state -> state with the pretrained weights of config.init.
    training: batches.
    embedder: towers for the evaluators.
    evaluators: run functions by name.
    tokenizer: of the text tower.
    intervals: when to log, evaluate, save and stop.
    limits: what the figures are held against.
    batch_size: pairs a step.
    flops: model FLOPs of training on one pair.
    table: one line a parameter.
  """

  config: dict[str, Any]
  placed: step.Placed
  load: Callable[[State], State]
  training: training_loader.Training
  embedder: embedder.Embedder
  evaluators: dict[str, evaluators.Evaluator]
  tokenizer: Tokenizer
  intervals: Intervals
  limits: health.Limits
  batch_size: int
  flops: float
  table: str

  def meta(self, done: int) -> dict[str, Any]:
    """Returns what a checkpoint holds besides arrays, as JSON.

    Args:
      done: steps.
    """
    examples = done * self.batch_size
    return {
      "config": self.config,
      "tokenizer": self.tokenizer.spec,
      "position": {"examples": examples, "bad": self.training.counts(done)},
      "data": self.training.data,
    }
