"""The pairwise sigmoid loss of SigLIP (arXiv:2303.15343), in one pass."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.losses import _pairwise, _ring
from big_contrastive.losses._pairwise import Gradients, Terms
from big_contrastive.losses._ring import Axis


def loss(
  zimg: Float[Array, "b d"],
  ztxt: Float[Array, "b d"],
  *,
  scale: Float[Array, ""],
  bias: Float[Array, ""] | None = None,
  ids: Int[Array, "b"] | None = None,
  axis: Axis = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the sigmoid loss, the mean over the global batch of images.

  sum_ij -log sigmoid(s_ij (scale zimg_i . ztxt_j + bias)) / B, s_ij = 1 for
  pairs and -1 for all others: divided by B, not by B^2, as in the paper.

  Memory is O(b d). Under differentiation each tile yields its gradients with
  its values: 6 B b d flops a device, and none in the backward pass. It can be
  differentiated once, in reverse mode.

  Args:
    zimg, ztxt: [b, d] unit embeddings of this device's pairs; pair i is
      (zimg[i], ztxt[i]). float32 or bfloat16; logits and sums are float32.
    scale: exp of the learned log-temperature.
    bias: the learned bias, 0 when None.
    ids: two pairs with the same id are not each other's negatives: their
      terms are left out of the sum.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.
  """
  return _pairwise.loss(
    SWEEP, zimg, ztxt,
    scale=scale, bias=bias, ids=ids, axis=axis, tile=tile,
  )  # fmt: skip


def chance(size: int) -> float:
  """Returns the loss of the best constant logit in a batch of that size."""
  rest = size - 1
  return math.log(size) + (rest * math.log(size / rest) if rest else 0.0)


def _value(x: Terms) -> jax.Array:
  def tile(negative, zimg, ztxt, value, nothing):
    logits = x.scale * _pairwise.cosines(zimg, ztxt) + x.bias
    terms = jnp.where(negative, jax.nn.softplus(logits), 0.0)
    return value + terms.sum(axis=1), nothing

  value, _ = _ring.sweep(
    tile, x.ids, x.zimg, x.ztxt, jax.nn.softplus(-_positive(x)), (),
    merge=_pairwise.add, axis=x.axis, side=x.tile,
  )  # fmt: skip
  return value


def _gradients(x: Terms) -> tuple[jax.Array, Gradients]:
  def tile(negative, zimg, ztxt, row_sums, dztxt):
    value, dbias, dzimg = row_sums
    logits = x.scale * _pairwise.cosines(zimg, ztxt) + x.bias
    terms = jnp.where(negative, jax.nn.softplus(logits), 0.0)
    dlogits = jnp.where(negative, jax.nn.sigmoid(logits), 0.0)
    dzimg, dztxt = _pairwise.pull_back(dlogits, zimg, ztxt, dzimg, dztxt)
    value, dbias = value + terms.sum(axis=1), dbias + dlogits.sum(axis=1)
    return (value, dbias, dzimg), dztxt

  positive = _positive(x)
  pull = -jax.nn.sigmoid(-positive)
  dzimg, dztxt = _pairwise.begin(x, pull)
  (value, dbias, dzimg), dztxt = _ring.sweep(
    tile, x.ids, x.zimg, x.ztxt,
    (jax.nn.softplus(-positive), pull, dzimg), dztxt,
    merge=_pairwise.add, axis=x.axis, side=x.tile,
  )  # fmt: skip
  return value, _pairwise.end(x, pull, dzimg, dztxt, dbias.sum())


def _positive(x: Terms) -> jax.Array:
  return x.scale * _pairwise.inner(x.zimg, x.ztxt) + x.bias


SWEEP = _pairwise.Sweep(_value, _gradients, live=2)
