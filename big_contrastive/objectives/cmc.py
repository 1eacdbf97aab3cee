"""CMC, contrastive multiview coding (arXiv:1906.05849): lightness and color."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors
from big_contrastive.losses import softmax
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _bank, _base, _views

# Of an image, and of the towers and banks that see them.
SIDES = ("light", "color")


@dataclasses.dataclass(frozen=True)
class CMC(_views.Views):
  """The lightness of an image finds the same image's color, and the reverse.

  For unit vectors z and w of both, of the tower "two_colors", in the batch:
  CE(z W^T / temperature, i) + CE(w Z^T / temperature, i), mean over the batch:
  twice the softmax loss of pairs. With banks, as in the paper, z against the
  bank of w and w against the bank of z, with the same draws.

  extra["bank"] has the state of a _bank.Bank for each side.

  Args:
    scale: 1 / temperature.
    bank: and the loss against it; None for the batch.
    tile: rows of logits in memory at a time on a device.
  """

  scale: float = 1.0
  bank: _bank.Bank | None = None
  tile: int | None = None

  @property
  def width(self) -> int:
    return self.setting.model.abstract.img.widths[0]

  @property
  def fields(self):
    return super().fields if self.bank is None else (*super().fields, "record")

  @property
  def extra_rules(self):
    rules = () if self.bank is None else self.bank.rules
    return (*rules, *super().extra_rules)

  def init_extra(self, params, key):
    extra = super().init_extra(params, key)
    if self.bank is not None:
      extra["bank"] = {
        side: self.bank.init(self.width, jax.random.fold_in(key, i))
        for i, side in enumerate(SIDES, 1)
      }
    return extra

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    image = self.image(batch)
    x = self.embed(model, image, self.keys(rng, len(image)), self.heads)
    z, w = unit(x[:, : self.width]), unit(x[:, self.width :])
    new = {}
    if self.bank is None:
      loss = 2 * _base.on_ring(self._of_batch, self.setting.mesh)(z, w)
    else:
      draws = self.bank.draws(rng, len(image))
      loss, new = self._of_banks((z, w), batch["record"], extra["bank"], draws)
    metrics = _views.metrics(loss, z, w)
    return loss, (metrics, model.extra(extra) | new)

  def _of_batch(self, z, w, axis):
    scale = jnp.float32(self.scale)
    return softmax.loss(z, w, scale=scale, axis=axis, tile=self.tile)

  def _of_banks(self, vectors, record, banks, draws):
    loss, new = 0.0, {}
    # Each against the bank of the other; banks are updated after all logits.
    for z, other in zip(vectors, reversed(SIDES), strict=True):
      more, new[other] = self.bank.compared(z, record, banks[other], draws)
      loss += more
    for z, own in zip(vectors, SIDES, strict=True):
      new[own] = self.bank.updated(z, record, new[own])
    return loss, {"bank": new}

  @property
  def chance(self) -> float:
    if self.bank is not None:
      return 2 * self.bank.chance
    return 2 * float(np.log(self.setting.batch_size))


def build(
  setting: Setting,
  *,
  temperature: float = 0.07,
  bank: bool = False,
  momentum: float = 0.5,
  loss: _bank.Loss = "softmax",
  negatives: int | None = None,
  tile: int | None = None,
) -> CMC:
  """Returns the objective that config.objective describes.

  Args:
    setting: see objectives.Setting.
    temperature: of the logits.
    bank: whether images are compared with those of a bank, as in the paper, and
      not with those of the batch.
    momentum, loss, negatives: see instdisc.build; of banks alone.
    tile: rows of logits in memory at a time on a device, without draws; None
      for that of _ring.side.
  """
  tower = setting.model.abstract.img
  if not hasattr(tower, "widths") or len(set(tower.widths)) != 1:
    allowed = '"two_colors", with both towers of one out_dim'
    remedy = "The objective compares what two towers see of an image."
    name = type(tower).__name__
    raise errors.UserError("config.model.image.tower", name, allowed, remedy)
  banks = None
  if bank:
    banks = _bank.build(
      setting, temperature=temperature, momentum=momentum, loss=loss,
      negatives=negatives, tile=tile,
    )  # fmt: skip
  elif (momentum, loss, negatives) != (0.5, "softmax", None):
    remedy = "momentum, loss and negatives are those of banks."
    raise errors.UserError("bank", False, "True with these fields", remedy)
  return CMC(
    setting,
    heads=(),
    count=_views.check_one(setting),
    scale=_views.check_temperature(temperature),
    bank=banks,
    tile=_base.check_tile(tile),
  )
