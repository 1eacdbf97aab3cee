"""Images as patches, and random subsets of them."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.models.layers import ExampleKeys

EmbeddingInit = Literal["lecun_normal", "xavier_uniform", "torch"]


def embedding_inits(name: EmbeddingInit, fan_in: int) -> dict[str, Callable]:
  """Returns what draws the kernel of a patch embedding, and its bias.

  Args:
    name: "torch" is what PyTorch's convolutions have: both uniform within
      fan_in**-0.5; the others have no bias at first.
    fan_in: numbers of a patch.
  """
  if name == "torch":
    bound = fan_in**-0.5

    def uniform(key, shape, dtype, **_):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": uniform, "bias_init": uniform}
  return {"kernel_init": getattr(nnx.initializers, name)()}


def patchify(
  image: Float[Array, "b h w c"], patch: int
) -> Float[Array, "b l p"]:
  """Returns [b, patches, patch * patch * c], row by row, pixel by pixel.

  Pixels past the last whole patch are ignored.
  """
  b, h, w, c = image.shape
  h, w = h // patch * patch, w // patch * patch
  image = image[:, :h, :w]
  x = image.reshape(b, h // patch, patch, w // patch, patch, c)
  return x.swapaxes(2, 3).reshape(b, -1, patch * patch * c)


def kept_patches(patches: int, keep: float) -> int:
  """Returns the number of patches in a fraction of them, at least one."""
  return max(1, round(patches * keep))


def draw_patches(keys: ExampleKeys, patches: int, keep: float) -> jax.Array:
  """Returns int32 [b, kept], the sorted indices of the patches to keep.

  Every subset of that many patches is equally likely, drawn per example.
  """
  count = kept_patches(patches, keep)
  noise = jax.vmap(lambda k: jax.random.uniform(k, (patches,)))(keys)
  return jnp.sort(jnp.argsort(noise, axis=1)[:, :count], axis=1)
