"""CPC for images: v1 (arXiv:1807.03748) and v2 (1905.09272)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors
from big_contrastive.losses.instance import info_nce
from big_contrastive.models.heads.context import Context
from big_contrastive.models.image.patches import Patches
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _base, _views

_HEAD = "context"


@dataclasses.dataclass(frozen=True)
class CPC(_views.Images):
  """Each patch's context finds the patches some rows below.

  With z the vectors of a grid of g x g patches, c their contexts, which see the
  rows above and their own, and s rows that are skipped, since patches overlap:

    mean over k = 1..K, positions and images of
    CE(c[y] W_k z^T / temperature, z[y + k + s])

  where z are all targets of step k, B g (g - k - s) patches of the global
  batch, the right one among them. Neither side is normalized, and both have
  gradients. With four directions it is the mean over the grid's four turns.

  No official code is public. Those that are differ: Greedy InfoMax (5a25fb2)
  and CPCV2-PyTorch (0d98b0a) draw 16 of the same targets for each position,
  with replacement, the right one among them, and cap the loss at 25.3; the
  latter sums over directions. Lightning Bolts (34958a8) has all patches of the
  batch for candidates in each step, one matrix for all steps, times 0.1, and
  sums over nested ranges of steps.

  Args:
    scale: 1 / temperature.
    skip: s, rows between a context and its first target.
    tile: rows of logits in memory at a time on a device.
  """

  scale: float = 1.0
  skip: int = 1
  tile: int | None = None

  def __call__(self, params, extra, batch, rng, step):
    setting = self.setting
    model = _base.Applied(setting, params, extra.get("statistics", {}))
    image = self.image(batch)
    keys = _base.image_keys(setting, self.frozen, rng, len(image))

    def tower(model, image, keys):
      return model.img.of_patches(model.img.cut(image), keys)

    z = model.embed(tower, image, keys, count=self.count)
    pairs, _ = model.rows_and_sums(self._ahead, z)
    # One after the other: a loop over directions would keep the ring's masks.
    losses = [_base.on_ring(self._of_pair, setting.mesh)(*x) for x in pairs]
    loss = sum(losses) / len(losses)
    std = unit(jax.lax.stop_gradient(z)).std(axis=(0, 1, 2))
    metrics = {"loss": loss, "embedding_std": std.mean()}
    return loss, (metrics, model.extra(extra))

  def pairs(
    self, context: Context, z: jax.Array
  ) -> list[tuple[jax.Array, jax.Array]]:
    """Returns predictions and their targets, of each direction and step.

    Args:
      context: the head.
      z: [B, g, g, d] vectors of patches.

    Returns:
      Two arrays [B, g - k - s, g, d] for each direction and each step k.
    """
    found = []
    for direction in range(context.directions):
      turned = jnp.rot90(z, direction, axes=(1, 2))
      seen = context(turned)
      for k in range(context.steps):
        first = k + 1 + self.skip
        ahead = context.ahead(seen[:, :-first], k, direction)
        found.append((ahead, turned[:, first:]))
    return found

  def _ahead(self, model, z):
    return self.pairs(getattr(model, _HEAD), z), None

  def _of_pair(self, ahead, targets, axis):
    q, k = (x.reshape(-1, x.shape[-1]) for x in (ahead, targets))
    scale = jnp.float32(self.scale)
    return info_nce.loss(q, k, scale=scale, axis=axis, tile=self.tile)

  def freeze(self, frozen):
    if "img" not in self.setting.model.frozen_parts(frozen):
      tower = self.setting.model.abstract.img
      _base.check_norms(self.setting, "img", self.count, tower.grid**2)
    return super().freeze(frozen)

  @property
  def chance(self) -> float:
    model, size = self.setting.model.abstract, self.setting.batch_size
    g, steps = model.img.grid, getattr(model, _HEAD).steps
    targets = [size * g * (g - k - self.skip) for k in range(1, steps + 1)]
    return float(np.log(targets).mean())


def build(
  setting: Setting,
  *,
  temperature: float = 1.0,
  skip: int = 1,
  tile: int | None = None,
) -> CPC:
  """Returns the objective that config.objective describes.

  The model has the image tower "patches" and, on it, the head "context".

  Args:
    setting: see objectives.Setting.
    temperature: of the logits, products of vectors of any length.
    skip: rows between a context and the first patches that it predicts; with 0,
      these overlap those that it sees.
    tile: rows of logits in memory at a time on a device; None for that of
      _ring.side.
  """
  count = _views.check_one(setting, _HEAD)
  _check(setting, skip)
  if not 0 < temperature < float("inf"):
    allowed, remedy = "a finite number above 0", "Leave it out for 1."
    raise errors.UserError("temperature", temperature, allowed, remedy)
  tile = _base.check_tile(tile)
  return CPC(setting, scale=1 / temperature, skip=skip, count=count, tile=tile)


def _check(setting: Setting, skip: int) -> None:
  """Raises UserError unless the parts and the sizes fit."""
  model = setting.model.abstract
  context = getattr(model, _HEAD)
  for name, part, kind in (
    ("image.tower", model.img, Patches),
    (f"heads.{_HEAD}.name", context, Context),
  ):
    if not isinstance(part, kind):
      expected = kind.__name__.lower()
      remedy = "The objective reads a grid of patches."
      raise errors.UserError(
        f"config.model.{name}",
        type(part).__name__.lower(),
        repr(expected),
        remedy,
      )
  if skip < 0:
    allowed = "a whole number from 0 up"
    raise errors.UserError("skip", skip, allowed, "CPC has 1.")
  if (steps := context.steps) > (most := model.img.grid - 1 - skip):
    allowed = f"at most grid - 1 - skip = {most}"
    remedy = "No row is that far below another."
    where = f"config.model.heads.{_HEAD}.steps"
    raise errors.UserError(where, steps, allowed, remedy)
