"""What the objectives over crops of two sizes share: SwAV, DINO.

Multi-crop, arXiv:2006.09882: two global views of an image, and local ones, of
small parts of it and of a smaller size.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors
from big_contrastive.objectives import Setting, _base, _views

LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class Crops(_views.Views):
  """An objective over two global views and any number of local ones.

  The view named "local" in config.views is of local crops, or there is none.
  The others are global: two in all, of one name or of two.

  A subclass calls `crops`, then `embed_crops`; a teacher that sees global
  crops alone gets the first of `crops`. Its `build` takes the number of
  micro-batches from `check`.
  """

  @property
  def resized(self):
    return (LOCAL,)

  @property
  def views(self) -> int:
    """V, the number of views of an image."""
    return sum(self.setting.views.values())

  def crops(self, batch: dict[str, jax.Array]) -> list[jax.Array]:
    """Returns the global crops, and the local ones if there are any.

    Each uint8 [B, count, h, w, 3] of its own size; the global ones have count
    2, in the order of the views' names.
    """
    names = [name for name in self.setting.views if name != LOCAL]
    crops = [jnp.concatenate([batch[name] for name in names], axis=1)]
    return [*crops, batch[LOCAL]] if LOCAL in self.setting.views else crops

  def embed_crops(
    self,
    model: _base.Applied,
    crops: Sequence[jax.Array],
    rng: jax.Array | None,
    heads: Sequence[str],
  ) -> jax.Array:
    """Returns the vectors [B, V, d] of all crops, float32, not normalized.

    The crops of one size run through the tower as one batch, the global ones
    first, and all crops through the heads as one: so the batch norms of a
    tower see one size at a time, those of a head all of them, as in the
    official codes of SwAV and DINO. The crops of an image are neighbors in
    these batches.

    Args:
      model: that of the parameters, or of a teacher.
      crops: see `crops`; or the first of them.
      rng: the step's key. The same key draws the same for global crops, whether
        local ones follow or not. None evaluates the tower.
      heads: parts that follow the tower, in order; none for its own vectors.
    """
    rows = []
    for i, images in enumerate(crops):
      size, count = images.shape[:2]
      images = images.reshape(size * count, *images.shape[2:])
      keys = None
      if rng is not None:
        keys = self.keys(jax.random.fold_in(rng, i), size * count)
      x = self.embed(model, images, keys, ())
      rows.append(x.reshape(size, count, -1))
    x = jnp.concatenate(rows, axis=1)
    flat = x.reshape(-1, x.shape[-1])
    return _views.through(model, flat, heads).reshape(*x.shape[:2], -1)

  @property
  def at_once(self) -> tuple[int, ...]:
    return (2, self.views - 2) if self.views > 2 else (2,)

  def flops(self) -> float:
    # A local crop costs its part of the area: attention, which takes less, is
    # a small part of all at these sizes.
    takes = self.setting.model.abstract.img.takes
    part = np.prod(self.setting.sizes.get(LOCAL, takes)) / np.prod(takes)
    return super().flops() * float(2 + (self.views - 2) * part)


def check(setting: Setting, *heads: str) -> int:
  """Returns the number of micro-batches of a view.

  Raises:
    UserError: unless there are two global views, the tower takes local ones of
      their size, and the model has the heads.
  """
  views = setting.views
  if sum(views.values()) - views.get(LOCAL, 0) != 2:
    raise errors.UserError(
      "config.views",
      dict(views) or None,
      'two views of an image in all, besides those named "local"',
      'For two alike: {"global": {"ops": [...], "count": 2}}.',
    )
  count = _views.check_model(setting, *heads)
  if LOCAL in setting.sizes:
    _check_local(setting)
  return count


def _check_local(setting: Setting) -> None:
  """Raises UserError unless the image tower takes local crops."""
  size, tower = setting.sizes[LOCAL], setting.model.abstract.img
  image = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
  try:
    jax.eval_shape(lambda tower, x: tower(x), tower, image)
  except Exception as error:  # Of any kind: towers are anybody's.
    raise errors.UserError(
      "config.views.local.ops",
      f"images of {size[0]} x {size[1]}",
      "a size that the image tower takes besides its own, "
      f"{tower.takes[0]} x {tower.takes[-1]}",
      'Change the last crop, leave out "local", or choose another tower.',
    ) from error
