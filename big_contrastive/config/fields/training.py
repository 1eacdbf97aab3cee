"""The objective, the optimizer and the devices."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import DURATION, Duration, field

_MU = "Dtype of the first moment."


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


@dataclasses.dataclass(kw_only=True)
class Optimizer:
  """Each step: p -= rate * lr_mult * (direction + weight_decay * decay * p).

  The arguments of the direction, adamw or adafactor, stand beside these.
  """

  name: Literal["adafactor", "adamw"] = field(doc="The direction.")
  lr: float = field(
    doc="The peak learning rate, which the schedule scales.",
    why="1e-3 in SigLIP and LiT, 5e-4 in CLIP, 4e-6 * batch_size / 256 in "
    "FLIP, 1e-5 to fine-tune.",
  )
  weight_decay: float = field(
    0.0,
    doc="Decay of the parameters, times the learning rate, as in PyTorch.",
    why="big_vision's is not times the rate: divide its wd by its lr.",
    paper="AdamW, arXiv:1711.05101",
  )
  clip: float | None = field(
    None,
    doc="Largest global norm of the gradients; larger ones are scaled down. "
    "None: no limit.",
    why="1 in SigLIP and LiT.",
  )


@dataclasses.dataclass(kw_only=True)
class AdamW:
  """Adam; with weight_decay, AdamW (arXiv:1711.05101)."""

  b1: float = field(0.9, doc="Decay of the first moment.", unit="per step")
  b2: float = field(
    0.95, doc="Decay of the second moment.", unit="per step",
    why="0.999 gives loss spikes at large batches. CLIP has 0.98.",
    paper="SigLIP, arXiv:2303.15343",
  )  # fmt: skip
  eps: float = field(
    1e-8, doc="Added to the root of the second moment.",
    why="CLIP has 1e-6.",
  )  # fmt: skip
  mu_dtype: Literal["float32", "bfloat16"] = field("float32", doc=_MU)


@dataclasses.dataclass(kw_only=True)
class Adafactor:
  """The Adafactor of Scaling ViT (arXiv:2106.04560, section 3.4).

  Half of Adam's memory for the first moment, and next to none for the second.
  """

  b1: float = field(0.9, doc="Decay of the momentum.", unit="per step")
  b2_cap: float = field(
    0.999, doc="Largest decay of the second moment.", unit="per step",
    why="Without a cap it would approach 1, and never forget.",
  )  # fmt: skip
  decay_exponent: float = field(
    0.8,
    doc="The second moment's decay at step s is 1 - s**-decay_exponent, up to "
    "b2_cap.",
    paper="Adafactor, arXiv:1804.04235",
  )
  eps: float = field(1e-30, doc="Added to squared gradients.")
  clip_rms: float = field(
    1.0, doc="Largest root mean square of a layer's update.",
    paper="Adafactor, arXiv:1804.04235, section 6",
  )  # fmt: skip
  mu_dtype: Literal["float32", "bfloat16"] = field(
    "bfloat16", doc=_MU, why="As in Scaling ViT: no loss of quality.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Schedule:
  """The learning rate: linear warm-up, decay, linear cool-down to 0."""

  decay: Literal["cosine", "rsqrt", "linear", "constant"] = field(
    doc='From the peak on: "cosine" or "linear" to end at the last step, '
    '"rsqrt" one over the root of the steps since warm-up, or "constant".',
    why="cosine needs the length of the run; rsqrt can be extended.",
  )
  warmup: Duration = field(
    0, doc="Length of the linear warm-up to the peak.", unit=DURATION,
  )  # fmt: skip
  cooldown: Duration = field(
    0, doc="Length of a linear descent to 0 at the end of the run.",
    unit=DURATION, why="With rsqrt and constant; cosine ends low anyway.",
  )  # fmt: skip
  timescale: Duration = field(
    10_000,
    doc="With rsqrt: steps until the rate has fallen to 1/sqrt(2) of the peak.",
    unit=DURATION,
    paper="Scaling ViT, arXiv:2106.04560",
  )
  end: float = field(
    0.0, doc="With cosine and linear: the last rate over the peak.",
    unit="fraction of the peak",
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
