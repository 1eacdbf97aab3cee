"""SimSiam (arXiv:2011.10566): no negatives, no teacher."""

import dataclasses

import jax

from big_contrastive.objectives import Setting, _base, _views


@dataclasses.dataclass(frozen=True)
class SimSiam(_views.TwoViews):
  """The prediction of one view is the projection of the other.

  -(cos(p1, stop(z2)) + cos(p2, stop(z1))) / 2, where z is the projector's
  vector and p the predictor's. Each view is a batch of its own for the norms.
  A loss of -1 early in a run is a collapse.
  """

  heads: tuple[str, ...] = ("projector", "predictor")

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    z, p = [], []
    for i, image in enumerate(self.images(batch)):
      keys = self.keys(jax.random.fold_in(rng, i), len(image))
      z.append(self.embed(model, image, keys, self.heads[:1]))
      p.append(model.embed(lambda m, x: m.predictor(x), z[i]))
    targets = jax.lax.stop_gradient(z)
    cosines = [_views.cosine(p[i], targets[1 - i]) for i in range(2)]
    loss = -(cosines[0] + cosines[1]) / 2
    return loss, (_views.metrics(loss, *z), model.extra(extra))


def build(setting: Setting) -> SimSiam:
  """Returns the objective.

  The model has the head "projector", and the head "predictor" on it.

  Args:
    setting: see objectives.Setting.
  """
  return SimSiam(setting, count=_views.check(setting, "projector", "predictor"))
