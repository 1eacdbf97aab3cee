"""A decoder of patches that the image tower did not see: MAE's."""

from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from big_contrastive.config import errors
from big_contrastive.models import layers, pixels, positions
from big_contrastive.models.attention import xavier
from big_contrastive.models.image import vit
from big_contrastive.models.patches import joined, patchify

Patches = Float[Array, "b l p"]
Kept = Int[Array, "b k"]

_EPS = 1e-6  # Added to the variance of a patch.


class PatchDecoder(nnx.Module):
  """Tokens of some patches to the pixels of all (arXiv:2111.06377).

  A linear layer to its own width, the mask token in the place of each patch
  that was not seen, the fixed positions "sincos2d_mae", blocks as in the tower,
  a layer norm, and a linear layer to the pixels of a patch. A class token is
  among the tokens, without a position.

  Args:
    tower: the image tower, a ViT for images of one size, pool "tok" or "gap".
    width, depth, heads: of the blocks.
    mlp: width of their hidden layer; None for 4 * width.
    normalize: whether the target of a patch is its pixels less their mean over
      their standard deviation.
    eps, activation, remat, pin: see layers.Transformer.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    tower: Any,
    *,
    width: int = 512,
    depth: int = 8,
    heads: int = 16,
    mlp: int | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
    activation: layers.Activation = "gelu",
    remat: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    _check_tower(tower)
    size = {"width": width, "depth": depth, "heads": heads}
    size["mlp"] = 4 * width if mlp is None else mlp
    for name, value in size.items():
      errors.at_least(name, value, 1)
    size = layers.sized("B", **size)
    self.side, self.patch, self.has_cls = tower.side, tower.patch, tower.has_cls
    self.mean, self.std = tower.mean, tower.std
    self.normalize, self.out_dim = normalize, self.patch**2 * 3
    linear = dict(kernel_init=xavier, dtype=dtype, rngs=rngs)
    self.embed = nnx.Linear(tower.width, width, **linear)
    normal = nnx.initializers.normal(0.02)
    self.mask_token = nnx.Param(normal(rngs.params(), (width,)))
    table = positions.sincos2d(self.side, width, "sincos2d_mae")
    self.pos = positions.Fixed(table)
    self.transformer = layers.Transformer(
      **size, causal=False, activation=activation, eps=eps, dropout=0.0,
      remat=remat, dtype=dtype, pin=pin, rngs=rngs,
    )  # fmt: skip
    self.pixels = nnx.Linear(width, self.out_dim, **linear)

  def __call__(self, tokens: Float[Array, "b n w"], kept: Kept) -> Patches:
    """Returns what it tells of all patches, float32 [b, l, patch * patch * 3].

    Args:
      tokens: of the image tower, which saw the patches `kept`, in that order.
      kept: their places, int32.
    """
    x = self.embed(tokens)
    first, seen = x[:, : self.has_cls], x[:, self.has_cls :]
    blank = self.mask_token[...].astype(x.dtype)
    blank = jnp.broadcast_to(blank, (self.side**2, len(blank)))
    x = jax.vmap(lambda at, seen: blank.at[at].set(seen))(kept, seen)
    x = x + self.pos.array.astype(x.dtype)[None]
    x = self.transformer(jnp.concatenate([first, x], axis=1))
    return self.pixels(x[:, self.has_cls :]).astype(jnp.float32)

  def patches(self, image: Num[Array, "b h w 3"]) -> Patches:
    """Returns the pixels of patches, float32, as the tower normalizes them."""
    image = pixels.normalized(image, self.mean, self.std, jnp.float32)
    return patchify(image, self.patch)

  def targets(self, patches: Patches) -> Patches:
    """Returns what is to be told of patches."""
    mean, std = self._moments(patches)
    return (patches - mean) / std

  def restored(self, told: Patches, patches: Patches) -> Patches:
    """Returns pixels of what was told, by the true patches' mean and std."""
    mean, std = self._moments(patches)
    return told * std + mean

  def image(self, patches: Patches) -> Float[Array, "b h w 3"]:
    """Returns the pixels of images, in [0, 1]: the inverse of `patches`."""
    mean, std = (jnp.asarray(v, jnp.float32) for v in (self.mean, self.std))
    x = patches.reshape(*patches.shape[:2], -1, 3)
    x = x * std[None, None, None] + mean[None, None, None]
    return jnp.clip(joined(x.reshape(patches.shape), self.patch), 0, 1)

  def flops(self, patches: int) -> float:
    """Returns forward FLOPs of one image of which so many patches are seen."""
    every, width = self.side**2, self.transformer.width
    embed = 2.0 * (patches + self.has_cls) * self.embed.in_features * width
    last = 2.0 * every * width * self.out_dim
    return embed + self.transformer.flops(every + self.has_cls) + last

  def _moments(self, patches: Patches) -> tuple[jax.Array, jax.Array]:
    if not self.normalize:
      return jnp.float32(0), jnp.float32(1)
    # The variance is the unbiased one, as torch's.
    var = patches.var(axis=-1, keepdims=True, ddof=1)
    return patches.mean(axis=-1, keepdims=True), jnp.sqrt(var + _EPS)


def seen(mask: float, patches: int) -> int:
  """Returns how many patches a mask leaves, int(patches * (1 - mask)).

  Raises:
    UserError: if that is none, or all.
  """
  fine = type(mask) in (int, float) and 0 < mask < 1
  kept = int(patches * (1 - mask)) if fine else 0
  if not 0 < kept < patches:
    allowed = f"a part that leaves 1 to {patches - 1} of {patches} patches"
    raise errors.UserError("mask", mask, allowed, "MAE has 0.75.")
  return kept


def masked(kept: Kept, patches: int) -> Float[Array, "b l"]:
  """Returns 1 for each of so many patches that is not kept, else 0."""
  ones = jnp.ones(patches, jnp.float32)
  return jax.vmap(lambda at: ones.at[at].set(0))(kept)


def _check_tower(tower: Any) -> None:
  """Raises UserError for an image tower whose patches can't be left out."""
  where, allowed = "config.model.image", "a ViT for images of one size"
  if not isinstance(tower, vit.ImageTower) or tower.max_patches is not None:
    remedy = "Its patches are left out; leave out tower and max_patches."
    raise errors.UserError(where, type(tower).__name__, allowed, remedy)
  if tower.pool not in ("tok", "gap"):
    remedy = "Nothing would train another pooling."
    raise errors.UserError(f"{where}.pool", tower.pool, '"tok", "gap"', remedy)


head = PatchDecoder
