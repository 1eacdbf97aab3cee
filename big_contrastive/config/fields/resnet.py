"""The image tower resnet."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class ResNet:
  """A ResNet, as torchvision has it, whose weights it takes.

  Batch norms keep running statistics, which evaluation goes by.
  """

  depth: Literal[18, 34, 50, 101, 152] = field(
    doc="Layers: 18 and 34 of basic blocks, the others of bottlenecks.",
    unit="layers",
    paper="ResNet, arXiv:1512.03385, table 1",
  )
  res: int = field(doc="Side of an image.", unit="pixels")
  in_channels: int = field(
    3, doc="Channels of an image.", why="1 and 2 in the tower two_colors.",
    unit="channels",
  )  # fmt: skip
  width: int | float = field(
    1,
    doc="Factor of the number of features of all layers, from the first on.",
    unit="factor",
    why="SimCLR has 2 and 4, too, CMC 0.5. torchvision's wide ResNets are "
    "others: they widen the 3 x 3 convolutions alone.",
    paper="SimCLR, arXiv:2002.05709, section 4.1",
  )
  stem_width: int | None = field(
    None,
    doc="Features of the first convolution. None: 64 times `width`.",
    unit="features",
    why="CMC has 64 at any width.",
  )
  stem: Literal["imagenet", "cifar"] = field(
    "imagenet",
    doc='What precedes the blocks: "imagenet" a 7 x 7 convolution with stride '
    '2 and a max pool, "cifar" a 3 x 3 convolution alone.',
    why="cifar is for images of about 32 pixels, whose last grid then has 4 x "
    "4 places, not one.",
    paper="SimCLR, arXiv:2002.05709, appendix B.9",
  )
  stages: int = field(
    4,
    doc="How many of the four stages there are.",
    unit="stages",
    why="3 in CPC.",
    paper="CPC, arXiv:1807.03748, section 3.2",
  )
  zero_gain: bool = field(
    False,
    doc="Begin the scale of the last norm of each block with 0, so that blocks "
    "begin as identities; without norms, the last convolution.",
    why="torchvision does not by default. Most recipes of large batches do.",
    paper="arXiv:1706.02677, section 5.1",
  )
  norm: Literal["batch", "layer", "none"] = field(
    "batch",
    doc='What follows a convolution: "batch" normalization of each feature, '
    '"layer" normalization of all of an example, or "none", a bias.',
    why="CPC's task has a short cut through the batch's statistics: v1 has "
    "none, v2 layer. torchvision has batch.",
    paper="CPC v2, arXiv:1905.09272",
  )
  norm_group: int | None = field(
    None,
    doc="Neighbors in the batch whose mean and variance batch norms take in "
    "training. None: all of the batch, over all devices.",
    unit="examples",
    why="SimCLR takes the batch of all devices. MoCo needs groups.",
  )
  norm_decay: float = field(
    0.9,
    doc="Decay of the running mean and variance, a step.",
    unit="fraction",
    why="PyTorch's momentum of 0.1; SimCLR has 0.9, too.",
  )
  out_dim: int | None = field(
    None,
    doc="Width of a last linear layer. None: no such layer; the embedding has "
    "the width of the last stage, 512 or 2048 times `width`.",
    unit="features",
  )
  out_bias: bool = field(False, doc="Whether that layer has a bias.")
  mean: tuple | list = field(
    (0.485, 0.456, 0.406),
    doc="Subtracted from pixel values in [0, 1], for red, green and blue.",
    why="ImageNet's, as in torchvision. SimCLR subtracts nothing.",
  )
  std: tuple | list = field(
    (0.229, 0.224, 0.225), doc="Divides pixel values after that.",
  )  # fmt: skip
  eps: float = field(
    1e-5, doc="Added to the variance in batch norms.", why="PyTorch's.",
  )  # fmt: skip
