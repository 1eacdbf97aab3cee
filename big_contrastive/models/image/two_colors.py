"""An image tower of two: one sees lightness, one color, as in CMC (1906.05849).

Its vectors are those of both, side by side.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from big_contrastive.config import errors, registry, schema
from big_contrastive.models import Features, colors
from big_contrastive.models.layers import ExampleKeys


class TwoColors(nnx.Module):
  """Images to the vectors of two towers, concatenated.

  Attributes:
    widths: of the vectors of the towers `light` and `color`.

  Args:
    res: image side in pixels.
    each: of both towers: "tower", a file in models/image whose tower takes
      `in_channels`, and its fields. They see normalized values: mean and std
      have no effect.
    space: of the colors, a name in colors.SPACES.
    dtype, remat, pin, rngs: of both towers.
  """

  def __init__(
    self,
    res: int,
    *,
    each: dict,
    space: Literal["lab", "ycbcr", "ydbdr"] = "lab",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: str = "none",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    self.res, self.space = res, space
    kwargs = {"res": res, "dtype": dtype, "remat": remat, "pin": pin}
    kwargs["rngs"] = rngs
    self.light = _tower(each, kwargs | {"in_channels": 1})
    self.color = _tower(each, kwargs | {"in_channels": 2})
    self.widths = self.light.out_dim, self.color.out_dim
    self.out_dim = sum(self.widths)

  def features(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Features:
    """Returns tokens and pooled vectors of both, the features side by side.

    Args:
      image: uint8 pixels of RGB, or floats in the space, normalized already.
      keys: one per example, for randomness in training; None evaluates.
    """
    light, color = self._seen(image)
    first = self.light.features(light, keys)
    second = self.color.features(color, keys)
    tokens = jnp.concatenate([first.tokens, second.tokens], axis=-1)
    pooled = jnp.concatenate([first.pooled, second.pooled], axis=-1)
    return Features(tokens, pooled)

  def __call__(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    light, color = self._seen(image)
    vectors = self.light(light, keys), self.color(color, keys)
    return jnp.concatenate(vectors, axis=-1)

  def _seen(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what each tower sees, [b, h, w, 1] and [b, h, w, 2]."""
    if image.dtype == jnp.uint8:
      image = colors.normalized(image, self.space)
    return image[..., :1], image[..., 1:]

  @property
  def takes(self) -> tuple[int, ...]:
    """The shape of one input, (h, w)."""
    return self.res, self.res

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one image."""
    return self.light.flops(train) + self.color.flops(train)


def _tower(each: dict[str, Any], kwargs: dict[str, Any]) -> Any:
  """Returns one of the two towers."""
  where = "config.model.image.each"
  fields = dict(each)
  name = fields.pop("tower", None)
  make = registry.module("models.image", name, f"{where}.tower").tower
  if "in_channels" not in inspect.signature(make.__init__).parameters:
    allowed = "a tower that takes in_channels, like convnet and resnet"
    raise errors.UserError(f"{where}.tower", name, allowed, "Choose one.")
  return schema.call(make, fields, where, kwargs)


tower = TwoColors
