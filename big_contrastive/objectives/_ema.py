"""An exponential moving average of the weights, for any objective."""

import dataclasses

from big_contrastive.config import errors
from big_contrastive.config.rules import flatten, unflatten, whole
from big_contrastive.objectives import Objective
from big_contrastive.objectives._wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Averaged(Wrapper):
  """An objective whose averaged weights are evaluated, loaded and converted.

  After each update e = decay e + (1 - decay) p, float32, beginning with the
  initial parameters (Polyak and Juditsky, 1992), and so for the running
  statistics of batch norms, as in timm: those of the last weights would not fit
  the average. It is sharded as the parameters are, and takes as much memory;
  frozen ones are stored once.

  Args:
    decay: of an update, from 0 to below 1: 0.999 averages about the last
      thousand steps.
  """

  decay: float = 0.0

  @property
  def extra_rules(self):
    return (("ema/.*", "like"), *self.inner.extra_rules)

  def init_extra(self, params, key):
    extra = self.inner.init_extra(params, key)
    return extra | {"ema": unflatten(self._averaged(params, extra))}

  def __call__(self, params, extra, batch, rng, step):
    loss, (metrics, inner) = self.inner(
      params, _without_ema(extra), batch, rng, step
    )
    return loss, (metrics, inner | {"ema": extra["ema"]})

  def after_update(self, params, extra, step):
    params, inner = self.inner.after_update(params, _without_ema(extra), step)
    new, old = self._averaged(params, inner), flatten(extra["ema"])
    decay = self.decay
    ema = {k: decay * old[k] + (1 - decay) * p for k, p in new.items()}
    for name in self.frozen:  # Layers; rounding would move them.
      of, layers = whole(name)
      if of in ema:
        ema[of] = ema[of].at[layers].set(new[of][layers])
    return params, inner | {"ema": unflatten(ema)}

  def exported(self, params, extra):
    inner, ema = _without_ema(extra), flatten(extra["ema"])

    def replaced(tree):
      return unflatten({k: ema.get(k, x) for k, x in flatten(tree).items()})

    if "statistics" in inner:
      inner |= {"statistics": replaced(inner["statistics"])}
    return self.inner.exported(replaced(params), inner)

  def _averaged(self, params, extra):
    """Returns what changes in training: parameters and running statistics."""
    still = self.setting.model.frozen_parts(self.frozen)
    statistics = flatten(extra.get("statistics", {}))
    flat = {k: p for k, p in flatten(params).items() if k not in self.frozen}
    return flat | {
      k: x for k, x in statistics.items() if k.split("/")[0] not in still
    }


def _without_ema(extra):
  return {k: v for k, v in extra.items() if k != "ema"}


def averaged(inner: Objective, decay: float) -> Averaged:
  """Returns the objective with a moving average of the parameters it trains.

  Raises:
    UserError: for a decay that is not from 0 to below 1.
  """
  if not 0 <= decay < 1:
    allowed = "a number from 0 to below 1"
    remedy = "0.999 is usual; None is off."
    raise errors.UserError("config.ema", decay, allowed, remedy)
  return Averaged(inner.setting, inner=inner, decay=decay)
