"""An objective around another one."""

import dataclasses

from big_contrastive.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Wrapper(Objective):
  """Passes everything on to the objective inside.

  Args:
    inner: that objective.
  """

  inner: Objective = None

  @property
  def fields(self):
    return self.inner.fields

  @property
  def reads(self):
    return self.inner.reads

  @property
  def resized(self):
    return self.inner.resized

  @property
  def extra_rules(self):
    return self.inner.extra_rules

  @property
  def switches(self):
    return self.inner.switches

  def at(self, step):
    return dataclasses.replace(self, inner=self.inner.at(step))

  @property
  def micro_batches(self):
    return self.inner.micro_batches

  @property
  def chance(self):
    return self.inner.chance

  @property
  def chances(self):
    return self.inner.chances

  @property
  def adapters(self):
    return self.inner.adapters

  def init(self, key):
    return self.inner.init(key)

  def freeze(self, frozen):
    inner = self.inner.freeze(frozen)
    return dataclasses.replace(self, inner=inner, frozen=frozen)

  def flops(self):
    return self.inner.flops()

  def signs(self, values, batch):
    return self.inner.signs(values, batch)
