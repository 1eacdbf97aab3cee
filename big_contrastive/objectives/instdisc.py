"""InstDisc, instance discrimination (arXiv:1805.01978): a bank of images."""

import dataclasses

import jax

from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _bank, _base, _views


@dataclasses.dataclass(frozen=True)
class InstDisc(_views.Views):
  """Each image is a class, whose weights are a bank's vector of it.

  CE(z M^T / temperature, i), mean over the batch, for the unit vector z of
  record i and the bank M of all records: over all of it, where the official
  code draws rows. Then row i becomes unit(m M_i + (1 - m) z).

  extra["bank"] is the state of _bank.Bank.

  Args:
    bank: and the loss against it.
  """

  bank: _bank.Bank = None

  @property
  def fields(self):
    return (*super().fields, "record")

  @property
  def extra_rules(self):
    return (*self.bank.rules, *super().extra_rules)

  def init_extra(self, params, key):
    bank = self.bank.init(self.width, jax.random.fold_in(key, 1))
    return super().init_extra(params, key) | {"bank": bank}

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    image, record, bank = self.image(batch), batch["record"], extra["bank"]
    keys = self.keys(rng, len(image))
    z = unit(self.embed(model, image, keys, self.heads))
    draws = self.bank.draws(rng, len(image))
    loss, new = self.bank.compared(z, record, bank, draws)
    metrics = _views.metrics(loss, z, bank["rows"][record])
    new = self.bank.updated(z, record, new)
    return loss, (metrics, model.extra(extra) | {"bank": new})

  @property
  def chance(self) -> float:
    return self.bank.chance


def build(
  setting: Setting,
  *,
  temperature: float = 0.07,
  momentum: float = 0.5,
  loss: _bank.Loss = "softmax",
  negatives: int | None = None,
  tile: int | None = None,
) -> InstDisc:
  """Returns the objective that config.objective describes.

  The model has the head "projector", one linear layer.

  Args:
    setting: see objectives.Setting.
    temperature: of the logits; 0.1 for CIFAR-10.
    momentum: what an update keeps of a row of the bank.
    loss: "softmax", or "nce", the paper's estimate of it.
    negatives: rows drawn for each image, with replacement; None for all.
    tile: rows of logits in memory at a time on a device, without draws; None
      for that of _ring.side.
  """
  return InstDisc(
    setting,
    count=_views.check_one(setting, "projector"),
    bank=_bank.build(
      setting, temperature=temperature, momentum=momentum, loss=loss,
      negatives=negatives, tile=tile,
    ),
  )  # fmt: skip
