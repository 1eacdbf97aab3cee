"""Mixtures of objectives."""

import dataclasses

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class Mixture:
  """A weighted sum of objectives on the same batch, of one model.

  Two that need the same head share it. What is logged of a part has its name
  before it: train/clip/loss.
  """

  parts: dict = field(
    doc="By name, the parts: `name`, a file of objectives, its own fields, and "
    "those of config.objective.parts.NAME.",
  )
  exports: str | None = field(
    None,
    doc="The part that chooses the weights to evaluate, load and convert, such "
    "as its teacher's. None: the trained ones.",
  )


@dataclasses.dataclass(kw_only=True)
class Part:
  """What every part of a mixture has, beside its objective and its fields.

  Its schedules and its step 0 begin at its start; there a teacher is a copy of
  the trained weights.
  """

  weight: float = field(
    1.0, doc="Factor of its loss. 0: it is off, and costs nothing.",
  )  # fmt: skip
  start: int | str = field(
    0, doc="It is on from here on.", unit="duration", why='SigLIP 2 has "80%".',
    paper="SigLIP 2, arXiv:2502.14786",
  )  # fmt: skip
  stop: int | str | None = field(
    None, doc="It is on until here. None: the end.", unit="duration",
  )  # fmt: skip
  views: list | tuple | None = field(
    None,
    doc='The views of config.views that it reads; "image" is config.'
    "train_image's. Of an objective without views, one that is its image. "
    "None: the image, or all views.",
  )
