"""An image tower: a ResNet (arXiv:1512.03385), as torchvision has it."""

from collections.abc import Callable, Iterator
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from big_contrastive.config import errors
from big_contrastive.models import Features, layers, norms, pixels
from big_contrastive.models.layers import ExampleKeys

# Blocks in each of the four stages, and whether they are bottlenecks: table 1.
DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}
# Of ImageNet's pixels, scaled to [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# He et al., arXiv:1502.01852, over outputs.
_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")

Grid = Float[Array, "b _ _ _"]  # Rows, columns, features.


class ResNet(nnx.Module):
  """Images to vectors, by four stages of residual blocks.

  A bottleneck strides in its 3 x 3 convolution, as torchvision's do, not in its
  first one, as in the paper. Batch norms have the statistics of the batch in
  training, and replace the running ones, by which they evaluate.

  Args:
    depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
    res: image side in pixels.
    in_channels: of the image; others than 3 are given as normalized floats.
    width: factor of the number of features of all layers, from the stem on, as
      in SimCLR (arXiv:2002.05709): ResNet-50 (2x) is depth 50, width 2.
      torchvision's wide ResNets widen 3 x 3 convolutions only, and differ.
    stem_width: features of the stem; None for 64 width.
    stem: "imagenet", 7 x 7 with stride 2 and a max pool with stride 2; or
      "cifar", 3 x 3 without strides, for images of about 32 pixels.
    stages: how many of the four there are: three in CPC (arXiv:1807.03748).
    zero_gain: whether the scale of the last norm of each residual branch
      begins with 0 (arXiv:1706.02677), so that the blocks begin as identities;
      without norms, the last convolution of each.
    norm: what follows each convolution: "batch", "layer" over each example, or
      "none", which gives the convolutions biases.
    norm_group: neighbors in the batch that share the statistics of batch norms
      in training; None for all of the batch.
    norm_decay: of running statistics, a step: PyTorch's momentum is 1 less it.
    out_dim: width of a last linear layer; None for none.
    out_bias: whether that layer has a bias.
    mean, std: per channel, of pixel values scaled to [0, 1].
    eps: added to the variance in batch norms.
    remat: what a block keeps for the backward pass, see layers.remat_policy.
    dtype: compute dtype; parameters and statistics are float32 always.
    pin: splits activations over the mesh's batch axes.
  """

  def __init__(
    self,
    depth: Literal[18, 34, 50, 101, 152],
    res: int,
    *,
    in_channels: int = 3,
    width: int | float = 1,
    stem_width: int | None = None,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    stages: int = 4,
    zero_gain: bool = False,
    norm: norms.Kind = "batch",
    norm_group: int | None = None,
    norm_decay: float = 0.9,
    out_dim: int | None = None,
    out_bias: bool = False,
    mean: tuple | list = MEAN,
    std: tuple | list = STD,
    eps: float = 1e-5,
    remat: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    if not 0 <= norm_decay < 1:
      allowed = "a number from 0 to below 1"
      remedy = "PyTorch's momentum of 0.1 is 0.9."
      raise errors.UserError("norm_decay", norm_decay, allowed, remedy)
    if not 1 <= stages <= 4:
      remedy = "CPC leaves out the fourth."
      raise errors.UserError("stages", stages, "1 to 4", remedy)
    depths, bottleneck = DEPTHS[depth]
    self.depths = depths[:stages]
    self.res, self.pools, self.dtype = res, stem == "imagenet", dtype
    self.mean, self.std = tuple(mean), tuple(std)
    self.remat, self.pin = layers.remat_policy(remat), pin
    kwargs = dict(norm=norm, group=norm_group, decay=norm_decay, eps=eps)
    kwargs |= dict(dtype=dtype, rngs=rngs)
    base = _base(width)
    features = stem_width or base
    side, stride = (7, 2) if self.pools else (3, 1)
    self.stem = _Convolution(in_channels, features, side, stride, **kwargs)
    for i, blocks in enumerate(self.depths):
      stage = nnx.Module()
      for j in range(blocks):
        stride = 2 if i and not j else 1
        sizes = (features, base * 2**i, stride, bottleneck)
        block = Block(*sizes, zero_gain=zero_gain, **kwargs)
        setattr(stage, f"block{j}", block)
        features = block.features
      setattr(self, f"stage{i + 1}", stage)
    self.projects = out_dim is not None
    if out_dim is not None:
      linear = dict(use_bias=out_bias, dtype=dtype, rngs=rngs)
      self.project = nnx.Linear(features, out_dim, **linear)
    self.out_dim = out_dim or features

  def features(
    self, image: Num[Array, "b h w c"], keys: ExampleKeys = None
  ) -> Features:
    """Returns the last grid and its mean, in compute dtype.

    Tokens are the grid row by row, [b, (res / 32)**2, w] after four stages;
    with the stem "cifar", [b, (res / 8)**2, w].

    Args:
      image: uint8 pixels of RGB, normalized here, or normalized floats.
      keys: None evaluates; with any others, which draw nothing, batch norms
        take the statistics of the batch and replace the running ones.
    """
    train = keys is not None
    x = pixels.normalized(image, self.mean, self.std, self.dtype)
    x = jax.nn.relu(self.stem(self.pin(x), train))
    if self.pools:
      x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for block in self._blocks():
      x = self._run(block, self.pin(x), train)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return Features(x, x.mean(axis=1))

  def __call__(
    self, image: Num[Array, "b h w c"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    x = self.features(image, keys).pooled
    x = self.project(x) if self.projects else x
    return x.astype(jnp.float32)

  @property
  def takes(self) -> tuple[int, ...]:
    """The shape of one input, (h, w)."""
    return self.res, self.res

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one image, those of convolutions."""
    total, side = self.stem.flops(self.res)
    side = -(-side // 2) if self.pools else side
    for block in self._blocks():
      more, side = block.flops(side)
      total += more
    return total

  def _blocks(self) -> Iterator["Block"]:
    for i, blocks in enumerate(self.depths):
      for j in range(blocks):
        yield getattr(getattr(self, f"stage{i + 1}"), f"block{j}")

  def _run(self, block: "Block", x: Grid, train: bool) -> Grid:
    if self.remat is None or not train:
      return block(x, train)
    # nnx's: jax.checkpoint would lose the new running statistics.
    return nnx.remat(lambda b, x: b(x, train), policy=self.remat)(block, x)


def _base(width: int | float) -> int:
  """Returns the features of the first stage, before a bottleneck widens them.

  Raises:
    UserError: unless they are a whole number from 1 up.
  """
  if not 64 * width >= 1 or 64 * width % 1:
    allowed = "a multiple of 1/64, above 0"
    raise errors.UserError("width", width, allowed, "0.5, 1 and 2 are usual.")
  return int(64 * width)


class Block(nnx.Module):
  """relu(shortcut(x) + branch(x)): two convolutions, or three (bottleneck).

  Args:
    before: features of its input.
    width: features inside; a bottleneck returns four times as many.
    stride: of the first 3 x 3 convolution, and of the shortcut.
    bottleneck: whether 1 x 1 convolutions narrow and widen its input.
    zero_gain: see ResNet.
    kwargs: of _Convolution.
  """

  def __init__(self, before, width, stride, bottleneck, *, zero_gain, **kwargs):
    self.features = 4 * width if bottleneck else width
    self.bottleneck = bottleneck
    self.projects = stride > 1 or before != self.features
    last = dict(zero=zero_gain)
    if bottleneck:
      self.conv1 = _Convolution(before, width, 1, **kwargs)
      self.conv2 = _Convolution(width, width, 3, stride, **kwargs)
      self.conv3 = _Convolution(width, self.features, 1, **last, **kwargs)
    else:
      self.conv1 = _Convolution(before, width, 3, stride, **kwargs)
      self.conv2 = _Convolution(width, width, 3, **last, **kwargs)
    if self.projects:
      self.shortcut = _Convolution(before, self.features, 1, stride, **kwargs)

  def __call__(self, x: Grid, train: bool) -> Grid:
    first, *others = self._branch()
    y = first(x, train)
    for conv in others:
      y = conv(jax.nn.relu(y), train)
    x = self.shortcut(x, train) if self.projects else x
    return jax.nn.relu(x + y)

  def flops(self, side: int) -> tuple[float, int]:
    """Returns forward FLOPs, and the side after it, of a grid of that side."""
    total = self.shortcut.flops(side)[0] if self.projects else 0.0
    for conv in self._branch():
      more, side = conv.flops(side)
      total += more
    return total, side

  def _branch(self) -> list["_Convolution"]:
    last = [self.conv3] if self.bottleneck else []
    return [self.conv1, self.conv2, *last]


class _Convolution(nnx.Module):
  """A convolution padded alike on all sides, and its norm or else its bias."""

  def __init__(
    self, before, after, side, stride=1, *, zero=False, norm="batch", dtype,
    rngs, **kwargs,
  ):  # fmt: skip
    bare = norm == "none"
    self.conv = nnx.Conv(
      before, after, (side, side), stride, padding=side // 2, use_bias=bare,
      kernel_init=nnx.initializers.zeros if zero and bare else _init,
      dtype=dtype, rngs=rngs,
    )  # fmt: skip
    self.norm = norms.norm(norm, after, zero=zero, dtype=dtype, **kwargs)
    self.stride, self.macs = stride, side**2 * before * after

  def __call__(self, x: Grid, train: bool) -> Grid:
    x = self.conv(x)
    return x if self.norm is None else self.norm(x, train)

  def flops(self, side: int) -> tuple[float, int]:
    """Returns forward FLOPs, and the side after it, of a grid of that side."""
    side = -(-side // self.stride)
    return 2.0 * side**2 * self.macs, side


tower = ResNet
