"""One hard negative for each image and each text, drawn from the whole batch.

What ITM of ALBEF (arXiv:2107.07651) and BLIP (2201.12086) is trained on. The
authors build the matrix of weights on each device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.config import errors
from big_contrastive.losses import _lookup, _lse, _pairwise, _ring
from big_contrastive.losses._lse import Lse
from big_contrastive.losses._ring import Axis


class Negatives(NamedTuple):
  """Rows of the global batch, int32 [b]; -1 where there was none to draw.

  text: one for each image of this device. image: one for each text.
  """

  text: jax.Array
  image: jax.Array


def draw(
  zimg: Float[Array, "b d"],
  ztxt: Float[Array, "b d"],
  key: jax.Array,
  *,
  scale: Float[Array, ""],
  eps: float = 1e-4,
  ids: Int[Array, " b"] | None = None,
  axis: Axis = None,
  tile: int | None = None,
) -> Negatives:
  """Returns negatives, drawn by how alike they are. Nothing has a gradient.

  Image i gets text j with a probability proportional to softmax_j(scale zimg_i
  . ztxt_j) + eps, the softmax over all B texts, among those j that are not i
  and whose id is another; text j gets image i likewise, by the softmax over
  images.

  That is a mixture: of the softmax among the allowed, with the mass that they
  have in the whole softmax; and of all allowed alike, with eps for each. Both
  are drawn by the largest logit with Gumbel noise, and one of them is chosen in
  the end. The noise of (i, j) depends on the key, i and j alone. So it is the
  same on any number of devices and for any tile; so are the draws, but for
  those that the rounding of a logit decides.

  Both directions come from one pass over the tiles: 2 B b d flops a device, and
  one block of threefry, some 100 integer operations, for each logit. Memory is
  O(b d).

  Args:
    zimg, ztxt: [b, d] unit embeddings of this device's pairs, float32 or
      bfloat16.
    key: from jax.random.key, the same on all devices.
    scale: 1 / temperature.
    eps: 1e-4 in BLIP's pretraining, 0 in its fine-tuning for retrieval.
    ids: int32 [b]; a row with the same id is no negative.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.

  Raises:
    UserError: for wrong shapes, or an eps below 0.
  """
  _lookup.check_pairs(("zimg", "ztxt"), zimg, ztxt, scale)
  _lookup.check_ids("ids", ids, len(zimg))
  if not eps >= 0:
    remedy = "BLIP has 1e-4, and 0 for retrieval."
    raise errors.UserError("eps", eps, "a number from 0 up", remedy)
  zimg, ztxt, scale = jax.lax.stop_gradient((zimg, ztxt, scale))
  b, d = zimg.shape
  tile = _ring.side(b, d, _LIVE) if tile is None else tile
  places = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b
  key, *choices = jax.random.split(key, 3)
  with_eps = eps > 0

  def one(other, row, column, of_rows, of_columns):
    zimg, i, row_ids = row
    ztxt, j, column_ids = column
    logits = scale * _pairwise.cosines(zimg, ztxt)
    same = None if ids is None else row_ids[:, None] == column_ids[None]
    noise = _uniform(_cells(key, i, j))
    found = (
      _found(logits, noise[..., dim], other, same, at, 1 - dim, with_eps)
      for dim, at in enumerate((j, i))
    )
    return tuple(map(_merge, (of_rows, of_columns), found))

  rows, columns = (zimg, places, ids), (ztxt, places, ids)
  nothing = _nothing(b, ids is not None, with_eps)
  sums = _ring.sweep(
    one, places, rows, columns, nothing, nothing,
    merge=_merge, axis=axis, side=tile,
  )  # fmt: skip
  if not with_eps:
    return Negatives(*(x.alike.place for x in sums))
  own = scale * _pairwise.inner(zimg, ztxt)
  return Negatives(
    *(
      _choose(x, own, _uniform(_cells(of, places)[:, 0]), eps)
      for x, of in zip(sums, choices, strict=True)
    )
  )


def rows_at(
  x: Float[Array, "b *rest"] | Int[Array, "b *rest"],
  index: Int[Array, " m"],
  axis: Axis = None,
) -> jax.Array:
  """Returns rows of the global batch, [m, ...], with gradients to their owners.

  The batch goes round the ring, and so do the gradients: a device never holds
  more than a few parts of it. A row that several ask for gets the sum of their
  gradients.

  Args:
    x: this device's part of the batch: the tokens of images, ids of words.
    index: among the rows of all devices. For -1, which has no negative, it is
      row 0: a sound input for what counts nothing.
    axis: mesh axis name(s) inside shard_map, None for one device.
  """
  b, m = len(x), len(index)
  places = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b

  def one(_, index, column, rows, nothing):
    x, places = column
    at = index - places[0]
    # Beyond the last row there is 0, while -1 would be the last one.
    at = jnp.where((at >= 0) & (at < b), at, b)
    return rows + x.at[at].get(mode="fill", fill_value=0), nothing

  rows, _ = _ring.sweep(
    one, jnp.zeros(m, jnp.int32), jnp.maximum(index, 0), (x, places),
    jnp.zeros((m, *x.shape[1:]), x.dtype), (),
    merge=lambda a, b: (), axis=axis, side=max(b, m), column_ids=places,
  )  # fmt: skip
  return rows


_LIVE = 8  # Logits, two words of noise for each, and what they are made of.


class _Best(NamedTuple):
  """The largest score, and where it is; -1 where there was none."""

  score: jax.Array
  place: jax.Array


class _Sums(NamedTuple):
  """What rows, or columns, know of those on the other side, each [c].

  alike: the best logit with noise among the allowed. any: the best noise.
  allowed: their log-sum-exp, count: their number. same: the log-sum-exp of
  those with the same id. All but the first are None without eps; `same` also
  without ids.
  """

  alike: _Best
  any: _Best | None
  allowed: Lse | None
  count: jax.Array | None
  same: Lse | None


def _nothing(b: int, with_ids: bool, with_eps: bool) -> _Sums:
  zeros = jnp.zeros(b, jnp.float32)
  best = _Best(zeros + _lse.LEFT_OUT, jnp.full(b, -1, jnp.int32))
  if not with_eps:
    return _Sums(best, None, None, None, None)
  lse = _lse.nothing(zeros)
  count = jnp.zeros(b, jnp.int32)
  return _Sums(best, best, lse, count, lse if with_ids else None)


def _found(
  logits: jax.Array, noise: jax.Array, other: jax.Array,
  same: jax.Array | None, places: jax.Array, dim: int, with_eps: bool,
) -> _Sums:  # fmt: skip
  """Returns what a tile tells along a dimension, whose places these are."""
  allowed = other if same is None else other & ~same
  # Small uniform numbers are the finest, so the largest noise is.
  gumbel = -jnp.log(-jnp.log1p(-noise))
  alike = _best(logits + gumbel, allowed, places, dim)
  if not with_eps:
    return _Sums(alike, None, None, None, None)

  def lse(where: jax.Array) -> Lse:
    return _lse.of(jnp.where(where, logits, _lse.LEFT_OUT), dim)

  return _Sums(
    alike,
    _best(-noise, allowed, places, dim),
    lse(allowed),
    allowed.sum(dim, dtype=jnp.int32),
    None if same is None else lse(other & same),
  )


def _best(
  score: jax.Array, allowed: jax.Array, places: jax.Array, dim: int
) -> _Best:
  score = jnp.where(allowed, score, _lse.LEFT_OUT)
  return _Best(score.max(dim), places[score.argmax(dim)])


def _merge(a: _Sums, b: _Sums) -> _Sums:
  def best(a: _Best | None, b: _Best | None) -> _Best | None:
    if a is None:
      return None
    # Of equals the first, in whatever order they come: so that of nothing, -1,
    # stays where all are left out. NaN is never better.
    second = (b.score > a.score) | ((b.score == a.score) & (b.place < a.place))
    return _Best(*(jnp.where(second, y, x) for x, y in zip(a, b, strict=True)))

  def lse(a: Lse | None, b: Lse | None) -> Lse | None:
    return None if a is None else _lse.merge(a, b)

  count = None if a.count is None else a.count + b.count
  return _Sums(
    best(a.alike, b.alike), best(a.any, b.any),
    lse(a.allowed, b.allowed), count, lse(a.same, b.same),
  )  # fmt: skip


def _choose(
  x: _Sums, own: jax.Array, uniform: jax.Array, eps: float
) -> jax.Array:
  """Returns the place that the softmax or the eps drew."""
  left_out = own, jnp.ones_like(own)
  if x.same is not None:
    left_out = _lse.merge(left_out, x.same)
  # The mass of the allowed in the whole softmax, also where it is tiny.
  mass = jax.nn.sigmoid(_lse.minus(x.allowed, left_out[0])
                        - jnp.log(left_out[1]))  # fmt: skip
  by_softmax = uniform * (mass + eps * x.count) < mass
  return jnp.where(by_softmax, x.alike.place, x.any.place)


def _cells(key: jax.Array, *places: jax.Array) -> jax.Array:
  """Returns two random words for each combination of places, uint32 [..., 2].

  A key that is folded with a number is one block of threefry under it; no other
  way of jax.random gives the words at a place without those before.
  """
  fold = jax.random.fold_in
  for at in places:
    fold_all = jax.vmap(fold, (None, 0))
    for _ in range(key.ndim):
      fold_all = jax.vmap(fold_all, (0, None))
    key = fold_all(key, at)
  return jax.random.key_data(key)[..., :2]


def _uniform(words: jax.Array) -> jax.Array:
  """Returns numbers in (0, 1), float32, small ones as fine as 2^-32."""
  uniform = (words.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
  return jnp.minimum(uniform, 1 - 2.0**-24)
