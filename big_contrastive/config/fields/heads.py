"""Heads: what maps the vectors of a tower on."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field


@dataclasses.dataclass(kw_only=True)
class Head:
  """A head: it maps the vectors of a tower, or of another head."""

  name: str = field(
    doc='A file in models/heads/, such as "mlp"; or the path of one '
    "elsewhere. Its arguments are the other fields.",
  )
  on: str = field(
    "image",
    doc='Whose vectors it takes: "image", "text" or another head; "pooled": '
    "the image's before the tower's last linear layer.",
  )


@dataclasses.dataclass(kw_only=True)
class Mlp:
  """Linear layers with an activation, and perhaps batch norms, between them."""

  out_dim: int = field(doc="Width of the output vectors.")
  hidden: int | None = field(
    None, doc="Width between layers. None: that of the input.",
  )  # fmt: skip
  depth: int = field(2, doc="Number of linear layers.", unit="layers")
  activation: Literal["relu", "gelu_tanh", "gelu", "quick_gelu"] = field(
    "relu", doc="Between layers.",
  )  # fmt: skip
  bias: bool = field(True, doc="Whether the last layer has a bias.")
  hidden_bias: bool = field(
    True, doc="Whether the layers before it have a bias.",
    why="False before a batch norm, which takes it away; BYOL has it anyway.",
  )  # fmt: skip
  norm: bool = field(
    False, doc="Whether a batch norm follows each layer but the last.",
    why="SimCLR, MoCo v3, BYOL and SimSiam have it; MoCo v2 has not.",
  )  # fmt: skip
  last_norm: Literal["batch", "scale", "plain"] | None = field(
    None,
    doc='A batch norm after the last layer: "batch" with scale and bias, '
    '"scale" without bias, "plain" without either. None: none.',
    why='"scale" in SimCLR, "plain" in MoCo v3 and SimSiam\'s projector.',
  )
  init: Literal["lecun_normal", "trunc_normal"] = field(
    "lecun_normal", doc="How kernels are drawn.",
    why="DINO's, trunc_normal, have the standard deviation 0.02.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Classifier:
  """A linear layer with a logit for each class, zeros at first."""

  classes: int = field(
    doc="How many: ids of the tokenizer, for synsets without the padding.",
    unit="classes", why="24,320 in CatLIP, 49,408 in SuperClass.",
  )  # fmt: skip
  norm: bool = field(
    False, doc="Whether a layer norm comes first.", why="SuperClass has it.",
  )  # fmt: skip
