"""The two towers, their unit embeddings, temperature and bias."""

from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from big_contrastive.models.image.vit import ImageTower
from big_contrastive.models.layers import ExampleKeys
from big_contrastive.models.text.transformer import TextTower


class OneTower(nnx.Module):
  """An image tower alone."""

  def __init__(self, img: ImageTower):
    self.img = img

  def embed_image(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns unit embeddings of images, uint8 or normalised floats."""
    return unit(self.img(image, keys))


class TwoTower(OneTower):
  """Image and text towers into one space, with learned t and b.

  Args:
    t: initial log-temperature; logits are exp(t) cos + b.
    b: initial bias; None for no bias (softmax).
  """

  def __init__(
    self, img: ImageTower, txt: TextTower, *, t: float, b: float | None = None
  ):
    super().__init__(img)
    self.txt = txt
    self.t = nnx.Param(jnp.asarray(t, jnp.float32))
    if b is not None:
      self.b = nnx.Param(jnp.asarray(b, jnp.float32))

  def embed_text(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns unit embeddings of token ids."""
    return unit(self.txt(tokens, keys))

  def flops(self, frozen: frozenset[str] = frozenset()) -> float:
    """Returns model FLOPs of training on one pair.

    Forward, and twice that for the backward of a tower that is trained;
    pooling and the loss are left out, recomputation is not counted.
    """
    img = self.img.flops(train="img" not in frozen)
    passes = {t: 1 if t in frozen else 3 for t in ("img", "txt")}
    return passes["img"] * img + passes["txt"] * self.txt.flops()


def unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
  """Returns x over its norm, float32; the gradient is finite at zero too."""
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def split(model: OneTower) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """Returns the structure and the parameters, a plain nested dict."""
  graph, state = nnx.split(model)
  return graph, nnx.to_pure_dict(state)


def merge(graph: nnx.GraphDef, params: dict[str, Any]) -> Any:
  """Returns the model with these parameters: the inverse of `split`.

  A TwoTower, or a OneTower, if that is what was split.
  """
  return nnx.merge(graph, nnx.State(params))
