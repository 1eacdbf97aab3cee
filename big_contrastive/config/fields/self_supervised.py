"""The objectives over views of images alone."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

_TILE = "Rows of logits that are alive at a time on a device. None: as many "
_TILE += "as take the memory of the embeddings."


@dataclasses.dataclass(kw_only=True)
class SimCLR:
  """SimCLR and SimCLR v2: each view against all others of the global batch.

  The model has the head "projector".
  """

  temperature: float = field(
    0.1, doc="Of the logits.", why="0.1 for ImageNet, 0.5 for CIFAR-10.",
    paper="SimCLR, arXiv:2002.05709",
  )  # fmt: skip
  joint: bool = field(
    True, doc="Whether both views are one batch for batch norms.",
    why="So in the official code; in SLIP each view is one.",
  )  # fmt: skip
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class MoCo:
  """MoCo v1 and v2: a teacher's key against a queue of older keys.

  The model has the head "projector". Where the tower normalizes in groups
  (norm_group), the teacher's images are shuffled, as the papers do.
  """

  temperature: float = field(
    0.2, doc="Of the logits.", why="0.07 in v1, 0.2 in v2.",
    paper="MoCo v2, arXiv:2003.04297",
  )  # fmt: skip
  queue: int = field(
    65_536, doc="Keys in the queue, a multiple of the batch.", unit="keys",
    paper="MoCo, arXiv:1911.05722",
  )  # fmt: skip
  momentum: float = field(
    0.999, doc="Of the teacher.", unit="fraction kept per step",
  )  # fmt: skip
  symmetric: bool = field(
    False,
    doc="Whether each view is query and key; then both views' keys enter the "
    "queue.",
    why="Takes twice the FLOPs, and learns more in an epoch.",
  )
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class MoCoV3:
  """MoCo v3: a teacher's keys of the global batch, no queue.

  The model has the head "projector", and "predictor" on it.
  """

  temperature: float = field(
    0.2, doc="Of the logits.", why="0.2 for ViTs, 1 for ResNets.",
    paper="MoCo v3, arXiv:2104.02057",
  )  # fmt: skip
  momentum: float = field(
    0.99, doc="Of the teacher, at the first step.",
    unit="fraction kept per step", why="0.996 for 1000 epochs of ResNet-50.",
  )  # fmt: skip
  schedule: Literal["cosine", "constant"] = field(
    "cosine", doc='Of the momentum: "cosine" rises to 1 at the end of the run.',
  )  # fmt: skip
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class BYOL:
  """BYOL: predicts a teacher's projection of the other view, no negatives.

  The model has the head "projector", and "predictor" on it.
  """

  momentum: float = field(
    0.996, doc="Of the teacher, at the first step.",
    unit="fraction kept per step",
    why="0.97, 0.99, 0.99 and 0.996 for 40, 100, 300 and 1000 epochs.",
    paper="BYOL, arXiv:2006.07733",
  )  # fmt: skip
  schedule: Literal["cosine", "constant"] = field(
    "cosine", doc='Of the momentum: "cosine" rises to 1 at the end of the run.',
  )  # fmt: skip
  teacher: Literal["random", "copy"] = field(
    "random",
    doc='Its first weights: "random" ones of its own, or a "copy" of the '
    "student's.",
    why="The official code has random ones. With config.init, choose copy.",
  )


@dataclasses.dataclass(kw_only=True)
class SimSiam:
  """SimSiam: predicts the projection of the other view, nothing else.

  The model has the head "projector", and "predictor" on it. It has no fields.
  """
