"""The objective and the devices."""

import dataclasses

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class Objective:
  """What is minimized: a file of objectives.

  Its own arguments stand beside these; see the function `build` of that file.
  """

  name: str = field(
    doc="Which objective: pairs, or the path of a Python file.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Pairs:
  """Image-text pairs against all other pairs of the global batch."""

  loss: str = field(
    doc="The pair loss: sigmoid (SigLIP), softmax (CLIP, LiT, FLIP), or the "
    "path of a Python file.",
  )
  mask_ids: bool = field(
    True,
    doc="Whether examples with equal ids are left out of each other's "
    "negatives.",
    why="Two captions of one image are no negatives. Without ids in the data "
    "it changes nothing.",
  )
  scale_max: float | None = field(
    None,
    doc="Largest scale of the logits, exp(t); t is clipped after each update. "
    "None: no limit.",
    why="CLIP found 100 necessary against instability; SigLIP has no limit.",
    paper="CLIP, arXiv:2103.00020, section 2.5",
  )
  tile: int | None = field(
    None,
    doc="Rows of logits that are alive at a time on a device. None: as many "
    "as take the memory of the embeddings.",
    unit="rows",
    why="Larger tiles are faster up to a point, smaller ones need less memory.",
  )
  widths: list | tuple | None = field(
    None,
    doc="Widths of prefixes of the embeddings that have the loss, too, each "
    "normalized again; the losses are added. They ascend to that of the whole. "
    "None: the whole alone.",
    unit="features",
    why="For embeddings that can be cut. Metrics but the loss are those of the "
    "whole.",
    paper="Matryoshka, arXiv:2205.13147",
  )
  width_weights: list | tuple | None = field(
    None, doc="Factors of the losses at these widths. None: 1 each.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Mesh:
  """The devices: data x fsdp x tensor. data is what the others leave."""

  fsdp: int = field(
    1, doc="Devices over which one copy of the parameters is split. They share "
    "the batch, too.", unit="devices",
    why="1 replicates parameters, which is fastest where they fit.",
  )  # fmt: skip
  tensor: int = field(
    1, doc="Devices over which features are split, where config.shard says so.",
    unit="devices",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class MicroBatch:
  """The two towers' micro-batches; the text tower's activations are small."""

  image: int | None = field(
    None, doc="Images at a time. None: all.", unit="examples",
  )  # fmt: skip
  text: int | None = field(
    None, doc="Texts at a time. None: all.", unit="examples",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Init:
  """Paths of pretrained weights by tower, in place of one path."""

  img: str | None = field(None, doc="Weights of the image tower.")
  txt: str | None = field(None, doc="Weights of the text tower.")
  all: str | None = field(
    None,
    doc="A checkpoint of this package, all of whose parameters fit.",
  )
