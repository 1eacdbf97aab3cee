"""The image tower clip_resnet."""

import dataclasses

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class ClipResNet:
  """CLIP's ResNet: convolutions with batch norms, then attention pooling.

  It has a stem of three convolutions, average pools in place of strides, and a
  last linear layer with a bias.
  """

  variant: str = field(
    doc="RN50, RN101, RN50x4, RN50x16 or RN50x64.",
    paper="CLIP, arXiv:2103.00020, table 19",
  )
  res: int | None = field(
    None,
    doc="Side of an image, a multiple of 32. None: the variant's.",
    unit="pixels",
    why="224 to 448 in the paper.",
  )
  out_dim: int | None = field(
    None, doc="Width of the last linear layer. None: the variant's.",
    unit="features", why="512 to 1024 in the paper.",
  )  # fmt: skip
  layers: tuple | list | None = field(
    None, doc="Blocks in each of the four stages. None: the variant's.",
    unit="blocks", why="RN50 has (3, 4, 6, 3).",
  )  # fmt: skip
  width: int | None = field(
    None,
    doc="Width of the stem; tokens have 32 times as many. None: the variant's.",
    unit="features",
    why="64 in RN50, 128 in RN50x64.",
  )
  heads: int | None = field(
    None,
    doc="Heads of attention pooling, a divisor of 32 * width. None: the "
    "variant's.",
    unit="heads",
    why="Published heads have 64 features each.",
  )
  norm_group: int | None = field(
    None,
    doc="Neighbors in the batch whose mean and variance batch norms take in "
    "training. None: all of the batch, over all devices.",
    unit="examples",
    why="The paper does not say; OpenCLIP takes the examples of one device.",
  )
  mean: tuple | list = field(
    (0.48145466, 0.4578275, 0.40821073),
    doc="Subtracted from pixel values in [0, 1], for red, green and blue.",
    why="CLIP's, of its data.",
  )
  std: tuple | list = field(
    (0.26862954, 0.26130258, 0.27577711),
    doc="Divides pixel values after that.",
  )
