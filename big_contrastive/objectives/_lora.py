"""Low-rank adapters of weights (LoRA, arXiv:2106.09685), for any objective."""

import dataclasses
from collections.abc import Mapping

import jax

from big_contrastive.config import errors, rules, schema
from big_contrastive.models import lora
from big_contrastive.objectives import Objective
from big_contrastive.objectives._wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Adapted(Wrapper):
  """An objective of the weights w + (alpha / rank) a @ b, of which w is frozen.

  params["lora"] has a and b by the weights' names. The objective inside sees
  the sums alone, so its teachers and averages are of those. Exported are w, a
  and b, which models.lora.folded adds up: evaluation, loading and conversion
  know no adapters.

  Args:
    ranks: by flat name of a weight.
    scales: alpha / rank, likewise.
  """

  ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
  scales: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def adapters(self):
    return self.scales

  def init(self, key):
    params = self.inner.init(key)
    own = jax.random.fold_in(key, 2**32 - 1)
    return params | {lora.PART: lora.new(params, self.ranks, own)}

  def init_extra(self, params, key):
    return self.inner.init_extra(lora.fold(params, self.scales), key)

  def __call__(self, params, extra, batch, rng, step):
    summed = lora.fold(params, self.scales)
    return self.inner(summed, extra, batch, rng, step)

  def after_update(self, params, extra, step):
    summed = lora.fold(params, self.scales)
    updated, extra = self.inner.after_update(summed, extra, step)
    # What it changes are other parameters, such as t.
    flat = rules.flatten(updated)
    flat |= {k: x for k, x in rules.flatten(params).items() if self._own(k)}
    return rules.unflatten(flat), extra

  def exported(self, params, extra):
    bare = lora.bare(params)
    exported = self.inner.exported(bare, extra)
    # Of weights that are not the parameters', such as a teacher's, none.
    before, after = rules.flatten(bare), rules.flatten(exported)
    own = rules.flatten(params[lora.PART])
    kept = {k: x for k, x in own.items() if after.get(k[:-2]) is before[k[:-2]]}
    return exported | {lora.PART: rules.unflatten(kept)}

  def freeze(self, frozen):
    # The sums change, so dropout and gradients are those of trained weights.
    still = frozenset(k for k in frozen if not self._own(rules.whole(k)[0]))
    inner = self.inner.freeze(still)
    return dataclasses.replace(self, inner=inner, frozen=frozen)

  def _own(self, name: str) -> bool:
    return name in self.scales or name.startswith(f"{lora.PART}/")


def adapted(inner: Objective, given: rules.Rules) -> Adapted:
  """Returns the objective with the adapters that config.lora describes.

  Raises:
    UserError: for a rule that matches nothing or no matrix, or a rank that is
      not below both sides of the matrix.
  """
  where = "config.lora"
  shapes = rules.shapes(jax.eval_shape(inner.init, jax.random.key(0)))
  ranks, scales = {}, {}
  for name, section in rules.match(given, shapes, where).items():
    if section is not None:
      fields = schema.section(section, where)
      rank, scales[name] = schema.call(_adapter, fields, where)
      lora.check(name, shapes[name], rank)
      ranks[name] = rank
  if not ranks:
    allowed = "a rule with a rank"
    raise errors.UserError(where, given, allowed, "None is for no adapters.")
  return Adapted(inner.setting, inner=inner, ranks=ranks, scales=scales)


def _adapter(*, rank: int, alpha: float | None = None) -> tuple[int, float]:
  """Returns the rank and alpha / rank; without alpha that is 1."""
  errors.at_least("rank", rank, 1)
  alpha = rank if alpha is None else alpha
  if not 0 < alpha < float("inf"):
    allowed, remedy = "a finite number above 0", "Twice the rank is usual."
    raise errors.UserError("alpha", alpha, allowed, remedy)
  return rank, alpha / rank
