"""Softmax regression by L-BFGS, or by SGD at many learning rates at once.

Both begin at zero. Rows lie on all devices; a row whose label is NONE counts
for nothing, so that a fit to some of the rows compiles nothing new.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from big_contrastive.evals import Embed, _cosines, _linear
from big_contrastive.parallel import sharding

_TILE = 8192  # Rows at a time over all devices: memory is rows x classes.
_STEPS = 50  # Of L-BFGS at a time, between calls of embed.check.
NONE = -1  # The label of rows that are left out, and of padding.

Parameters = dict[str, jax.Array]  # "weight" [w, c] and "bias" [c].


def lbfgs(
  x: np.ndarray,
  label: np.ndarray,
  classes: int,
  l2: Sequence[float],
  embed: Embed,
  *,
  steps: int,
  tolerance: float,
) -> _linear.Classifiers:
  """Minimizes mean cross entropy + l2 / 2 |weight|^2, for each l2.

  The bias is not regularized. With scikit-learn's C, l2 = 1 / (n C). Stops at
  a gradient whose largest element is the tolerance, and warns if there was
  none after `steps`. Each l2 begins where the next larger one ended.

  Args:
    x: float32 [n, w].
    label: int [n], NONE where a row is left out.
    classes: how many there are, c.
    l2: the strengths; s of them.
    embed: its devices share the rows.
    steps: at most so many for each l2.
    tolerance: of the gradient.

  Returns:
    s classifiers, float32.
  """
  data, fitted = _tiled(x, label, embed.mesh), {}
  count = np.float32(np.sum(label != NONE))
  params = _zeros((x.shape[1], classes), embed.mesh)
  for strength in sorted(l2, reverse=True):
    # The history of one l2 says little about the next.
    state, done, best = _begin(params, embed.mesh), 0, np.inf
    while True:
      embed.check()
      params, state, taken, loss, slope = _descend(
        params, state, data, np.float32(strength), count,
        np.float32(tolerance), min(_STEPS, steps - done), embed.mesh,
      )  # fmt: skip
      done += int(taken)
      loss, slope = float(loss), float(slope)
      if slope <= tolerance or done >= steps or not loss < best:
        break  # The last: float32 has no better one.
      best = loss
    if not slope <= tolerance:
      logging.warning(
        "l2 = %g: the gradient is %.1e after %d steps of L-BFGS, not %.0e",
        strength, slope, done, tolerance,
      )  # fmt: skip
    fitted[strength] = jax.device_get(params)
  found = [fitted[strength] for strength in l2]
  return _linear.Classifiers(
    *(np.stack([p[name] for p in found]) for name in ("weight", "bias"))
  )


_SOLVER = optax.lbfgs(memory_size=10)


@functools.partial(jax.jit, static_argnames="mesh")
def _begin(params: Parameters, mesh: Mesh) -> Any:
  return _replicated(_SOLVER.init(params), mesh)


def _replicated(tree: Any, mesh: Mesh) -> Any:
  return jax.lax.with_sharding_constraint(tree, sharding.replicated(mesh))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=1)
def _descend(
  params: Parameters,
  state: Any,
  data: tuple[jax.Array, jax.Array],
  l2: jax.Array,
  n: jax.Array,
  tolerance: jax.Array,
  steps: jax.Array,
  mesh: Mesh,
) -> tuple[Parameters, Any, jax.Array, jax.Array, jax.Array]:
  """Takes steps, until the tolerance; -> params, state, steps, loss, slope."""

  def loss(params: Parameters) -> jax.Array:
    penalty = l2 / 2 * jnp.sum(params["weight"] ** 2)
    return _cross_entropy(params, data, mesh) / n + penalty

  value_and_grad = optax.value_and_grad_from_state(loss)

  def step(carry: tuple) -> tuple:
    params, state, taken, _, _ = carry
    value, grad = value_and_grad(params, state=state)
    updates, state = _SOLVER.update(
      grad, state, params, value=value, grad=grad, value_fn=loss
    )
    params = optax.apply_updates(params, updates)
    value, grad = (optax.tree.get(state, k) for k in ("value", "grad"))
    slope = optax.tree.norm(grad, ord=jnp.inf)
    return params, state, taken + 1, value, slope

  def more(carry: tuple) -> jax.Array:
    _, _, taken, _, slope = carry
    return (taken < steps) & ~(slope <= tolerance)

  none = jnp.asarray(jnp.inf, jnp.float32)
  begin = (params, state, jnp.int32(0), none, none)
  return _replicated(jax.lax.while_loop(more, step, begin), mesh)


def _cross_entropy(
  params: Parameters, data: tuple[jax.Array, jax.Array], mesh: Mesh
) -> jax.Array:
  """The sum over all rows, a tile at a time: from _tiled."""

  def here(params, x, label):
    # So that gradients are summed over devices once, not in each tile.
    params = jax.lax.pcast(params, sharding.BATCH, to="varying")

    @jax.checkpoint
    def add(total, tile):
      return total + jnp.sum(_losses(params, *tile)), None

    zero = jax.lax.pcast(jnp.float32(0), sharding.BATCH, to="varying")
    total, _ = jax.lax.scan(add, zero, (x, label))
    return jax.lax.psum(total, sharding.BATCH)

  split = PartitionSpec(None, sharding.BATCH)
  whole = PartitionSpec()
  specs = (whole, split, split)
  return jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=whole)(
    params, *data
  )


def _losses(params: Parameters, x: jax.Array, label: jax.Array) -> jax.Array:
  """Cross entropies [..., b] of rows [b, w]; 0 for padding."""
  with jax.default_matmul_precision("highest"):
    logits = jnp.einsum("bw,...wc->...bc", x, params["weight"])
  logits += params["bias"][..., None, :]
  real = label != NONE
  target = jnp.broadcast_to(jnp.where(real, label, 0), logits.shape[:-1])
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  return jnp.where(real, loss, 0.0)


def sgd(
  x: np.ndarray,
  label: np.ndarray,
  classes: int,
  rates: Sequence[float],
  embed: Embed,
  *,
  epochs: int,
  batch_size: int,
  momentum: float,
  seed: int,
) -> _linear.Classifiers:
  """Minimizes mean cross entropy by SGD, at all rates in one product.

  All see the same batches. The momentum is PyTorch's, v = momentum v + g, and
  the step rate v, where the rate is that of 256 rows, times the batch over
  256, and goes to 0 along a cosine over all steps.

  Args:
    x, label, classes, embed: see `lbfgs`.
    rates: the first learning rates, of 256 rows; s of them.
    epochs: passes over the rows, each in another order; the rows that are left
      over by whole batches are dropped.
    batch_size: rows a step; all rows, if they are fewer.
    momentum: see above.
    seed: of the orders.

  Returns:
    s classifiers, float32.
  """
  (real,) = np.nonzero(label != NONE)
  size = min(batch_size, len(real))
  in_epoch = len(real) // size
  peak = np.asarray(rates, np.float32) * np.float32(size / 256)
  shape = len(peak), x.shape[1], classes
  params, velocity = (_zeros(shape, embed.mesh) for _ in range(2))
  for step in range(epochs * in_epoch):
    if step % in_epoch == 0:
      embed.check()
      epoch = np.random.default_rng((seed, step // in_epoch))
      order = epoch.permutation(real)
    rows = order[step % in_epoch * size :][:size]
    batch = _padded(x[rows], label[rows], embed.mesh)
    done = step / (epochs * in_epoch)
    rate = peak * np.float32((1 + np.cos(np.pi * done)) / 2)
    params, velocity = _step(
      params, velocity, batch, rate, np.float32(size), np.float32(momentum),
      embed.mesh,
    )  # fmt: skip
  return _linear.Classifiers(**jax.device_get(params))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def _step(
  params: Parameters,
  velocity: Parameters,
  batch: tuple[jax.Array, jax.Array],
  rate: jax.Array,
  size: jax.Array,
  momentum: jax.Array,
  mesh: Mesh,
) -> tuple[Parameters, Parameters]:
  # Of a sum over rates, each rate's gradient is that of its own loss.
  grad = jax.grad(lambda p: jnp.sum(_losses(p, *batch)) / size)(params)
  velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grad)

  def moved(p: jax.Array, v: jax.Array) -> jax.Array:
    return p - rate.reshape((-1,) + (1,) * (p.ndim - 1)) * v

  return _replicated((jax.tree.map(moved, params, velocity), velocity), mesh)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _zeros(shape: tuple[int, ...], mesh: Mesh) -> Parameters:
  bias = (*shape[:-2], shape[-1])
  zeros = {"weight": jnp.zeros(shape), "bias": jnp.zeros(bias)}
  return _replicated(zeros, mesh)


def _tiled(
  x: np.ndarray, label: np.ndarray, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
  """Rows [tiles, rows, w] and labels [tiles, rows], the rows over devices."""
  rows = min(_TILE, len(x))
  tiles = -(-len(x) // rows)
  missing = tiles * rows - len(x)
  x = np.pad(x, ((0, missing), (0, 0))).reshape(tiles, rows, -1)
  label = np.pad(label, (0, missing), constant_values=NONE)
  return _padded(x, label.reshape(tiles, rows), mesh)


def _padded(
  x: np.ndarray, label: np.ndarray, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
  """Spreads rows [..., b, w] and labels [..., b] over the devices."""
  axis, n = label.ndim - 1, sharding.ring_size(mesh)
  missing = -label.shape[axis] % n
  widths = [(0, 0)] * axis + [(0, missing)]
  label = np.pad(label.astype(np.int32), widths, constant_values=NONE)
  return _cosines.spread(x, mesh, axis), _cosines.spread(label, mesh, axis)
