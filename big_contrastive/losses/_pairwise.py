"""What the pair losses share: gradients computed in the forward pass."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from big_contrastive.losses import _ring
from big_contrastive.losses._ring import Axis

# A gradient, or None where it is not needed.
Partial = jax.Array | None


class Needs(NamedTuple):
  """Whose gradients are needed."""

  zimg: bool
  ztxt: bool


class Terms(NamedTuple):
  """The arguments of a sweep over this device's pairs.

  zimg, ztxt: [b, d], float32 or bfloat16. scale, bias: float32 scalars. ids:
  int32 [b], equal only for pairs of the global batch that are not each other's
  negatives. axis, tile: see `_ring.sweep`. needs: what `gradients` computes.
  """

  zimg: jax.Array
  ztxt: jax.Array
  scale: jax.Array
  bias: jax.Array
  ids: jax.Array
  axis: Axis
  tile: int
  needs: Needs = Needs(True, True)


class Gradients(NamedTuple):
  """Gradients of the sum of this device's terms; all float32.

  zimg and ztxt are with respect to scale * zimg and scale * ztxt; None where
  they are not needed.
  """

  zimg: Partial
  ztxt: Partial
  bias: jax.Array


class Sweep(NamedTuple):
  """A pair loss: functions of `Terms`.

  value: -> [b], one term per pair, whose mean over the global batch is the
    loss.
  gradients: -> (the same [b], Gradients), in one call.
  live: arrays of a tile's size that either holds at a time; see _ring.side.
  """

  value: Callable[[Terms], jax.Array]
  gradients: Callable[[Terms], tuple[jax.Array, Gradients]]
  live: int


def loss(
  sweep: Sweep,
  zimg: jax.Array,
  ztxt: jax.Array,
  *,
  scale: jax.Array,
  bias: jax.Array | None,
  ids: jax.Array | None,
  axis: Axis,
  tile: int | None,
) -> jax.Array:
  """Returns the mean over the global batch; see losses/ for the arguments."""
  # Shapes that merely broadcast would give a wrong loss.
  chex.assert_rank((zimg, ztxt), 2)
  chex.assert_equal_shape((zimg, ztxt))
  b, d = zimg.shape
  tile = _ring.side(b, d, sweep.live) if tile is None else tile
  if ids is None:
    ids = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b
  chex.assert_shape(ids, (b,))
  chex.assert_type(ids, int)
  bias = jnp.zeros((), jnp.float32) if bias is None else bias
  chex.assert_rank((scale, bias), 0)
  scale, bias = (jnp.asarray(x, jnp.float32) for x in (scale, bias))
  operands = _ring.varying((zimg, ztxt, scale, bias, ids), axis)
  return _ring.mean(_local((sweep, axis, tile), *operands), axis)


def cosines(zimg: jax.Array, ztxt: jax.Array) -> jax.Array:
  """Returns the products [c, c], float32 for any input dtype."""
  return jnp.einsum(
    "id,jd->ij", zimg, ztxt,
    precision="highest", preferred_element_type=jnp.float32,
  )  # fmt: skip


def begin(x: Terms, pull: jax.Array) -> tuple[Partial, Partial]:
  """Returns the gradients, [b, d] and [d, b], before any tile.

  Args:
    x: the terms.
    pull: [b], the derivative of each term by the logit of its own pair.
  """
  dzimg = pull[:, None] * x.ztxt.astype(jnp.float32) if x.needs.zimg else None
  # The texts' gradients travel, and begin with zeros: `end` adds their pull.
  dztxt = jnp.zeros(x.ztxt.shape[::-1], jnp.float32) if x.needs.ztxt else None
  return dzimg, dztxt


def pull_back(
  dlogits: jax.Array,
  zimg: jax.Array,
  ztxt: jax.Array,
  dzimg: Partial,
  dztxt: Partial,
) -> tuple[Partial, Partial]:
  """Adds a tile's share to the gradients [c, d] and [d, c]."""
  zimg, ztxt = zimg.astype(jnp.float32), ztxt.astype(jnp.float32)
  if dzimg is not None:
    dzimg += jnp.einsum("ij,jd->id", dlogits, ztxt, precision="highest")
  if dztxt is not None:
    # Transposed first, it is a plain product; without that, CPUs are slow.
    transposed = jax.lax.optimization_barrier(zimg.T)
    dztxt += jnp.einsum("di,ij->dj", transposed, dlogits, precision="highest")
  return dzimg, dztxt


def end(
  x: Terms, pull: jax.Array, dzimg: Partial, dztxt: Partial, dbias: jax.Array
) -> Gradients:
  """Returns the gradients after all tiles; see `begin`."""
  if dztxt is not None:
    dztxt = dztxt.T + pull[:, None] * x.zimg.astype(jnp.float32)
  return Gradients(dzimg, dztxt, dbias)


def inner(zimg: jax.Array, ztxt: jax.Array) -> jax.Array:
  """Returns the cosine of each pair, float32 [b]."""
  return jnp.sum(zimg.astype(jnp.float32) * ztxt.astype(jnp.float32), axis=-1)


def add(a: Any, b: Any) -> Any:
  """Adds two pytrees of sums."""
  return jax.tree.map(jnp.add, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local(plan, zimg, ztxt, scale, bias, ids):
  """Returns the mean of this device's terms."""
  sweep, axis, tile = plan
  return sweep.value(Terms(zimg, ztxt, scale, bias, ids, axis, tile)).mean()


def _forward(plan, *operands):
  sweep, axis, tile = plan
  zimg, ztxt, scale, bias, ids = (x.value for x in operands)
  # The scale's gradient needs the gradient of one side.
  texts = operands[1].perturbed
  needs = Needs(zimg=operands[0].perturbed or not texts, ztxt=texts)
  terms = Terms(zimg, ztxt, scale, bias, ids, axis, tile, needs)
  values, grads = sweep.gradients(terms)
  b = zimg.shape[0]
  # The scale multiplies every row, so its gradient needs no sum over tiles.
  side = (zimg, grads.zimg) if needs.zimg else (ztxt, grads.ztxt)
  dscale = jnp.vdot(side[0].astype(jnp.float32), side[1]) / b
  dzimg, dztxt = (
    g if g is None else g * (scale / b) for g in (grads.zimg, grads.ztxt)
  )
  residuals = only_once((dzimg, dztxt, dscale, grads.bias / b))
  # The gradients are returned in the dtype of the embeddings.
  like = [jnp.zeros((), x.dtype) for x in (zimg, ztxt)]
  return values.mean(), (residuals, like)


def _backward(plan, residuals, cotangent):
  # `_ring.mean` follows, so the cotangent is the same on all devices: it may
  # scale what other devices have added to this device's texts.
  (dzimg, dztxt, dscale, dbias), like = residuals
  dzimg, dztxt = (
    g if g is None else (g * cotangent).astype(x.dtype)
    for g, x in zip((dzimg, dztxt), like, strict=True)
  )
  return dzimg, dztxt, dscale * cotangent, dbias * cotangent, None


# Symbolic zeros mark gradients that are not needed: those of a frozen tower.
_local.defvjp(_forward, _backward, symbolic_zeros=True)


@jax.custom_jvp
def only_once(tree: Any) -> Any:
  """Returns the tree; raises NotImplementedError where it is differentiated."""
  return tree


@only_once.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
  raise NotImplementedError(
    "This loss can be differentiated once: its gradients are computed with "
    "its value, and not kept in a form that has gradients. For second "
    "derivatives write the loss densely, on a small batch."
  )
