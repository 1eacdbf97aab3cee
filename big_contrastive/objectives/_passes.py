"""One pass of the image tower over an image, for all who read it in a step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.models import model as models
from big_contrastive.models.built import Built


class Passes:
  """What was computed in a step, by the arrays that it was computed from."""

  def __init__(self) -> None:
    self._known: dict[tuple, tuple[Sequence[Any], jax.Array]] = {}

  def once(
    self, what: tuple, inputs: Sequence[Any], make: Callable[[], jax.Array]
  ) -> jax.Array:
    """Returns make(), or what it returned for the same inputs.

    Args:
      what: names what is made, and has all else that it depends on.
      inputs: the same objects, not equal ones.
      make: called the first time.
    """
    key = *what, *map(id, inputs)
    if key not in self._known:
      # With its inputs: an id is one object's only as long as that lives.
      self._known[key] = inputs, make()
    return self._known[key][1]


def view(x: jax.Array, index: int, passes: Passes | None) -> jax.Array:
  """Returns the images x[:, index] of a view [B, count, h, w, 3]."""
  if passes is None:
    return x[:, index]
  return passes.once(("view", index), (x,), lambda: x[:, index])


def may_be_shared(model: Built) -> bool:
  """Returns whether the image tower makes the same of an image in any pass.

  It draws nothing at random in training, and keeps no running statistics.
  """
  tower = model.abstract.img
  if "img" in model.statistics or len(tower.takes) == 1:
    return False
  image = jax.ShapeDtypeStruct((1, *tower.takes, 3), np.uint8)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  traced = jax.make_jaxpr(lambda tower, x, keys: tower.features(x, keys)[1])(
    tower, image, keys
  )
  needed = {id(v) for v in traced.jaxpr.outvars}
  for equation in reversed(traced.jaxpr.eqns):
    if needed & {id(v) for v in equation.outvars}:
      needed |= {id(v) for v in equation.invars}
  return id(traced.jaxpr.invars[-1]) not in needed  # The keys.


def image_tower(model: models.Model, image: jax.Array, keys: Any) -> jax.Array:
  """Returns the image tower's vectors [b, d], not normalized."""
  return model.img(image, keys)


def pooled(model: models.Model, image: jax.Array, keys: Any) -> jax.Array:
  """Returns what the image tower pooled [b, w], float32."""
  return model.img.features(image, keys).pooled.astype(jnp.float32)


def projected(model: models.Model, x: jax.Array) -> jax.Array:
  """Returns the image tower's vectors [b, d] of what it pooled."""
  tower: Any = model.img
  return (tower.project(x) if tower.projects else x).astype(jnp.float32)


# What embeds images, as a function of what the tower pooled of them.
OF_POOLED: dict[Callable, Callable[[models.Model, jax.Array], jax.Array]] = {
  pooled: lambda model, x: x,
  image_tower: projected,
  models.Model.embed_image: lambda model, x: models.unit(projected(model, x)),
}
