"""A projection or prediction head: linear layers with an activation between.

With the fields that its arguments name it is the head of MoCo v1 to v3
(arXiv:1911.05722, 2003.04297, 2104.02057), SimCLR (2002.05709), SimCLR v2
(2006.10029), BYOL (2006.07733) and SimSiam (2011.10566).
"""

from typing import Literal

import flax.nnx as nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.config import errors
from big_contrastive.models import layers
from big_contrastive.models.norms import BatchNorm

LastNorm = Literal["batch", "scale", "plain"]
_INITS = {
  "lecun_normal": nnx.initializers.lecun_normal(),
  "trunc_normal": layers.INITS["trunc_normal"][0],
}


class Mlp(nnx.Module):
  """Vectors [b, width] to [b, out_dim], float32.

  Batch norms normalize by the batch that they get, in evaluation too, and keep
  no running statistics: such a head serves training alone.

  Args:
    width: of the input vectors.
    out_dim: width of the output vectors.
    hidden: width between layers; None for `width`.
    depth: number of linear layers, one or more.
    activation: between them.
    bias: whether the last layer has one.
    hidden_bias: whether the layers before it have one.
    norm: whether a batch norm follows each layer but the last.
    last_norm: a batch norm after the last layer: "batch" with scale and bias,
      "scale" without bias, "plain" without either; None for none.
    init: how kernels are drawn; "trunc_normal" as in DINO, see layers.INITS.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    width: int,
    *,
    out_dim: int,
    hidden: int | None = None,
    depth: int = 2,
    activation: Literal["relu", "gelu_tanh", "gelu", "quick_gelu"] = "relu",
    bias: bool = True,
    hidden_bias: bool = True,
    norm: bool = False,
    last_norm: LastNorm | None = None,
    init: Literal["lecun_normal", "trunc_normal"] = "lecun_normal",
    dtype: Literal["float32", "bfloat16"] = "float32",
    rngs: nnx.Rngs,
  ):
    if depth < 1:
      allowed = "a whole number from 1 up"
      raise errors.UserError("depth", depth, allowed, "SimCLR has 2.")
    self.out_dim, self.depth, self.norm = out_dim, depth, norm
    widths = [width, *[hidden or width] * (depth - 1), out_dim]
    for i, (inner, outer) in enumerate(zip(widths, widths[1:]), 1):
      use_bias = bias if i == depth else hidden_bias
      linear = nnx.Linear(
        inner, outer, use_bias=use_bias, kernel_init=_INITS[init],
        dtype=dtype, rngs=rngs,
      )  # fmt: skip
      setattr(self, f"fc{i}", linear)
      if norm and i < depth:
        setattr(self, f"norm{i}", BatchNorm(outer, running=False, dtype=dtype))
    if last_norm is not None:
      has = {"scale": last_norm != "plain", "bias": last_norm == "batch"}
      self.last_norm = BatchNorm(out_dim, **has, running=False)
    else:
      self.last_norm = None
    self.activation = layers.ACTIVATIONS[activation]

  def __call__(self, x: Float[Array, "b w"]) -> Float[Array, "b d"]:
    for i in range(1, self.depth):
      x = getattr(self, f"fc{i}")(x)
      if self.norm:
        x = getattr(self, f"norm{i}")(x, train=True)
      x = self.activation(x)
    x = getattr(self, f"fc{self.depth}")(x)
    if self.last_norm is not None:
      x = self.last_norm(x, train=True)
    return x.astype(jnp.float32)


head = Mlp
