"""What the loop runs."""

import dataclasses
from collections.abc import Callable
from typing import Any

from big_contrastive.data.loader import training as training_loader
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.evals import Evaluator
from big_contrastive.inference import embedder
from big_contrastive.objectives import Objective
from big_contrastive.training import health, state, step
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
    config: as it was given, but plain and JSON-serializable.
    placed: the compiled step and where its state lies.
    objective: the method, which knows whose weights are evaluated.
    load: parameters -> parameters with the weights of config.init.
    training: batches.
    embedder: towers for the evaluators.
    evaluators: run functions by name.
    tokenizer: of the text tower; None without one.
    intervals: when to log, evaluate, save and stop.
    limits: what the figures are held against.
    batch_size: pairs a step.
    flops: model FLOPs of training on one pair.
    table: one line a parameter.
  """

  config: dict[str, Any]
  placed: step.Placed
  objective: Objective
  load: Callable[[dict[str, Any]], dict[str, Any]]
  training: training_loader.Training
  embedder: embedder.Embedder
  evaluators: dict[str, Evaluator]
  tokenizer: Tokenizer | None
  intervals: Intervals
  limits: health.Limits
  batch_size: int
  flops: float
  table: str

  def first(self) -> State:
    """Returns the state to begin with, config.init's weights in it."""
    state = self.placed.init()
    params = self.load(state.params)
    if params is state.params:
      return state
    return state._replace(params=params, extra=self.placed.init_extra(params))

  @property
  def blob(self) -> bytes:
    """The content of the tokenizer's vocabulary, b"" without one."""
    return self.tokenizer.blob if self.tokenizer else b""

  def weights(self, state: State) -> dict[str, Any]:
    """Returns the parameters to evaluate."""
    return self.objective.exported(state.params, state.extra)

  def meta(self, done: int) -> dict[str, Any]:
    """Returns what a checkpoint holds besides arrays, as JSON.

    Args:
      done: steps.
    """
    examples = done * self.batch_size
    meta = {
      "config": self.config,
      "tokenizer": self.tokenizer.spec if self.tokenizer else {},
      "position": {"examples": examples, "bad": self.training.counts(done)},
      "data": self.training.data,
    }
    exported = state.exported(self.objective, self.placed.abstract)
    return meta | ({"exported": exported} if exported else {})
