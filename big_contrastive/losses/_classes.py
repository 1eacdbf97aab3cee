"""A linear layer over many classes: value and gradients, rows by rows.

The logits of a few rows have all classes, so what a row needs of them is known
at once: their gradient is made with their value, and neither is kept. That is
6 n w V flops for value and gradients, and no n x V array. n are the rows that
weigh something: those of padding are moved behind the others, and left out.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from big_contrastive.losses import _pairwise, _ring
from big_contrastive.losses._ring import Axis

Link = Literal["softplus", "logsumexp"]
LOGITS = 2**22  # Logits in memory at a time, by default.


class Sums(NamedTuple):
  """Sums over this device's rows, and the gradient by each row's input.

  value: a scalar; x, kernel, bias: gradients, of the shapes of these; None
  where they were not asked for.
  """

  value: jax.Array
  x: jax.Array | None
  kernel: jax.Array | None
  bias: jax.Array | None


def total(
  link: Link,
  x: jax.Array,
  kernel: jax.Array,
  bias: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  mass: jax.Array,
  *,
  spread: float = 0.0,
  axis: Axis,
  split: str | None,
  tile: int | None,
) -> jax.Array:
  """Returns the sum over the rows of the global batch, a float32 scalar.

  Of a row with logits s = x kernel + bias it is
  mass (link(s) - spread sum_v s_v) - sum_j weights_j s[labels_j], where link is
  the sum of softplus or the log-sum-exp. It can be differentiated once.

  Args:
    link: see above.
    x: [b, w] of this device, float32 or bfloat16.
    kernel, bias: [w, v] and [v], this device's part of the classes.
    labels: int32 [b, k], numbers among all classes.
    weights: float32 [b, k]; 0 where there is no label. Constants.
    mass: float32 [b], a constant; a row of 0 is left out, with its weights.
    spread: of label smoothing.
    axis: mesh axis name(s) of the batch inside shard_map; None for one device.
    split: that of the classes; None where each device has all.
    tile: rows of logits in memory at a time; None for what 4 million logits
      are.
  """
  (b, w), v = x.shape, kernel.shape[1]
  chex.assert_shape(kernel, (w, v))
  chex.assert_shape(bias, (v,))
  chex.assert_equal_shape((labels, weights))
  chex.assert_shape((labels, weights), (b, None))
  chex.assert_shape(mass, (b,))
  chex.assert_type(labels, int)
  tile = max(1, min(b, LOGITS // v)) if tile is None else min(tile, b)
  axes = together(axis, split)
  constants = jax.lax.stop_gradient((weights, mass))
  operands = _ring.varying((x, kernel, bias, labels, *constants), axes)
  value = _local((link, spread, split, tile), *operands)
  return value if axes is None else jax.lax.psum(value, axes)


def together(axis: Axis, split: str | None) -> Axis:
  several = (axis,) if isinstance(axis, str) else axis or ()
  return (*several, *([split] if split else [])) or None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local(plan, *operands):
  """Returns the sum over this device's rows: its share of it, of `split`."""
  return _sums(plan, *operands, needs=False).value


def _forward(plan, *operands):
  sums = _sums(plan, *operands, needs=True)
  grads = _pairwise.only_once((sums.x, sums.kernel, sums.bias))
  like = [jnp.zeros((), x.dtype) for x in operands[:3]]
  return sums.value, (grads, like)


def _backward(plan, residuals, cotangent):
  grads, like = residuals
  scaled = (
    (g * cotangent).astype(x.dtype) for g, x in zip(grads, like, strict=True)
  )
  return (*scaled, None, None, None)


_local.defvjp(_forward, _backward)


def _sums(
  plan: tuple[Link, float, str | None, int],
  x: jax.Array,
  kernel: jax.Array,
  bias: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  mass: jax.Array,
  needs: bool,
) -> Sums:
  link, spread, split, tile = plan
  b, v = len(x), kernel.shape[1]
  first = 0 if split is None else jax.lax.axis_index(split) * v
  weighs = mass != 0
  order = jnp.argsort(~weighs, stable=True)
  # Behind the last row that weighs something there is none.
  order = jnp.where(jnp.arange(b) < weighs.sum(), order, b)
  order = jnp.pad(order, (0, -b % tile), constant_values=b)
  rows = x, labels - first, weights, mass

  def one(i: jax.Array, sums: Sums) -> Sums:
    at = jax.lax.dynamic_slice_in_dim(order, i * tile, tile)
    x, labels, weights, mass = (
      a.at[at].get(mode="fill", fill_value=0) for a in rows
    )
    logits = product(x, kernel) + bias.astype(jnp.float32)[None]
    linked, slope = _LINKS[link](logits, split)
    here = (labels >= 0) & (labels < v)
    # A place beyond the last is dropped, where -1 would be the last one.
    place = jnp.where(here, labels, v)
    at_label = jnp.take_along_axis(
      logits, place, axis=1, mode="fill", fill_value=0
    )
    own = mass * linked / _ring.size(split) - (weights * at_label).sum(-1)
    if spread:
      own -= mass * spread * logits.sum(-1)
    value = sums.value + own.sum()
    if not needs:
      return sums._replace(value=value)
    lines = jnp.arange(tile)[:, None]
    grad = mass[:, None] * (slope(logits) - spread)
    grad = grad.at[lines, place].add(-weights, mode="drop")
    dbias = sums.bias + grad.sum(0)
    grad = grad.astype(x.dtype)
    dx = sums.x.at[at].set(product(grad, kernel.T), mode="drop")
    return Sums(value, dx, sums.kernel + product(x.T, grad), dbias)

  zeros = [
    jnp.zeros(a.shape, jnp.float32) if needs else None
    for a in (x, kernel, bias)
  ]
  start = Sums(jnp.zeros((), jnp.float32), *zeros)
  start = jax.tree.map(
    lambda a: jax.lax.pcast(a, varies(x, kernel), to="varying"), start
  )
  return jax.lax.fori_loop(0, -(-weighs.sum() // tile), one, start)


def varies(*arrays: jax.Array) -> tuple[str, ...]:
  axes: dict[str, None] = {}
  for array in arrays:
    axes |= dict.fromkeys(jax.typeof(array).manual_axis_type.varying)
  return tuple(axes)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """The matrix product, float32 for any input."""
  precise = a.dtype == b.dtype == jnp.bfloat16
  a, b = (a, b) if precise else (a.astype(jnp.float32), b.astype(jnp.float32))
  return jnp.matmul(
    a, b, precision="highest", preferred_element_type=jnp.float32
  )


def over(x: jax.Array, split: str | None) -> jax.Array:
  """The sum over the devices that share the classes."""
  if split is None:
    return x
  return jax.lax.pcast(jax.lax.psum(x, split), split, to="varying")


def largest(logits: jax.Array, split: str | None) -> jax.Array:
  """The largest logit of each row, of the classes of all devices."""
  most = logits.max(-1)
  if split is None:
    return most
  return jax.lax.pcast(jax.lax.pmax(most, split), split, to="varying")


Linked = tuple[jax.Array, Callable[[jax.Array], jax.Array]]


def _softplus(logits: jax.Array, split: str | None) -> Linked:
  return over(jax.nn.softplus(logits).sum(-1), split), jax.nn.sigmoid


def _logsumexp(logits: jax.Array, split: str | None) -> Linked:
  most = largest(logits, split)
  lse = jnp.log(over(jnp.exp(logits - most[:, None]).sum(-1), split)) + most
  return lse, lambda logits: jnp.exp(logits - lse[:, None])


_LINKS: dict[Link, Callable[[jax.Array, str | None], Linked]] = {
  "softplus": _softplus, "logsumexp": _logsumexp
}  # fmt: skip
