"""The experiment that the loop runs."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from big_contrastive.config import rules
from big_contrastive.data.loader import training as training_loader
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.evals import Evaluator
from big_contrastive.inference import embedder
from big_contrastive.models import lora
from big_contrastive.objectives import Objective
from big_contrastive.training import health, sinks, state, step, trace
from big_contrastive.training.state import State


@dataclasses.dataclass(frozen=True)
class Intervals:
  """The loop's intervals in steps; 0 means only at the end.

  It also saves save_minutes after the last save; 0 means never.
  """

  total: int
  log_every: int
  eval_every: int
  save_every: int
  save_minutes: float
  keep: int
  keep_every: int


class Begin(NamedTuple):
  """Where a run begins or resumes."""

  step: int
  evaluated: bool = True  # The evaluation that is due at this step is over.
  skipped: int = 0  # Steps whose numbers were not finite.


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What `loop.fit` runs.

  Args:
    config: the user's, but plain and JSON-serializable.
    placed: the compiled step and the shardings of its state.
    objective: see objectives/; it chooses the weights that are evaluated.
    load: the model's variables -> the same with the weights of config.init.
    training: the loader of training batches.
    embedder: embeds images and texts for the evaluators.
    evaluators: run functions by name.
    tokenizer: of the text tower; None without one.
    intervals: when to log, evaluate, save and stop.
    limits: what the metrics are checked against.
    sinks: where metrics go besides metrics.jsonl, by name.
    window: the steps to trace; None for none.
    batch_size: pairs per step.
    table: one line per parameter.
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
  sinks: dict[str, sinks.Sink]
  window: trace.Window | None
  batch_size: int
  table: str

  def first(self) -> State:
    """Returns the initial state, with config.init's weights."""
    state = self.placed.init()
    before = state.variables
    loaded = self.load(before)
    if loaded is before:
      return state
    flat = rules.flatten(before | loaded)  # Adapters are new.
    statistics = state.extra.get("statistics", {})
    normed = {k: flat.pop(k) for k in rules.flatten(statistics)}
    params = rules.unflatten(flat)
    extra = self.placed.init_extra(params)
    if normed:
      extra |= {"statistics": rules.unflatten(normed)}
    return state._replace(params=params, extra=extra)

  def flops(self, step: int = 0) -> float:
    """Returns model FLOPs of training on one example, in that step."""
    return self.objective.at(step).flops()

  @property
  def blob(self) -> bytes:
    """The content of the tokenizer's vocabulary, b"" without one."""
    return self.tokenizer.blob if self.tokenizer else b""

  def weights(self, state: State) -> dict[str, Any]:
    """Returns the parameters to evaluate."""
    exported = self.objective.exported(state.params, state.extra)
    return lora.folded(exported, self.objective.adapters)

  def meta(self, done: int) -> dict[str, Any]:
    """Returns a checkpoint's metadata, JSON-serializable.

    Args:
      done: steps so far.
    """
    examples = done * self.batch_size
    meta = {
      "config": self.config,
      "tokenizer": self.tokenizer.spec if self.tokenizer else {},
      "position": {"examples": examples, "bad": self.training.counts(done)},
      "data": self.training.data,
    }
    exported = state.exported(self.objective, self.placed.abstract)
    meta |= {"exported": exported} if exported else {}
    adapters = dict(self.objective.adapters)
    return meta | ({"lora": adapters} if adapters else {})
