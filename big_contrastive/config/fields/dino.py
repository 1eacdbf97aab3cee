"""DINO: the objective, and its head."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import DURATION, Duration, field


@dataclasses.dataclass(kw_only=True)
class Head:
  """An MLP to unit vectors, and logits: their products with prototypes."""

  out_dim: int = field(65_536, doc="How many.", unit="prototypes")
  hidden: int = field(2048, doc="Width between the MLP's layers.")
  bottleneck: int = field(
    256, doc="Width of the vectors that meet the prototypes.",
  )  # fmt: skip
  depth: int = field(
    3, doc="Number of linear layers of the MLP.", unit="layers"
  )
  norm: bool = field(
    False, doc="Whether a batch norm follows each of them but the last.",
    why="use_bn_in_head of the official code.",
  )  # fmt: skip
  gain: bool = field(
    False,
    doc="Whether prototypes have trained lengths, 1 at first; else they are 1.",
    why="norm_last_layer=False of the official code has them: ViT-S may learn "
    "more with them, larger models need False.",
  )


@dataclasses.dataclass(kw_only=True)
class DINO:
  """DINO: a student's distributions over prototypes against a teacher's.

  The model has the head "projector", of name dino. The view "local" is of small
  crops, if there is one; the others are two in all, and the teacher's. The
  teacher is what is evaluated, loaded and converted.
  """

  temperature: float = field(
    0.1, doc="Of the student.", paper="DINO, arXiv:2104.14294",
  )  # fmt: skip
  teacher_temperature: float = field(
    0.04, doc="Of the teacher, at first. A lower one is sharper.",
    why="With more than 0.07, or without a rise, training may collapse.",
  )  # fmt: skip
  final_teacher_temperature: float | None = field(
    None, doc="Of the teacher, after its rise. None: it stays the same.",
    why="0.07 in the longer runs of the official code.",
  )  # fmt: skip
  temperature_warmup: Duration = field(
    "30 epochs",
    doc="Length of that linear rise, both ends in it; in epochs, all steps of "
    "an epoch have the same.",
    unit=DURATION,
  )
  momentum: float = field(
    0.996, doc="Of the teacher, at the first step.",
    unit="fraction kept per step",
    why="The official code suggests 0.9995 for batches of 256.",
  )  # fmt: skip
  schedule: Literal["cosine", "constant"] = field(
    "cosine", doc='Of the momentum: "cosine" rises to 1 at the end of the run.',
  )  # fmt: skip
  center_momentum: float = field(
    0.9, doc="Of the mean of the teacher's logits, which is taken off them.",
    unit="fraction kept per step",
  )  # fmt: skip
  tile: int | None = field(
    None,
    doc="Rows of logits, of whole images, that are alive at a time on a "
    "device. None: those of 4 million logits.",
    unit="rows",
  )
