"""A model: named parts, any of which may be missing."""

from typing import Any

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from big_contrastive.config import errors, rules
from big_contrastive.models import Features
from big_contrastive.models.image.vit import ImageTower
from big_contrastive.models.layers import ExampleKeys
from big_contrastive.models.norms import Statistic


class Model(nnx.Module):
  """Named parts: towers "img" and "txt", decoder "dec", "t" and "b", heads.

  Logits of pairs are exp(t) cos + b.

  Args:
    img: see models.Tower.
    txt: the same, over token ids; None for images alone.
    t: initial log-temperature; None for none.
    b: initial bias; None for none (softmax).
    dec: of captions, see decoder.Decoder; None for none.
    heads: by name, see models.Head.
    pooled: those on what the image tower pooled, before its last linear layer;
      other heads on a tower are on its vectors.
  """

  def __init__(
    self,
    img: Any,
    txt: Any = None,
    *,
    t: float | None = None,
    b: float | None = None,
    dec: Any = None,
    heads: dict[str, Any] | None = None,
    pooled: tuple[str, ...] = (),
  ):
    self.pooled = pooled
    self.img = img
    if txt is not None:
      self.txt = txt
    if t is not None:
      self.t = nnx.Param(jnp.asarray(t, jnp.float32))
    if b is not None:
      self.b = nnx.Param(jnp.asarray(b, jnp.float32))
    if dec is not None:
      self.dec = dec
    for name, head in (heads or {}).items():
      setattr(self, name, head)

  @property
  def embeds_text(self) -> bool:
    """Whether there is a text tower with vectors."""
    return hasattr(self, "txt") and self.txt.out_dim is not None

  @property
  def matches(self) -> bool:
    """Whether a text tower tells if an image and a text match (BLIP's)."""
    return getattr(getattr(self, "txt", None), "matches", False)

  def embed_image(
    self, image: Num[Array, "b ..."], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns unit embeddings of images, uint8 or normalized floats."""
    stored = self._check(image)
    z = self.img(image, keys)
    # Vectors that were unit when they were stored keep their bits.
    return z if stored and self.img.unit else unit(z)

  def embed_text(
    self, tokens: Int[Array, "b l"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns unit embeddings of token ids."""
    chex.assert_rank(tokens, 2)
    chex.assert_type(tokens, int)
    return unit(self.txt(tokens, keys))

  def features(
    self, image: Num[Array, "b ..."], keys: ExampleKeys = None
  ) -> Features:
    """Returns tokens and pooled vectors of images, float32."""
    self._check(image)
    tokens, pooled, mask = self.img.features(image, keys)
    return Features(
      tokens.astype(jnp.float32), pooled.astype(jnp.float32), mask
    )

  def attention(
    self, image: Num[Array, "b h w 3"]
  ) -> Float[Array, "b heads rows columns"]:
    """Returns the class token's attention; see vit.ImageTower.attention.

    Raises:
      UserError: for an image tower without a class token.
    """
    self._check(image)
    tower, where = self.img, "config.model.image"
    allowed = 'a ViT with a class token, pool = "tok"'
    remedy = "What is shown is that token's attention."
    if not isinstance(tower, ImageTower):
      name = type(tower).__name__
      raise errors.UserError(f"{where}.tower", name, allowed, remedy)
    if not tower.has_cls:
      raise errors.UserError(f"{where}.pool", tower.pool, allowed, remedy)
    return tower.attention(image)

  def _check(self, image: Num[Array, "b ..."]) -> bool:
    """Checks the shape; returns whether these are vectors, not images."""
    vectors = len(self.img.takes) == 1
    shape = self.img.takes if vectors else (None, None, 3)
    chex.assert_shape(image, (None, *shape))
    return vectors

  def flops(
    self,
    frozen: frozenset[str] = frozenset(),
    towers: tuple[str, ...] = ("img", "txt"),
  ) -> float:
    """Returns model FLOPs of training on one example, a pair if it has text.

    The forward pass, and twice that for the backward pass of a trained tower.
    Pooling, heads, the loss and recomputation are not counted.

    Args:
      frozen: parts that are only evaluated.
      towers: those that count, where there are such.
    """
    present = {k: getattr(self, k) for k in towers if hasattr(self, k)}
    return sum(
      tower.flops(train=name not in frozen) * (1 if name in frozen else 3)
      for name, tower in present.items()
    )


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
  """Returns x over its norm, float32; the gradient is finite at zero too."""
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def split(
  model: Model,
) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any]]:
  """Returns the structure, the parameters and the running statistics.

  Parameters and statistics are plain nested dicts; see norms.Statistic.
  """
  graph, params, statistics = nnx.split(model, nnx.Param, Statistic)
  return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)


def variables(
  params: dict[str, Any], statistics: dict[str, Any] | None
) -> dict[str, Any]:
  """Returns parameters and running statistics in one nested dict."""
  if not statistics:
    return params
  return rules.unflatten(rules.flatten(params) | rules.flatten(statistics))


def merge(
  graph: nnx.GraphDef,
  params: dict[str, Any],
  statistics: dict[str, Any] | None = None,
) -> Model:
  """Returns the model with these variables: the inverse of `split`.

  Args:
    graph: the structure.
    params: the parameters; or all variables.
    statistics: the running statistics, where params has none.
  """
  return nnx.merge(graph, nnx.State(variables(params, statistics)))
