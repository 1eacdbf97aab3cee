"""Training methods: a file in this folder is one, and its `build` makes it.

  build(setting, **fields) -> Objective

The fields are those of config.objective besides its name, checked by build's
signature. What several methods share is in _base.py and _ema.py.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from big_contrastive.config.rules import Rules
from big_contrastive.models.build import Built

Params = dict[str, Any]
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What a method is given besides its own fields.

  Args:
    model: see models.build.
    mesh: over whose batch axes the batch lies.
    batch_size: examples of the global batch.
    micro_batch: config.micro_batch, see sharding.micro_batches.
  """

  model: Built
  mesh: Mesh
  batch_size: int
  micro_batch: int | dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
  """A training method: the base of all, with defaults for what may be left out.

  All functions are pure, and run inside jax.jit. They give the same numbers
  for the same global batch on any mesh and with any micro-batch.

  Args:
    setting: what it is given.
    frozen: flat names of parameters that are not trained, see `freeze`.
  """

  setting: Setting
  frozen: frozenset[str] = frozenset()

  @property
  def fields(self) -> tuple[str, ...]:
    """The fields of a batch that it takes."""
    return ("image",)

  @property
  def extra_rules(self) -> Rules:
    """How the leaves of `extra` lie on the mesh: first-match rules over names.

    "like" is as the parameter under whose name a leaf is kept, behind any
    prefix ("teacher/img/pos" is as "img/pos"), and replicated where there is
    none; otherwise as in config.shard.
    """
    return ((".*", "like"),)

  def init(self, key: jax.Array) -> Params:
    """Returns new parameters, nested by part."""
    return self.setting.model.init(key)

  def init_extra(self, params: Params, key: jax.Array) -> dict[str, Any]:
    """Returns what is carried besides parameters: a teacher, a queue, a center.

    Args:
      params: the first ones, after config.init has put weights into them.
      key: for what is drawn.
    """
    return {}

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
      params, extra: as the step before left them.
      batch: `fields` by name, [B, ...]: "image" uint8 [B, h, w, 3], "text"
        int32 [B, l], "id" int32 [B].
      rng: this step's key.
      step: int32, from 0 on, for schedules inside the method.

    Returns:
      The loss, a scalar, and metrics, of which "loss" must be one.
    """
    raise NotImplementedError

  def after_update(
    self, params: Params, extra: dict[str, Any], step: jax.Array
  ) -> tuple[Params, dict[str, Any]]:
    """Returns parameters and `extra` once more, after the optimizer.

    Here a teacher follows, a temperature is clipped, prototypes become unit.

    Args:
      params: updated.
      extra: as `__call__` returned it.
      step: of the update, int32, from 0 on.
    """
    return params, extra

  def exported(self, params: Params, extra: dict[str, Any]) -> Params:
    """Returns the weights to evaluate, to load, and to convert.

    It selects leaves of the two trees and computes nothing, so that a
    checkpoint holds them once.
    """
    return params

  def freeze(self, frozen: frozenset[str]) -> "Objective":
    """Returns the objective for these frozen parameters, by flat name.

    Raises:
      UserError: where the method can't have them frozen.
    """
    return dataclasses.replace(self, frozen=frozen)

  def flops(self) -> float:
    """Returns model FLOPs of training on one example."""
    model = self.setting.model
    return model.abstract.flops(model.frozen_parts(self.frozen))

  @property
  def micro_batches(self) -> tuple[int, ...]:
    """In how many micro-batches each kind of input is embedded."""
    return (1,)

  @property
  def chance(self) -> float | None:
    """The loss of guessing, None if it is not known."""
    return None

  def signs(
    self, values: dict[str, float], batch: dict[str, Any]
  ) -> dict[str, str | None]:
    """Returns what looks wrong in a step: a line by kind, None for nothing.

    Args:
      values: metrics by name, as `__call__` gives them.
      batch: this process's rows, on the host.
    """
    return {}
