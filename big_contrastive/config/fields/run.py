"""The top level of a config: one run."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import DURATION, Duration, Rules, field


@dataclasses.dataclass(kw_only=True)
class Config:
  """One training run.

  Set in a config file, or by --config.FIELD=VALUE with dots for sections.
  """

  # What is learned from.

  source: dict | str = field(
    doc="Where the training examples come from: a section, or a string such "
    'as "wds:shards/{000..127}.tar,caption=json:text".',
  )
  train_image: list | None = field(
    None,
    doc="Preprocessing of training images: operations of "
    "data/transforms/operations.py in order, each a name or (name, "
    "arguments). The last must yield the size that the image tower takes. "
    "None: batches have views alone.",
    why="The papers differ too much for a default: SigLIP squashes images, "
    "CLIP crops them.",
  )
  eval_image: list = field(
    doc="The same for evaluation and inference; nothing in it may be random.",
  )
  views: dict | None = field(
    None,
    doc="Several views of each training image, by a name of your choice; each "
    "is a section. An image is decoded once for all of them.",
  )
  tokenizer: dict | None = field(
    None,
    doc="Turns captions into token ids. None: images alone, no text tower.",
  )
  loading: dict | None = field(
    None,
    doc="How batches are read and prepared on the host. None: the defaults of "
    "that section.",
  )

  # What learns, and how.

  model: dict = field(
    doc="The model. Where init is a path: only what differs from the model "
    "there.",
  )
  objective: dict = field(doc="The training objective and its loss.")
  optimizer: dict = field(doc="The optimizer and its peak learning rate.")
  schedule: dict = field(doc="The learning rate over the run.")
  batch_size: int = field(
    doc="Examples in a step, over all devices: the global batch. A multiple of "
    "the number of devices that share it.",
    unit="examples",
    why="CLIP and SigLIP have 32,768, and SigLIP gains next to nothing beyond.",
    paper="SigLIP, arXiv:2303.15343",
  )
  micro_batch: int | dict | None = field(
    None,
    doc="Examples that run through a tower at a time. The loss and gradients "
    "are still those of the global batch. A section sets the towers one by "
    "one. None: the global batch at once.",
    unit="examples",
    why="Saves activation memory for one more forward pass. Set it when a "
    "step does not fit.",
    paper="GradCache, arXiv:2101.06983",
  )
  total: Duration = field(doc="Length of the run.", unit=DURATION)
  init: dict | str | None = field(
    None,
    doc="Pretrained weights to start from: the path of a whole model in any "
    "format that convert reads, or a section of paths by tower. None: random "
    "weights.",
  )
  long_texts: Literal["interpolate", "long_clip"] | None = field(
    None,
    doc="Positions for longer texts than those that init was trained with: "
    '"interpolate", linear as in OpenCLIP, or "long_clip", where the first 20 '
    "stay as they are. None: longer texts are refused.",
    why="Long-CLIP: the first 20 of CLIP's 77 are trained well, the rest "
    "hardly; 248 = 20 + 4 * 57 keeps every one of them.",
    paper="Long-CLIP, arXiv:2403.15378",
  )
  ema: float | None = field(
    None,
    doc="Decay per step of an exponential moving average of the parameters "
    "and of batch norms' running statistics. The average is evaluated and "
    "exported. None: off.",
    unit="fraction kept per step",
    why="Costs one more copy of the parameters. 0.999 averages over about "
    "1,000 steps.",
  )
  seed: int = field(
    0,
    doc="Seeds initialization, data order, augmentation and dropout. The same "
    "seed gives the same run on any number of processes.",
  )

  # Rules over parameter names; the first match counts.

  freeze: Rules = field(
    ((".*", False),),
    doc="Which parameters stay as they are: (pattern, True or False). A frozen "
    "tower has no gradients, no optimizer state and no dropout. "
    "img/.*/blocks[:-2]/.* are all layers but the last two.",
    why="Everything is trained; LiT freezes img/.*.",
    paper="LiT, arXiv:2111.07991",
  )
  lora: Rules | None = field(
    None,
    doc="Low-rank adapters of weights: (pattern, None or a section with rank "
    "and alpha, the rank if left out). A weight w that has one is frozen, and "
    "w + alpha / rank * a @ b takes its place; a and b are the parameters "
    "lora/NAME/a and lora/NAME/b. freeze says what else is trained. None: no "
    "adapters.",
    why='[(".*/attention/(query|value)/kernel", {"rank": 8, "alpha": 16}), '
    '(".*", None)], with freeze = [("lora/.*|t|b", False), (".*", True)].',
    paper="LoRA, arXiv:2106.09685",
  )
  lr_mult: Rules = field(
    ((".*", 1.0),),
    doc="Factor on the learning rate of each parameter, or of layers as in "
    "freeze.",
  )
  layer_decay: Rules = field(
    ((".*", 1.0),),
    doc="Decay of the learning rate from block to block of a tower, downwards: "
    "the last of L blocks has layer_decay, the first layer_decay**L, "
    "embeddings layer_decay**(L + 1), what follows the blocks 1.",
    unit="factor per block",
    why="0.65 to 0.75 where pretrained towers are tuned.",
    paper="BEiT, arXiv:2106.08254",
  )
  schedules: Rules = field(
    ((".*", None),),
    doc="The schedule of each parameter: (pattern, a section as in schedule, "
    "or None for config.schedule).",
    why='SimSiam\'s predictor has the peak rate throughout: {"decay": '
    '"constant"}.',
    paper="SimSiam, arXiv:2011.10566",
  )
  start: Rules = field(
    ((".*", 0),),
    doc="When the training of each parameter starts: (pattern, duration). "
    "Before, it stays as it is, without weight decay; the optimizer's state of "
    "it, Adam's count of steps too, begins then. Its gradients count for "
    "optimizer.clip all the time, and learning rates go on.",
    unit=DURATION,
    why="SwAV's prototypes have \"313 steps\", the last layer of DINO's head "
    '"1 epoch".',
    paper="DINO, arXiv:2104.14294",
  )
  decay: Rules = field(
    ((".*/(kernel|embedding)", 1.0), (".*", 0.0)),
    doc="Factor on optimizer.weight_decay for each parameter.",
    why="Norms, biases, positions, t and b have no scale that decay should "
    "limit.",
  )
  adapt: Rules | None = field(
    None,
    doc="Which parameters' learning rates the optimizer lars adapts: (pattern, "
    "True or False). None: those with a factor above 0 in decay.",
    why="SimCLR, BYOL and MoCo v3 leave norms and biases out of both; SwAV "
    "adapts and decays everything.",
    paper="LARS, arXiv:1708.03888",
  )
  shard: Rules = field(
    ((".*", "fsdp"),),
    doc='How each parameter lies on the mesh: "replicate"; "fsdp", its largest '
    "axis split over the fsdp devices; or a list with None or a mesh axis for "
    "each of its axes.",
    why="Replicates where mesh.fsdp is 1.",
  )
  mesh: dict | None = field(
    None,
    doc="How devices are arranged. None: all of them share the batch.",
  )

  # What is logged, evaluated and saved, and when.

  log_every: Duration = field(
    50, doc="Interval between metrics.", unit=DURATION,
    why="A log reads metrics of the step before, so it does not stall the "
    "devices; 1 logs every step.",
  )  # fmt: skip
  evals: dict | None = field(
    None,
    doc="Evaluations by a name of your choice; each is a section.",
  )
  eval_every: Duration = field(
    0, doc="Interval between evaluations. 0: only at the end.", unit=DURATION,
  )  # fmt: skip
  save_every: Duration = field(
    1000, doc="Interval between checkpoints. 0: only at the end.",
    unit=DURATION,
  )  # fmt: skip
  save_minutes: float = field(
    30.0,
    doc="Also save when the last checkpoint is this old. 0: never.",
    unit="minutes",
    why="Bounds what a crash can lose. A run that receives SIGTERM saves "
    "anyway.",
  )
  keep: int = field(
    2,
    doc="Newest checkpoints to keep.",
    unit="checkpoints",
    why="One to fall back on if the newest is damaged.",
  )
  keep_every: Duration = field(
    0,
    doc="Also keep every checkpoint whose step is a multiple of this. 0: none.",
    unit=DURATION,
  )
  skip_nonfinite: bool = field(
    False,
    doc="Skip and count a step whose gradients are not finite, rather than "
    "stop the run with exit code 3.",
    why="A NaN is usually a bug or a rate that is too high, and worth a look.",
  )

  # How it is watched.

  sinks: dict | None = field(
    None,
    doc="Where metrics go besides metrics.jsonl: sections by the name of a "
    "file of training/sinks, or by a name of your choice. None: tensorboard. "
    "{}: nowhere.",
    why="A sink that is slow, or away, loses lines; it never stops a run.",
  )
  profile: dict | None = field(
    None,
    doc="Steps to trace for xprof, on process 0. None: none, but at SIGUSR1 "
    "any process traces its next 5 steps.",
  )
