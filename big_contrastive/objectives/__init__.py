"""Training objectives: each file in this folder is one; `build` creates it.

  build(setting, **fields) -> Objective

The fields are those of config.objective besides its name, checked by build's
signature. What several objectives share is in the files with an underscore.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from big_contrastive.config import durations
from big_contrastive.config.rules import Rules
from big_contrastive.data.tokenizers.tokenizer import Tokenizer
from big_contrastive.models.built import Built
from big_contrastive.models.model import variables
from big_contrastive.objectives._passes import Passes

Params = dict[str, Any]
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What an objective gets besides its own fields.

  Args:
    model: see models.build.
    mesh: the batch is split over its batch axes.
    batch_size: examples in the global batch.
    micro_batch: config.micro_batch, see sharding.micro_batches.
    total: steps of the run, for schedules inside the objective.
    views: how many of each view of an image a batch has, see config.views; in
      the order of their names.
    tokenizer: of batch["text"]; None without one.
    sizes: height and width of each view, by its name.
    records: of the training data, those of all sources of a mixture together;
      None if that is unknown.
    mixed: whether other objectives train parts of the model, too.
    passes: of the image tower in this step, to share; None for none.
  """

  model: Built
  mesh: Mesh
  batch_size: int
  micro_batch: int | dict[str, Any] | None = None
  total: int = 1
  views: dict[str, int] = dataclasses.field(default_factory=dict)
  tokenizer: Tokenizer | None = None
  sizes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  records: int | None = None
  mixed: bool = False
  passes: Passes | None = None

  def steps(self, duration: durations.Duration, where: str) -> int:
    """Returns a field's duration, such as "15 epochs", in steps.

    Args:
      duration: see config.durations.
      where: the objective's field, for the error.
    """
    unit = {"batch_size": self.batch_size, "epoch": self.records}
    return durations.steps(duration, where, total=self.total, **unit)


@dataclasses.dataclass(frozen=True)
class Objective:
  """The base of all objectives, with defaults for what they may leave out.

  All functions are pure, and run inside jax.jit. They give the same numbers
  for the same global batch on any mesh and with any micro-batch.

  Args:
    setting: see Setting.
    frozen: flat names of parameters that are not trained, and of pieces of
      stacked ones, see `freeze`.
  """

  setting: Setting
  frozen: frozenset[str] = frozenset()

  @property
  def fields(self) -> tuple[str, ...]:
    """The fields of a batch that it reads, in some step at least."""
    return ("image",)

  @property
  def reads(self) -> tuple[str, ...]:
    """Those that it reads in the steps that it is for, see `at`."""
    return self.fields

  @property
  def resized(self) -> tuple[str, ...]:
    """The views that need not have the size that the image tower takes.

    The objective checks that the tower takes their size, too.
    """
    return ()

  @property
  def towers(self) -> tuple[str, ...]:
    """The towers that it runs, for `flops`; those that the model lacks, too."""
    return ("img", "txt")

  @property
  def passes(self) -> tuple[tuple[str, int], ...]:
    """The images of which the trained tower makes vectors, and no more.

    (field of the batch, number in a view), each a batch of its own. Objectives
    share these passes, see _base.Applied.embed.
    """
    return ()

  @property
  def switches(self) -> tuple[int, ...]:
    """The steps above 0 from which on its steps are another program.

    All of them take the same `params` and `extra`.
    """
    return ()

  def at(self, step: int) -> "Objective":
    """Returns the objective of a step; it differs between `switches` only."""
    return self

  @property
  def extra_rules(self) -> Rules:
    """Rules that shard the leaves of `extra` by name; the first match counts.

    "like" copies the sharding of the parameter whose name is a leaf's without
    its prefix ("img/pos" for "teacher/img/pos"), and replicates if there is
    none; other placements are those of config.shard.
    """
    return ((".*", "like"),)

  def init(self, key: jax.Array) -> Params:
    """Returns new parameters, nested by part."""
    return self.setting.model.init(key)

  def init_extra(self, params: Params, key: jax.Array) -> dict[str, Any]:
    """Returns state besides the parameters: a teacher, a queue, a center.

    The model's running statistics are always extra["statistics"], if it has
    any: an objective adds its own state to what this base returns.

    Args:
      params: the initial ones, with the weights of config.init.
      key: for random values.
    """
    statistics = self.setting.model.init_statistics()
    return {"statistics": statistics} if statistics else {}

  def __call__(
    self,
    params: Params,
    extra: dict[str, Any],
    batch: Batch,
    rng: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
    """Returns the loss of a global batch, with metrics and the new `extra`.

    Args:
      params, extra: from the step before.
      batch: `fields` by name, [B, ...]: "image" uint8 [B, h, w, 3], "text"
        int32 [B, l], "id" int32 [B], "record" int32 [B], the number of the
        record in the training data, below Setting.records; a view of
        config.views, by its name, uint8 [B, count, h, w, 3].
      rng: this step's key.
      step: int32, from 0 on, for schedules inside the objective.

    Returns:
      The loss, a scalar, and metrics, of which "loss" must be one.
    """
    raise NotImplementedError

  def after_update(
    self, params: Params, extra: dict[str, Any], step: jax.Array
  ) -> tuple[Params, dict[str, Any]]:
    """Changes parameters and `extra` after the optimizer's update.

    For instance, it updates a teacher, clips a temperature or normalizes
    prototypes.

    Args:
      params: updated.
      extra: as `__call__` returned it.
      step: of the update, int32, from 0 on.
    """
    return params, extra

  def exported(self, params: Params, extra: dict[str, Any]) -> Params:
    """Returns the model's variables to evaluate, to load, and to convert.

    Parameters and running statistics. It must select leaves of the two trees
    and compute nothing, so that a checkpoint holds them once.
    """
    return variables(params, extra.get("statistics"))

  def freeze(self, frozen: frozenset[str]) -> "Objective":
    """Returns the objective for these frozen parameters, by flat name.

    Args:
      frozen: names of parameters, or of pieces of stacked ones, rules.piece.

    Raises:
      UserError: if the objective cannot train with them frozen.
    """
    model = self.setting.model.lock(frozen)
    setting = dataclasses.replace(self.setting, model=model)
    return dataclasses.replace(self, frozen=frozen, setting=setting)

  def flops(self) -> float:
    """Returns model FLOPs of training on one example.

    A tower of which anything is trained counts as if all of it were.
    """
    model = self.setting.model
    frozen = model.frozen_parts(self.frozen)
    return model.abstract.flops(frozen, self.towers)

  @property
  def adapters(self) -> Mapping[str, float]:
    """The factors of adapters by weight, see models.lora.fold; mostly none."""
    return {}

  @property
  def micro_batches(self) -> tuple[int, ...]:
    """The number of micro-batches for each kind of input."""
    return (1,)

  @property
  def chance(self) -> float | None:
    """The loss of guessing, None if unknown."""
    return None

  @property
  def chances(self) -> dict[str, float]:
    """The values of guessing, by metric: of the loss, or of its parts.

    A metric may be missing in some steps.
    """
    return {} if self.chance is None else {"loss": self.chance}

  def signs(
    self, values: dict[str, float], batch: dict[str, Any]
  ) -> dict[str, str | None]:
    """Returns signs of mistakes in a step: a line by kind, None if fine.

    Args:
      values: metrics by name, as `__call__` gives them.
      batch: this process's rows, on the host.
    """
    return {}
