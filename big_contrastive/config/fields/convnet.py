"""The image tower convnet."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class ConvNet:
  """A small residual network of 3 x 3 convolutions, for thousands of images.

  Batch norms keep running statistics, which evaluation goes by.
  """

  res: int = field(
    doc="Side of an image, a multiple of 2 ** (number of stages).",
    unit="pixels",
    why="32 to 48: a CPU's time grows with its square.",
  )
  in_channels: int = field(
    3, doc="Channels of an image.", why="1 and 2 in the tower two_colors.",
    unit="channels",
  )  # fmt: skip
  widths: tuple | list = field(
    (48, 96, 192),
    doc="Channels of each stage. The first sees the image at half its side, "
    "each further one at half the side of the one before it.",
    unit="channels",
  )
  depths: tuple | list = field(
    (1, 1, 1), doc="Residual convolutions of each stage.", unit="layers",
  )  # fmt: skip
  pool: Literal["gap", "flat"] = field(
    "gap",
    doc='The mean of the last grid, "gap", or all of it side by side, "flat".',
    why="flat knows where a thing is, and learns centered drawings in fewer "
    "steps. gap suits things in any place.",
  )
  out_dim: int | None = field(
    None,
    doc="Width of a last linear layer. None: no such layer.",
    unit="features",
  )
  mean: tuple | list = field(
    (0.5, 0.5, 0.5),
    doc="Subtracted from pixel values in [0, 1], for red, green and blue.",
  )
  std: tuple | list = field(
    (0.5, 0.5, 0.5), doc="Divides pixel values after that.",
  )  # fmt: skip
  norm: Literal["batch", "layer"] = field(
    "batch",
    doc='What is normalized together: each feature over the "batch", or all of '
    'an example, "layer".',
    why="CPC's task has a short cut through the batch's statistics.",
  )
  norm_group: int | None = field(
    None,
    doc="Neighbors in the batch whose mean and variance batch norms take in "
    "training. None: all of the batch, over all devices.",
    unit="examples",
  )
