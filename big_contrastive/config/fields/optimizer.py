"""The optimizers, and the learning rate over a run."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import DURATION, Duration, field

_MU = "Dtype of the first moment."
_MOMENTUM = "Decay of the momentum."
_NESTEROV = "Whether the momentum is Nesterov's."


@dataclasses.dataclass(kw_only=True)
class Optimizer:
  """Each step: p -= rate * lr_mult * (direction + weight_decay * decay * p).

  With sgd and lars the decay is part of the gradient instead. The arguments of
  each optimizer stand beside these.
  """

  name: str = field(
    doc="Which optimizer: adafactor, adamw, lars, sgd, or one of optax by its "
    "name, such as optax.lion or optax.contrib.muon, whose own arguments are "
    "then the fields.",
    why="adamw for transformers. Methods on ResNets have sgd, or lars from "
    "4,096 examples a step on.",
  )
  lr: float = field(
    doc="The peak learning rate, which the schedule scales.",
    why="1e-3 in SigLIP and LiT, 5e-4 in CLIP, 4e-6 * batch_size / 256 in "
    "FLIP, 1e-5 to fine-tune; 0.03 with sgd in MoCo, 0.3 * batch_size / 256 "
    "with lars in SimCLR.",
  )
  weight_decay: float = field(
    0.0,
    doc="Decay of the parameters, times the learning rate, as in PyTorch: "
    "beside the direction with adamw and adafactor, in the gradient with sgd "
    "and lars.",
    why="big_vision's is not times the rate: divide its wd by its lr.",
    paper="AdamW, arXiv:1711.05101",
  )
  final_weight_decay: float | None = field(
    None,
    doc="What the weight decay becomes by the end of the run, along half a "
    "cosine from weight_decay; not with lars. None: it stays the same.",
    why="0.4 in DINO, from 0.04.",
    paper="DINO, arXiv:2104.14294",
  )
  clip: float | None = field(
    None,
    doc="Largest global norm of the gradients; larger ones are scaled down. "
    "None: no limit.",
    why="1 in SigLIP and LiT.",
  )
  clip_each: float | None = field(
    None,
    doc="Largest norm of each parameter's gradient; a larger one is scaled "
    "down alone. A layer is a parameter of its own, and query, key and value "
    "of an attention are one, as in DINO's code. None: no limit.",
    why="3 in DINO. Not beside clip.",
    paper="DINO, arXiv:2104.14294",
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
class SGD:
  """SGD with momentum, as torch.optim.SGD: it decays the gradient."""

  momentum: float = field(0.9, doc=_MOMENTUM, unit="per step")
  nesterov: bool = field(False, doc=_NESTEROV)


@dataclasses.dataclass(kw_only=True)
class LARS:
  """LARS (arXiv:1708.03888): a trust ratio scales each parameter's gradient.

  Layers are parameters of their own. config.adapt says which parameters.
  """

  variant: Literal["byol", "simclr", "larc", "solo"] = field(
    "byol",
    doc="Whose LARS: byol (also MoCo v3, DINO, MAE) multiplies by the rate "
    "after the momentum; simclr (also optax.lars) before; larc (SwAV: apex "
    "without clipping) takes the ratio from the gradient without decay; solo "
    "(solo-learn: apex with clipping) also limits ratio times rate to the "
    "rate.",
  )
  momentum: float = field(0.9, doc=_MOMENTUM, unit="per step")
  nesterov: bool = field(False, doc=_NESTEROV)
  eta: float | None = field(
    None, doc="Trust coefficient. None: 0.02 with solo, else 0.001.",
  )  # fmt: skip
  eps: float = field(
    1e-8, doc="Added to the ratio's divisor, with larc and solo.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Schedule:
  """The learning rate: linear warm-up, decay, linear cool-down to 0."""

  decay: Literal["cosine", "rsqrt", "linear", "constant", "steps"] = field(
    doc='From the peak on: "cosine" or "linear" to end at the last step, '
    '"rsqrt" one over the root of the steps since warm-up, "constant", or '
    '"steps": times factor at each of milestones.',
    why="cosine needs the length of the run; rsqrt can be extended.",
  )
  warmup: Duration = field(
    0, doc="Length of the linear warm-up to the peak.", unit=DURATION,
  )  # fmt: skip
  warmup_from: float = field(
    0.0,
    doc="Where the warm-up's line starts.",
    unit="fraction of the peak",
    why="SwAV has 0.3 / 4.8.",
  )
  warmup_includes: Literal["peak", "start", "both"] = field(
    "peak",
    doc="Which ends of that line the warm-up's steps have: its last step the "
    "peak, its first step the start (the step after it has the peak), or both.",
    why="With peak and a start of 0 no step is for nothing. SimCLR, BYOL, MoCo "
    "v3 and MAE have start; DINO and SwAV both.",
  )
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
  milestones: list | None = field(
    None, doc="With steps: when the rate falls, in ascending order.",
    unit="a list of durations",
    why='MoCo and InstDisc have ["120 epochs", "160 epochs"] of 200.',
  )  # fmt: skip
  factor: float = field(
    0.1, doc="With steps: the rate after a milestone over that before.",
  )  # fmt: skip
  every: Duration = field(
    1, doc="How long the rate stays the same: it is that of the first step.",
    unit=DURATION,
    why='MoCo v2 and SimSiam have "1 epoch".',
  )  # fmt: skip
