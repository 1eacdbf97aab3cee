"""BYOL (arXiv:2006.07733): predicts a teacher's projection, no negatives."""

import dataclasses
from typing import Literal

import jax

from big_contrastive.objectives import Setting, _base, _teacher, _views


@dataclasses.dataclass(frozen=True)
class BYOL(_teacher.Taught):
  """The prediction of one view is the teacher's projection of the other.

  The mean over images of |p1 - t2|^2 + |p2 - t1|^2 for unit vectors: p of the
  predictor, t of the teacher's projector. Each view is a batch of its own for
  the norms.
  """

  heads: tuple[str, ...] = ("projector", "predictor")

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    teacher = self.teacher(params, extra)
    predicted, targets = [], []
    for i, image in enumerate(self.images(batch)):
      keys = self.keys(jax.random.fold_in(rng, i), len(image))
      predicted.append(self.embed(model, image, keys, self.heads))
      target = self.embed(teacher, image, keys, self.heads[:1])
      targets.append(jax.lax.stop_gradient(target))
    cosines = [_views.cosine(predicted[i], targets[1 - i]) for i in range(2)]
    loss = 4 - 2 * cosines[0] - 2 * cosines[1]
    metrics = _views.metrics(loss, *predicted)
    metrics["momentum"] = 1 - self.rate(step)
    return loss, (metrics, model.extra(extra))


def build(
  setting: Setting,
  *,
  momentum: float = 0.996,
  schedule: Literal["cosine", "constant"] = "cosine",
  teacher: Literal["random", "copy"] = "random",
) -> BYOL:
  """Returns the objective that config.objective describes.

  The model has the head "projector", and the head "predictor" on it.

  Args:
    setting: see objectives.Setting.
    momentum: of the teacher at the first step: 0.97, 0.99, 0.99 and 0.996 for
      40, 100, 300 and 1000 epochs in the official code.
    schedule: of the momentum: "cosine" rises to 1 at the end of the run.
    teacher: its first weights: "random" ones of its own as in the official
      code, or a "copy" of the student's, for pretrained weights.
  """
  return BYOL(
    setting,
    count=_views.check(setting, "projector", "predictor"),
    rate=_teacher.rate(momentum, setting.total, schedule),
    other=teacher == "random",
  )
