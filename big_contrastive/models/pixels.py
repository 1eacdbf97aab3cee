"""Pixels, normalized on the device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def normalized(
  image: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any
) -> jax.Array:
  """Returns pixels as an image tower takes them.

  Args:
    image: uint8 [..., 3]; floats are normalized already, and stay.
    mean, std: per channel, of values scaled to [0, 1].
    dtype: of the result.
  """
  if image.dtype != jnp.uint8:
    return image.astype(dtype)
  shape = (1,) * (image.ndim - 1) + (3,)
  less, over = (jnp.asarray(v).reshape(shape) for v in (mean, std))
  return ((image / jnp.float32(255) - less) / over).astype(dtype)
