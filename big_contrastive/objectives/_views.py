"""What the objectives over views of an image share."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.models.model import unit
from big_contrastive.objectives import Objective, Setting, _base, _passes
from big_contrastive.parallel import sharding

# Below this fraction of what directions at random have, embeddings are one.
_COLLAPSED = 0.05


@dataclasses.dataclass(frozen=True)
class Images(Objective):
  """An objective over views of each image, without text.

  Args:
    count: number of micro-batches of a view.
  """

  count: int = 1

  @property
  def fields(self) -> tuple[str, ...]:
    return tuple(self.setting.views)

  @property
  def towers(self):
    return ("img",)

  @property
  def micro_batches(self) -> tuple[int, ...]:
    return (self.count,)

  def image(self, batch: dict[str, jax.Array]) -> jax.Array:
    """Returns the only view, uint8 [B, h, w, 3]."""
    (name,) = self.setting.views
    return batch[name][:, 0]


@dataclasses.dataclass(frozen=True)
class Views(Images):
  """One whose loss is of vectors, one of each view.

  Args:
    heads: parts of the model that follow the image tower, in order.
  """

  heads: tuple[str, ...] = ("projector",)

  def keys(self, rng: jax.Array, size: int) -> jax.Array | None:
    """Returns a key per example; None for a frozen tower: it is evaluated."""
    return _base.image_keys(self.setting, self.frozen, rng, size)

  def embed(
    self,
    model: _base.Applied,
    image: jax.Array,
    keys: jax.Array | None,
    heads: Sequence[str],
  ) -> jax.Array:
    """Returns the vectors [B, d] of one view, float32, not normalized.

    The tower may run in micro-batches; the heads, and so their batch norms,
    see the batch as a whole.
    """
    on_pooled = {*self.heads[:1]} & {*self.setting.model.abstract.pooled}
    tower = _passes.pooled if on_pooled else _passes.image_tower
    x = model.embed(tower, image, keys, count=self.count)
    return through(model, x, heads)

  def freeze(self, frozen):
    if "img" not in self.setting.model.frozen_parts(frozen):
      for views in self.at_once:
        _base.check_norms(self.setting, "img", self.count, views)
    return super().freeze(frozen)

  @property
  def at_once(self) -> tuple[int, ...]:
    """Views of an example in each batch that runs through the tower."""
    return (1,)

  @property
  def width(self) -> int:
    """The width of the embeddings."""
    return getattr(self.setting.model.abstract, self.heads[0]).out_dim

  def signs(self, values, batch):
    healthy = self.width**-0.5
    line = (
      f"the embeddings are nearly all the same: their standard deviation is "
      f"{values['embedding_std']:.2g}, of directions at random "
      f"{healthy:.2g}. Lower the learning rate, and look at the heads' norms."
    )
    collapsed = values["embedding_std"] < _COLLAPSED * healthy
    return {"collapse": line if collapsed else None}


@dataclasses.dataclass(frozen=True)
class TwoViews(Views):
  """An objective over two views of each image, of one size."""

  def images(self, batch: dict[str, jax.Array]) -> list[jax.Array]:
    """Returns the views, each uint8 [B, h, w, 3], in the order of names.

    There are two.
    """
    shared = self.setting.passes
    return [_passes.view(batch[k], i, shared) for k, i in self._images]

  @property
  def passes(self):
    return self._images

  @property
  def _images(self) -> tuple[tuple[str, int], ...]:
    views = self.setting.views
    return tuple((name, i) for name in views for i in range(views[name]))

  def flops(self) -> float:
    return 2 * super().flops()


def through(
  model: _base.Applied, x: jax.Array, heads: Sequence[str]
) -> jax.Array:
  """Returns what the heads, each on the one before it, make of rows x."""
  for name in heads:
    x = model.embed(lambda m, x, name=name: getattr(m, name)(x), x)
  return x


def metrics(
  loss: jax.Array, first: jax.Array, second: jax.Array
) -> dict[str, jax.Array]:
  """Returns what is logged of a step.

  "alignment" is the mean squared distance of an image's two unit embeddings,
  "embedding_std" the mean over features of the standard deviation of unit
  embeddings, d**-0.5 for directions at random and 0 for a collapse.

  Args:
    loss: of the batch.
    first, second: [B, d] embeddings of the two views; any scale.
  """
  z1, z2 = jax.lax.stop_gradient((unit(first), unit(second)))
  return {
    "loss": loss,
    "alignment": jnp.square(z1 - z2).sum(axis=-1).mean(),
    "embedding_std": z1.std(axis=0).mean(),
  }


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the mean cosine of rows of a and b, [B, d]."""
  return (unit(a) * unit(b)).sum(axis=-1).mean()


def check(setting: Setting, *heads: str) -> int:
  """Returns the number of micro-batches of a view.

  Raises:
    UserError: unless there are two views, and the model has the heads, each on
      the one before it.
  """
  if sum(setting.views.values()) != 2:
    raise errors.UserError(
      "config.views",
      dict(setting.views) or None,
      "two views of an image in all",
      'Name them in "views" of the part.'
      if setting.mixed
      else 'For two alike: {"view": {"ops": [...], "count": 2}}.',
    )
  return check_model(setting, *heads)


def check_one(setting: Setting, *heads: str) -> int:
  """Returns the number of micro-batches of the view.

  Raises:
    UserError: unless there is one view, and the model has the heads.
  """
  if sum(setting.views.values()) != 1:
    raise errors.UserError(
      "config.views",
      dict(setting.views) or None,
      "one view of an image",
      'For instance {"view": {"ops": [...]}}.',
    )
  return check_model(setting, *heads)


def check_model(setting: Setting, *heads: str) -> int:
  """Returns the number of micro-batches of a view.

  Raises:
    UserError: unless the model has the heads, and no text tower.
  """
  _base.require(setting.model, *heads)
  if "txt" in setting.model.parts and not setting.mixed:
    allowed = "no text tower: the objective reads images alone"
    raise errors.UserError("config.model.text", "set", allowed, "Leave it out.")
  count, _ = sharding.micro_batches(
    setting.micro_batch, setting.batch_size, setting.mesh
  )
  return count


def check_temperature(value: float, name: str = "temperature") -> float:
  """Returns 1 / temperature.

  Raises:
    UserError: unless it is a number above 0.
  """
  if not 0 < value < float("inf"):
    remedy = "SimCLR and MoCo have 0.07 to 0.5, MoCo v3 up to 1."
    allowed = "a finite number above 0"
    raise errors.UserError(name, value, allowed, remedy)
  return 1 / value
