"""The image tower vit, which a model has unless it says otherwise."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field
from big_contrastive.config.fields.model import SIZES, VARIANTS, Activation


@dataclasses.dataclass(kw_only=True)
class ViT:
  """The image tower, a Vision Transformer.

  `tower` chooses another: a file in models/image/, whose arguments are then the
  fields.
  """

  variant: str = field(
    doc=f'Size, and side of a patch in pixels: "B/16", "So400m/14". Sizes: '
    f"{SIZES}.",
    paper=VARIANTS,
  )
  res: int = field(
    doc="Side of an image, and a multiple of the patch side. With max_patches: "
    "that of the table of positions.",
    unit="pixels",
  )
  out_dim: int | None = field(
    None,
    doc="Width of a last linear layer. None: no such layer; the embedding has "
    "the width of the tower.",
    why="SigLIP has none in the image tower; CLIP has one.",
  )
  out_bias: bool = field(
    False, doc="Whether that layer has a bias.", why="LiT has one, CLIP not.",
  )  # fmt: skip
  pool: Literal["map", "gap", "tok", "queries"] = field(
    "map",
    doc='How tokens become one vector: "map" attention with a learned query, '
    '"gap" their mean, "tok" a class token, "queries" the first of several '
    "queries, of which a decoder sees the others.",
    why="map is SigLIP's; tok is CLIP's and the ViT paper's, queries CoCa's.",
    paper="Scaling ViT, arXiv:2106.04560",
  )
  queries: int = field(
    255, doc="What a decoder sees, with pool = queries.", unit="queries",
    why="OpenCLIP's CoCa has 256, the first of them included.",
  )  # fmt: skip
  pool_heads: int = field(
    8, doc="Attention heads of pool = queries.", unit="heads",
  )  # fmt: skip
  pos: Literal["learned", "sincos2d", "sincos2d_moco", "sincos2d_mae"] = field(
    "learned",
    doc='Position embeddings: "learned", or fixed sines and cosines, of which '
    "there are three published tables.",
    why="sincos2d is big_vision's and FLIP's, sincos2d_moco that of MoCo v3.",
    paper="MoCo v3, arXiv:2104.02057",
  )
  pos_resize: Literal["clean", "dino", "antialias"] = field(
    "clean",
    doc="How learned positions are resized, bicubic, for images of another "
    'size than res: "clean" as transformers and DINOv2 do; "antialias" with '
    'antialiasing, as timm; "dino" as DINO, where the grid of patches is '
    "stretched as if it had 0.1 patches more.",
    why="DINO's crops of 96 pixels see positions that were learned for 224. "
    "dino is for the published weights and recipe.",
    paper="DINO, arXiv:2104.14294",
  )
  cls_pos: bool = field(
    False,
    doc="Whether the class token has a learned position too. With pool = "
    "queries: whether there is a class token.",
    why="CLIP has one, big_vision's ViTs have not.",
  )
  remainder: bool = field(
    False,
    doc="Allow a res that the patch side does not divide; the pixels past the "
    "last full patch are not seen.",
    why="So400m/14 at 384 needs it; elsewhere it is more likely a typo.",
  )
  max_patches: int | None = field(
    None,
    doc="For images of any shape (NaFlex): the most patches of one image, as "
    "the operation naflex makes them. None: all images have one size.",
    unit="patches",
    why="SigLIP 2 has 256 to 1024.",
    paper="SigLIP 2, arXiv:2502.14786",
  )
  keep: float = field(
    1.0,
    doc="Fraction of the patches that training sees, drawn anew for each "
    "example and step. Evaluation sees all of them.",
    unit="fraction of the patches",
    why="1 is off. FLIP keeps 0.5 or 0.25, for two to four times the images a "
    "second.",
    paper="FLIP, arXiv:2212.00794",
  )
  width: int | None = field(
    None, doc="Width of the tokens. None: the variant's.", unit="features",
  )  # fmt: skip
  depth: int | None = field(
    None, doc="Number of blocks. None: the variant's.", unit="blocks",
  )  # fmt: skip
  mlp: int | None = field(
    None, doc="Hidden width of the MLPs. None: the variant's.",
    unit="features",
  )  # fmt: skip
  heads: int | None = field(
    None, doc="Attention heads, a divisor of the width. None: the variant's.",
    unit="heads",
  )  # fmt: skip
  mean: tuple | list = field(
    (0.5, 0.5, 0.5),
    doc="Subtracted from pixel values in [0, 1], for red, green and blue.",
    why="Maps pixels to [-1, 1], as SigLIP and LiT do. CLIP and FLIP use the "
    "statistics of their data.",
  )
  std: tuple | list = field(
    (0.5, 0.5, 0.5), doc="Divides pixel values after that.",
  )  # fmt: skip
  patch_bias: bool = field(
    True, doc="Whether the patch embedding has a bias.", why="CLIP's has none.",
  )  # fmt: skip
  patch_init: Literal["lecun_normal", "xavier_uniform", "torch"] = field(
    "lecun_normal",
    doc="How the patch embedding's kernel is drawn; with torch its bias, too: "
    "both are uniform within fan_in**-0.5.",
    why="MoCo v3's, which stays as it is drawn, is xavier_uniform; DINO's is "
    "torch.",
  )
  init: Literal["xavier", "trunc_normal"] = field(
    "xavier",
    doc="How the blocks' linear layers are drawn. trunc_normal: normal, with "
    "standard deviation 0.02 and biases of 0; so are positions and the class "
    "token, else of 1 / sqrt(width) and 0.",
    why="xavier is big_vision's; trunc_normal is timm's and DINO's, whose "
    "bounds of -2 and 2 cut nothing.",
  )
  pre_norm: bool = field(
    False, doc="Whether a layer norm precedes the blocks.", why="In CLIP only.",
  )  # fmt: skip
  eps: float = field(
    1e-6, doc="Added to the variance in layer norms.",
    why="As in Flax and big_vision; PyTorch and CLIP have 1e-5.",
  )  # fmt: skip
  activation: Activation = field(
    "gelu_tanh",
    doc="Activation of the MLPs: the tanh approximation of GELU, GELU itself, "
    "or x * sigmoid(1.702 x).",
    why="gelu_tanh is big_vision's; OpenAI's CLIP has quick_gelu.",
  )
  dropout: float = field(
    0.0, doc="Dropout rate on the output of attention and of MLPs.",
    unit="fraction",
    why="None of the recipes drops; there is more data than they can see.",
  )  # fmt: skip
  drop_path: float = field(
    0.0,
    doc="Stochastic depth: the rate of residual branches that training omits, "
    "by example, in the last block; it grows linearly with depth, from 0 in "
    "the first.",
    unit="fraction",
    why="DINO's student has 0.1. A teacher and evaluation omit none.",
    paper="arXiv:1603.09382; DINO, arXiv:2104.14294",
  )
