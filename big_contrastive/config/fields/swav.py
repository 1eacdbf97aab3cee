"""SwAV: the objective, and its head."""

import dataclasses

from big_contrastive.config.fields.field import DURATION, Duration, field


@dataclasses.dataclass(kw_only=True)
class Prototypes:
  """The directions of clusters: unit vectors to their cosines with them."""

  count: int = field(
    doc="How many.", unit="prototypes",
    why="3000 in SwAV, about three times the classes of ImageNet.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class SwAV:
  """SwAV: views predict each other's cluster, in equal shares of a batch.

  The model has the head "projector", and "prototypes" on it. The view "local"
  is of small crops, if there is one; the others are two in all.
  """

  temperature: float = field(
    0.1, doc="Of the predictions.", paper="SwAV, arXiv:2006.09882",
  )  # fmt: skip
  epsilon: float = field(
    0.05, doc="Temperature of the codes; a higher one makes them more even.",
  )  # fmt: skip
  iterations: int = field(3, doc="Of Sinkhorn-Knopp.")
  queue: int | None = field(
    None,
    doc="Vectors of each global view of batches before, which count in the "
    "shares of prototypes; a multiple of the batch. None: none.",
    unit="vectors",
    why="3,840 with batches of 256: too few for 3,000 prototypes.",
  )
  queue_start: Duration = field(
    "15 epochs",
    doc="When the queue begins to be filled; it is used once it is full.",
    unit=DURATION,
  )
