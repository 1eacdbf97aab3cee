"""The symmetric softmax loss of CLIP (arXiv:2103.00020), in two passes."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.losses import _lse, _pairwise, _ring
from big_contrastive.losses._pairwise import Gradients, Terms
from big_contrastive.losses._ring import Axis


def loss(
  zimg: Float[Array, "b d"],
  ztxt: Float[Array, "b d"],
  *,
  scale: Float[Array, ""],
  bias: None = None,
  ids: Int[Array, "b"] | None = None,
  axis: Axis = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the CLIP loss: image to text and text to image, averaged.

  With logits = scale zimg ztxt^T: mean_i of the cross entropy of row i and of
  column i, each with target i, both with the running-maximum log-sum-exp, so
  that nothing overflows at any scale.

  Memory is O(b d). Both directions come from one set of tiles, once for the
  log-sum-exps and, under differentiation, once more for the gradients: 8 B b d
  flops a device, and none in the backward pass. It can be differentiated once,
  in reverse mode.

  Args:
    zimg, ztxt: [b, d] unit embeddings of this device's pairs; pair i is
      (zimg[i], ztxt[i]). float32 or bfloat16; logits and sums are float32.
    scale: exp of the learned log-temperature.
    bias: must be None: a softmax is blind to it.
    ids: two pairs with the same id are not each other's negatives: their
      logits are left out of both log-sum-exps.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.
  """
  if bias is not None:
    raise ValueError("softmax takes no bias: adding one changes nothing.")
  return _pairwise.loss(
    SWEEP, zimg, ztxt,
    scale=scale, bias=None, ids=ids, axis=axis, tile=tile,
  )  # fmt: skip


def chance(size: int) -> float:
  """Returns the loss of equal logits in a batch of that size."""
  return math.log(size)


def _value(x: Terms) -> jax.Array:
  _, rows, columns = _statistics(x)
  return _cross_entropy(rows, columns)


def _gradients(x: Terms) -> tuple[jax.Array, Gradients]:
  positive, rows, columns = _statistics(x)
  # 1 - p for a pair's own two probabilities p, without cancellation.
  missing = jax.nn.sigmoid(rows) + jax.nn.sigmoid(columns)
  pull = -missing / 2
  # A full log-sum-exp is positive + rest. Their sum would be rounded as
  # coarsely as the largest logit, and so would every probability.
  row_rest, column_rest = jax.nn.softplus(rows), jax.nn.softplus(columns)

  def tile(negative, row, column, dzimg, dztxt):
    zimg, row_positive, row_rest = row
    ztxt, column_positive, column_rest = column
    logits = x.scale * _pairwise.cosines(zimg, ztxt)
    of_row = (logits - row_positive[:, None]) - row_rest[:, None]
    of_column = (logits - column_positive[None, :]) - column_rest[None, :]
    p = jnp.exp(of_row) + jnp.exp(of_column)
    dlogits = jnp.where(negative, p / 2, 0.0)
    return _pairwise.pull_back(dlogits, zimg, ztxt, dzimg, dztxt)

  dzimg, dztxt = _ring.sweep(
    tile, x.ids,
    (x.zimg, positive, row_rest), (x.ztxt, positive, column_rest),
    *_pairwise.begin(x, pull),
    merge=_pairwise.add, axis=x.axis, side=x.tile,
  )  # fmt: skip
  dbias = jnp.zeros_like(x.bias)
  grads = _pairwise.end(x, pull, dzimg, dztxt, dbias)
  return _cross_entropy(rows, columns), grads


def _statistics(x: Terms) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns logits of pairs, and log-sum-exps of rows and columns, each [b].

  The log-sum-exps leave out the pair itself, and its logit is subtracted.
  """

  def tile(negative, zimg, ztxt, rows, columns):
    logits = x.scale * _pairwise.cosines(zimg, ztxt)
    logits = jnp.where(negative, logits, _lse.LEFT_OUT)
    rows = _lse.merge(rows, _lse.of(logits, 1))
    return rows, _lse.merge(columns, _lse.of(logits, 0))

  positive = x.scale * _pairwise.inner(x.zimg, x.ztxt)
  nothing = _lse.nothing(positive)
  rows, columns = _ring.sweep(
    tile, x.ids, x.zimg, x.ztxt, nothing, nothing,
    merge=_lse.merge, axis=x.axis, side=x.tile,
  )  # fmt: skip
  return positive, _lse.minus(rows, positive), _lse.minus(columns, positive)


def _cross_entropy(rows: jax.Array, columns: jax.Array) -> jax.Array:
  return (jax.nn.softplus(rows) + jax.nn.softplus(columns)) / 2


SWEEP = _pairwise.Sweep(_value, _gradients, live=1)
