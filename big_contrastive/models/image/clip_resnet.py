"""CLIP's ResNet (arXiv:2103.00020, section 2.4): attention pools its grid."""

from collections.abc import Callable
from typing import Any, Literal

import flax.nnx as nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from big_contrastive.config import errors
from big_contrastive.models import Features, attention, layers, pixels
from big_contrastive.models.image import _clip_blocks as blocks
from big_contrastive.models.layers import ExampleKeys, remat_policy

# Blocks per stage, width of the stem, heads, pixels and embedding width: the
# paper's table 19.
_FIELDS = ("layers", "width", "heads", "res", "out_dim")
VARIANTS: dict[str, tuple] = {
  "RN50": ((3, 4, 6, 3), 64, 32, 224, 1024),
  "RN101": ((3, 4, 23, 3), 64, 32, 224, 512),
  "RN50x4": ((4, 6, 10, 6), 80, 40, 288, 640),
  "RN50x16": ((6, 8, 18, 8), 96, 48, 384, 768),
  "RN50x64": ((3, 15, 36, 10), 128, 64, 448, 1024),
}
# Pixels per token, and the width of a token over that of the stem.
STRIDE, EXPANSION = 32, 32


class ClipResNet(nnx.Module):
  """Images to vectors, by convolutions and attention pooling.

  It differs from He's ResNet (arXiv:1512.03385) in three ways: three 3 x 3
  convolutions and an average pool before the blocks, an average pool in place
  of each later stride, and attention pooling, whose query is the grid's mean.

  Args:
    variant: a published size, see `VARIANTS`.
    res: image side in pixels, a multiple of 32.
    out_dim: width of the last linear layer, which has a bias.
    layers: number of blocks in each of the four stages.
    width: of the stem; tokens have 32 times as many features.
    heads: of attention pooling.
    norm_group: neighbors in the batch that share the statistics of batch
      norms in training; None for all of the batch.
    mean, std: per channel, of pixel values scaled to [0, 1].
    remat: what a block keeps for the backward pass, see layers.Transformer;
      its `REMAT` keeps the outputs of convolutions, too.
    dtype: compute dtype; parameters are float32 always.
  """

  max_patches = None

  def __init__(
    self,
    variant: str,
    *,
    res: int | None = None,
    out_dim: int | None = None,
    layers: tuple | list | None = None,
    width: int | None = None,
    heads: int | None = None,
    norm_group: int | None = None,
    mean: tuple | list = (0.48145466, 0.4578275, 0.40821073),
    std: tuple | list = (0.26862954, 0.26130258, 0.27577711),
    remat: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    changes = dict(layers=layers, width=width, heads=heads)
    size = sized(variant, **changes, res=res, out_dim=out_dim)
    self.res, self.out_dim = size["res"], size["out_dim"]
    self.mean, self.std, self.dtype = tuple(mean), tuple(std), dtype
    self.remat, self.pin = remat_policy(remat), pin
    self.depths, w = tuple(size["layers"]), size["width"]
    kwargs = dict(group=norm_group, dtype=dtype, rngs=rngs)
    self.stem = blocks.Stem(w, **kwargs)
    before = w
    for i, depth in enumerate(self.depths):
      stage = nnx.Module()
      for j in range(depth):
        stride = 2 if i and not j else 1
        block = blocks.Block(before, w * 2**i, stride, **kwargs)
        setattr(stage, f"block{j}", block)
        before = 4 * w * 2**i
      setattr(self, f"layer{i + 1}", stage)
    tokens, normal = (self.res // STRIDE) ** 2, _normal(before)
    self.pos = nnx.Param(normal(rngs.params(), (1 + tokens, before)))
    self.pool = _AttentionPool(before, size["heads"], dtype, rngs)
    self.project = nnx.Linear(
      before, self.out_dim, kernel_init=normal, dtype=dtype, rngs=rngs
    )

  def features(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Features:
    """Returns the last grid and what attention pools of it, in compute dtype.

    Tokens are the grid row by row, [b, (res / 32)**2, w], as attention pooling
    takes them but without positions; pooled, [b, w], are its values of all
    heads, of which the last linear layer makes the embedding.

    Args:
      image: uint8 pixels, normalized here, or floats normalized already.
      keys: any but None for training: norms take the batch's statistics and
        replace the running ones.
    """
    train = keys is not None
    x = pixels.normalized(image, self.mean, self.std, self.dtype)
    x = self.stem(x, train)
    for block in self._blocks():
      x = self._run(block, self.pin(x), train)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return Features(x, self.pool(x, self.pos[...].astype(x.dtype)))

  def __call__(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    return self.project(self.features(image, keys).pooled).astype(jnp.float32)

  @property
  def takes(self) -> tuple[int, ...]:
    """The shape of one input, (h, w)."""
    return self.res, self.res

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one image.

    With attention pooling, unlike in other towers: RN50 spends 7 % there.
    """
    side = self.res // 2
    total, side = self.stem.flops(side), side // 2
    for block in self._blocks():
      total += block.flops(side)
      side //= block.stride
    return total + self.pool.flops(side**2 + 1)

  def _blocks(self) -> list[blocks.Block]:
    return [
      getattr(getattr(self, f"layer{i + 1}"), f"block{j}")
      for i, depth in enumerate(self.depths)
      for j in range(depth)
    ]

  def _run(
    self, block: blocks.Block, x: blocks.Grid, train: bool
  ) -> blocks.Grid:
    if self.remat is None or not train:
      return block(x, train)
    # nnx.remat, as jax.checkpoint would lose the new running statistics.
    return nnx.remat(lambda b, x: b(x, train), policy=self.remat)(block, x)


def sized(variant: str, **changes: Any) -> dict[str, Any]:
  """Returns layers, width, heads, res and out_dim of a variant.

  Args:
    variant: a name in `VARIANTS`.
    changes: those that are not None replace the variant's.

  Raises:
    UserError: for an unknown variant, and sizes that do not fit together.
  """
  errors.choice("variant", variant, VARIANTS)
  size = dict(zip(_FIELDS, VARIANTS[variant], strict=True))
  size |= {k: v for k, v in changes.items() if v is not None}
  counts = size["layers"]
  if len(counts) != 4 or not all(isinstance(n, int) and n > 0 for n in counts):
    remedy = "RN50 has (3, 4, 6, 3)."
    allowed = "four numbers of blocks, each from 1 up"
    raise errors.UserError("layers", counts, allowed, remedy)
  _check_multiple("res", size["res"], STRIDE, "a token's pixels")
  _check_multiple("width", size["width"], 2, "the stem halves it")
  if size["heads"] < 1 or size["width"] * EXPANSION % size["heads"]:
    allowed = f"a divisor of {EXPANSION} * width, {size['width'] * EXPANSION}"
    remedy = "Published sizes have heads of 64 features."
    raise errors.UserError("heads", size["heads"], allowed, remedy)
  return size


def _check_multiple(name: str, value: int, unit: int, why: str) -> None:
  if value < 1 or value % unit:
    near = max(1, round(value / unit)) * unit
    allowed, remedy = f"a multiple of {unit}: {why}", f"The nearest is {near}."
    raise errors.UserError(name, value, allowed, remedy)


def _normal(width: int) -> Callable:
  return nnx.initializers.normal(width**-0.5)


class _AttentionPool(nnx.Module):
  """Multi-head attention whose query is the mean; without an output layer."""

  def __init__(self, width, heads, dtype, rngs: nnx.Rngs):
    kwargs = dict(kernel_init=_normal(width), dtype=dtype, rngs=rngs)
    split = (heads, width // heads)
    self.query = nnx.LinearGeneral(width, split, **kwargs)
    self.key = nnx.LinearGeneral(width, split, **kwargs)
    self.value = nnx.LinearGeneral(width, split, **kwargs)
    self.width = width

  def __call__(self, x: layers.Sequence, pos: Array) -> Float[Array, "b w"]:
    x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + pos[None]
    y = attention.attend(self.query(x[:, :1]), self.key(x), self.value(x))
    return y.reshape(x.shape[0], -1)

  def flops(self, length: int) -> float:
    """Returns forward FLOPs for that many keys; of one query."""
    return 2.0 * self.width * ((2 * length + 1) * self.width + 2 * length)


tower = ClipResNet
