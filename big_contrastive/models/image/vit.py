"""The image tower: a Vision Transformer (arXiv:2010.11929)."""

from collections.abc import Callable
from typing import Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from big_contrastive.config import errors
from big_contrastive.models import (
  Features,
  layers,
  naflex,
  pixels,
  pooling,
  positions,
)
from big_contrastive.models.image import _vit_fields
from big_contrastive.models.layers import ExampleKeys
from big_contrastive.models.patches import (
  EmbeddingInit,
  draw_patches,
  embedding_inits,
  kept_patches,
  patchify,
)


class ImageTower(nnx.Module):
  """Images to vectors.

  Args:
    variant: size and patch side in pixels, such as "B/16" or "So400m/14".
    res: image side in pixels; a multiple of the patch side.
    out_dim: width of a last linear layer; None for none (SigLIP).
    out_bias: whether that layer has a bias (it does in LiT, not in CLIP).
    pool: "map" attention pooling, "gap" mean of the patches, "tok" a class
      token; "queries": attention pooling whose first query is the vector, and
      whose others are what a decoder sees (CoCa).
    queries, pool_heads: of pool="queries": how many others, attention heads.
    pos: positions: "learned", or a fixed table, see positions.sincos2d.
    pos_resize: how learned positions are resized for images of another size
      than res, see positions.resized.
    cls_pos: whether the class token has a learned position too, the first
      (CLIP); big_vision's ViTs have none.
    remainder: whether res need not be a multiple of the patch side: pixels
      past the last whole patch are ignored (So400m/14 at 384).
    max_patches: for images of any shape (NaFlex): the most patches of one
      image, packed by data/transforms/naflex.py. Then res is that of the
      position table, which is resized for each image.
    keep: fraction of the patches that training sees (FLIP, arXiv:2212.00794),
      drawn anew for each example and step; evaluation sees all.
    width, depth, mlp, heads: override those of the variant.
    mean, std: per channel, of pixel values scaled to [0, 1].
    patch_bias, pre_norm: CLIP has no bias on patches and a norm before the
      blocks.
    patch_init: how the patch embedding's kernel is drawn; "torch" draws its
      bias, too, as PyTorch's convolutions do.
    init: of the blocks, see layers.INITS; with "trunc_normal" also of positions
      and the class token, as in timm and DINO.
    eps, activation, dropout, drop_path, remat: see layers.Transformer.
    dtype: compute dtype; parameters are float32 always.
  """

  def __init__(
    self,
    variant: str,
    res: int,
    *,
    out_dim: int | None = None,
    out_bias: bool = False,
    pool: Literal["map", "gap", "tok", "queries"] = "map",
    queries: int = 255,
    pool_heads: int = 8,
    pos: Literal["learned"] | positions.Table = "learned",
    pos_resize: positions.Resize = "clean",
    cls_pos: bool = False,
    remainder: bool = False,
    max_patches: int | None = None,
    keep: float = 1.0,
    width: int | None = None,
    depth: int | None = None,
    mlp: int | None = None,
    heads: int | None = None,
    mean: tuple | list = (0.5, 0.5, 0.5),
    std: tuple | list = (0.5, 0.5, 0.5),
    patch_bias: bool = True,
    patch_init: EmbeddingInit = "lecun_normal",
    init: layers.Init = "xavier",
    pre_norm: bool = False,
    eps: float = 1e-6,
    activation: layers.Activation = "gelu_tanh",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    remat: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
    pin: Callable = lambda x: x,
    rngs: nnx.Rngs,
  ):
    name, self.patch = _vit_fields.parse_variant(variant, res, remainder)
    size = layers.sized(name, width=width, depth=depth, mlp=mlp, heads=heads)
    wide = size["width"] if out_dim is None else out_dim
    _vit_fields.check(
      cls_pos=cls_pos, pool=pool, pos=pos, keep=keep, queries=queries,
      pool_heads=pool_heads, wide=wide, max_patches=max_patches,
    )  # fmt: skip
    w, self.side, self.res = size["width"], res // self.patch, res
    self.max_patches, self.remainder = max_patches, remainder
    self.width, self.pool, self.keep = w, pool, keep
    self.has_pre_norm, self.projects = pre_norm, out_dim is not None
    self.pos_kind, self.pos_resize = pos, pos_resize
    self.mean, self.std, self.dtype = tuple(mean), tuple(std), dtype
    drawn = init == "trunc_normal"
    normal = nnx.initializers.normal(0.02 if drawn else w**-0.5)
    self.cls_pos = cls_pos
    length = self.side**2 + cls_pos
    fan_in = self.patch**2 * 3
    linear = dict(dtype=dtype, rngs=rngs)
    inits = embedding_inits(patch_init, fan_in)
    self.embed = nnx.Linear(fan_in, w, use_bias=patch_bias, **inits, **linear)
    if pos == "learned":
      self.pos = nnx.Param(normal(rngs.params(), (length, w)))
    else:
      table = positions.sincos2d(self.side, w, pos)
      self.fixed_pos = positions.Fixed(table)
    # Queries attend to a class token, too, where it has a position (CoCa).
    self.has_cls = pool == "tok" or (pool == "queries" and cls_pos)
    if self.has_cls:
      cls = normal(rngs.params(), (w,)) if drawn else jnp.zeros((w,))
      self.cls = nnx.Param(cls)
    if pre_norm:
      self.pre_norm = nnx.LayerNorm(w, epsilon=eps, **linear)
    kwargs = dict(activation=activation, eps=eps, dtype=dtype, rngs=rngs)
    self.encoder = layers.Transformer(
      **size, causal=False, dropout=dropout, drop_path=drop_path, init=init,
      remat=remat, pin=pin, **kwargs,
    )  # fmt: skip
    if pool == "map":
      self.head = pooling.MapHead(w, size["mlp"], size["heads"], **kwargs)
    self.token_dim = w
    if pool == "queries":
      self.token_dim = wide
      kwargs = dict(eps=eps, dtype=dtype, rngs=rngs)
      self.head = pooling.QueryPool(w, wide, queries + 1, pool_heads, **kwargs)
    if out_dim is not None:
      self.project = nnx.Linear(
        self.token_dim, out_dim, use_bias=out_bias, **linear
      )
    self.out_dim = out_dim or w

  def features(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Features:
    """Returns tokens [b, l, w] and pooled vectors [b, w], in compute dtype.

    With pool="queries" these are what the queries pool, [b, queries, token_dim]
    and [b, token_dim].

    Args:
      image: uint8 pixels, normalized here, or floats normalized already;
        [b, *self.takes, 3], or of another size, for which positions are
        resized; with max_patches what the operation `naflex` packs
        (data/transforms/naflex.py).
      keys: one per example, to draw patches and dropout; None evaluates.
    """
    x, mask = self._tokens(image, keys)
    x = self.pre_norm(x) if self.has_pre_norm else x
    if keys is not None:
      keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)
    x = self.encoder(x, keys, mask)
    if self.pool == "map":
      pooled = self.head(x, mask)
    elif self.pool == "queries":
      x = self.head(x, mask)
      x, pooled = x[:, 1:], x[:, 0]
    else:
      pooled = x[:, 0] if self.pool == "tok" else x.mean(axis=1)
    return Features(x, pooled, mask)

  def __call__(
    self, image: Num[Array, "b h w 3"], keys: ExampleKeys = None
  ) -> Float[Array, "b d"]:
    """Returns [b, out_dim] vectors, float32, not normalized; see `features`."""
    x = self.features(image, keys).pooled
    x = self.project(x) if self.projects else x
    return x.astype(jnp.float32)

  def attention(
    self, image: Num[Array, "b h w 3"]
  ) -> Float[Array, "b heads rows columns"]:
    """Returns the class token's attention to each patch in the last block.

    float32, of a tower with `has_cls`. Its attention to itself is left out: of
    a head, that and these sum to 1.
    """
    x, _ = self._tokens(image, None)
    x = self.pre_norm(x) if self.has_pre_norm else x
    weights = self.encoder.attention(x)[:, :, 1:]
    rows, columns = (n // self.patch for n in image.shape[1:3])
    return weights.reshape(*weights.shape[:2], rows, columns)

  @property
  def takes(self) -> tuple[int, ...]:
    """One input's shape: (h, w), or (patches, side, side) for NaFlex."""
    if self.max_patches is None:
      return self.res, self.res
    return self.max_patches, self.patch, self.patch

  def flops(self, train: bool) -> float:
    """Returns forward FLOPs of one image; training sees `keep` patches."""
    patches = self.max_patches or self.side**2
    patches = kept_patches(patches, self.keep if train else 1.0)
    embed = 2.0 * patches * self.patch**2 * 3 * self.width
    return embed + self.encoder.flops(patches + self.has_cls)

  def _tokens(self, image, keys):
    """Returns patch vectors with positions, some dropped, and their mask."""
    if self.max_patches is not None:
      return self._any_shape(image)
    self._check_sides(*image.shape[1:3])
    x = patchify(self._normalize(image), self.patch)
    first, pos = self._positions(*(n // self.patch for n in image.shape[1:3]))
    pos = jnp.broadcast_to(pos, (x.shape[0], *pos.shape))
    if keys is not None and self.keep < 1:
      # Patches are dropped before they are embedded, so they cost nothing.
      indices = draw_patches(keys, x.shape[1], self.keep)[:, :, None]
      x = jnp.take_along_axis(x, indices, axis=1)
      pos = jnp.take_along_axis(pos, indices, axis=1)
    x = self.embed(x) + pos.astype(self.dtype)
    if self.has_cls:
      cls = (self.cls[...] + first).astype(x.dtype)
      cls = jnp.broadcast_to(cls, (x.shape[0], 1, self.width))
      x = jnp.concatenate([cls, x], axis=1)
    return x, None

  def _positions(self, rows, columns):
    """Returns the class token's position, 0 for none, and those of patches."""
    usual = rows == columns == self.side
    if self.pos_kind != "learned":
      if usual:
        return 0, self.fixed_pos.array
      return 0, positions.sincos2d(rows, self.width, self.pos_kind, columns)
    pos = self.pos[...]
    first, pos = (pos[0], pos[1:]) if self.cls_pos else (0, pos)
    if not usual:
      pos = positions.resized(pos, (rows, columns), self.pos_resize)
    return first, pos

  def _check_sides(self, h, w):
    sides = [max(1, n // self.patch) * self.patch for n in (h, w)]
    if [h, w] != sides and not self.remainder:
      allowed = f"sides that are multiples of the patch side {self.patch}"
      remedy = f"Resize or crop them to {sides[0]} x {sides[1]}."
      raise errors.UserError("size of images", (h, w), allowed, remedy)

  def _any_shape(self, image):
    x, grid = naflex.unpack(image)
    b, n = x.shape[:2]
    x = self.embed(self._normalize(x).reshape(b, n, -1))
    pos = naflex.positions(self.pos[...], grid, n).astype(self.dtype)
    return x + pos, naflex.real(grid, n)

  def _normalize(self, image):
    return pixels.normalized(image, self.mean, self.std, self.dtype)


tower = ImageTower
