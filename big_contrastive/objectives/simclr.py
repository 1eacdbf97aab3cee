"""SimCLR (arXiv:2002.05709) and SimCLR v2 (2006.10029)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.losses.instance import nt_xent
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _base, _views


@dataclasses.dataclass(frozen=True)
class SimCLR(_views.TwoViews):
  """Each view is told apart from all other views of the global batch.

  With 2B unit vectors z of the projector and logits z z^T / temperature, the
  loss is the sum of the cross entropies of both directions, each a mean over
  the images: twice the NT-Xent of the paper, as in the official code, whose
  learning rate and weight decay belong to it.

  Args:
    scale: 1 / temperature.
    joint: whether both views run through the model as one batch, so that batch
      norms see 2B images.
    tile: rows of logits in memory at a time on a device.
  """

  scale: float = 10.0
  joint: bool = True
  tile: int | None = None

  def __call__(self, params, extra, batch, rng, step):
    setting = self.setting
    model = _base.Applied(setting, params, extra.get("statistics", {}))
    images = self.images(batch)
    size = images[0].shape[0]
    if self.joint:
      # The two views of an image are neighbors: they stay on their device.
      both = jnp.stack(images, axis=1)
      both = both.reshape(2 * size, *both.shape[2:])
      keys = self.keys(rng, 2 * size)
      z = unit(self.embed(model, both, keys, self.heads)).reshape(size, 2, -1)
      z1, z2 = z[:, 0], z[:, 1]
    else:
      keys = [self.keys(jax.random.fold_in(rng, i), size) for i in range(2)]
      z1, z2 = (
        unit(self.embed(model, images[i], keys[i], self.heads))
        for i in range(2)
      )

    def loss_of(z1, z2, axis):
      scale = jnp.float32(self.scale)
      return nt_xent.loss(z1, z2, scale=scale, axis=axis, tile=self.tile)

    loss = 2 * _base.on_ring(loss_of, setting.mesh)(z1, z2)
    return loss, (_views.metrics(loss, z1, z2), model.extra(extra))

  @property
  def passes(self):
    return () if self.joint else super().passes

  @property
  def at_once(self) -> tuple[int, ...]:
    return (2,) if self.joint else (1,)

  @property
  def chance(self) -> float:
    return 2 * float(np.log(2 * self.setting.batch_size - 1))


def build(
  setting: Setting,
  *,
  temperature: float = 0.1,
  joint: bool = True,
  tile: int | None = None,
) -> SimCLR:
  """Returns the objective that config.objective describes.

  The model has the head "projector": two layers in v1, three in v2.

  Args:
    setting: see objectives.Setting.
    temperature: of the logits; the official code has 0.1 for ImageNet and 0.5
      for CIFAR-10.
    joint: whether both views are one batch for batch norms, as in the official
      code; in SLIP each is one.
    tile: rows of logits in memory at a time on a device; None for that of
      _ring.side.
  """
  return SimCLR(
    setting,
    count=_views.check(setting, "projector"),
    scale=_views.check_temperature(temperature),
    joint=joint,
    tile=_base.check_tile(tile),
  )
