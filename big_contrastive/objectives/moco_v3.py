"""MoCo v3 (arXiv:2104.02057): a teacher's keys of the batch, no queue."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.losses.instance import info_nce
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _base, _teacher, _views


@dataclasses.dataclass(frozen=True)
class MoCoV3(_teacher.Taught):
  """Each query finds its key among the keys of all images' other views.

  2 T (CE(q1 k2^T / T) + CE(q2 k1^T / T)), T the temperature, for unit vectors:
  queries q of the predictor, keys k of the teacher's projector, both of the
  global batch; the cross entropies are those of the queries alone. Each view
  is a batch of its own for the norms.

  Args:
    temperature: of the logits.
    tile: rows of logits in memory at a time on a device.
  """

  heads: tuple[str, ...] = ("projector", "predictor")
  temperature: float = 1.0
  tile: int | None = None

  def __call__(self, params, extra, batch, rng, step):
    setting = self.setting
    model = _base.Applied(setting, params, extra.get("statistics", {}))
    teacher = self.teacher(params, extra)
    queries, targets = [], []
    for i, image in enumerate(self.images(batch)):
      keys = self.keys(jax.random.fold_in(rng, i), len(image))
      queries.append(unit(self.embed(model, image, keys, self.heads)))
      target = unit(self.embed(teacher, image, keys, self.heads[:1]))
      targets.append(jax.lax.stop_gradient(target))

    def loss_of(q, k, axis):
      scale = jnp.float32(1 / self.temperature)
      return info_nce.loss(q, k, scale=scale, axis=axis, tile=self.tile)

    cross_entropy = _base.on_ring(loss_of, setting.mesh)
    both = (cross_entropy(queries[i], targets[1 - i]) for i in range(2))
    loss = 2 * self.temperature * sum(both)
    metrics = _views.metrics(loss, *queries)
    metrics["momentum"] = 1 - self.rate(step + 1)
    return loss, (metrics, model.extra(extra))

  @property
  def chance(self) -> float:
    return 4 * self.temperature * float(np.log(self.setting.batch_size))


def build(
  setting: Setting,
  *,
  temperature: float = 0.2,
  momentum: float = 0.99,
  schedule: Literal["cosine", "constant"] = "cosine",
  tile: int | None = None,
) -> MoCoV3:
  """Returns the objective that config.objective describes.

  The model has the head "projector", and the head "predictor" on it.

  Args:
    setting: see objectives.Setting.
    temperature: of the logits: 0.2 for ViTs, 1 for ResNets.
    momentum: of the teacher at the first step: 0.99, and 0.996 for 1000 epochs
      of ResNet-50.
    schedule: of the momentum: "cosine" rises to 1 at the end of the run.
    tile: rows of logits in memory at a time on a device; None for that of
      _ring.side.
  """
  _views.check_temperature(temperature)
  return MoCoV3(
    setting,
    count=_views.check(setting, "projector", "predictor"),
    # The official code updates the teacher before its forward pass.
    rate=_teacher.rate(momentum, setting.total, schedule, first=1),
    temperature=temperature,
    tile=_base.check_tile(tile),
  )
