"""A student's distributions against a teacher's, as in DINO (2104.14294)."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from big_contrastive.config import errors
from big_contrastive.losses import _classes, _pairwise, _ring
from big_contrastive.losses._ring import Axis


class Distillation(NamedTuple):
  """The loss, and what is worth logging of it, without gradients.

  loss: the mean cross entropy. entropy: the mean entropy of the teacher's
  distributions; loss - entropy is the mean KL divergence. used: float32 [k], 1
  for each class that is the largest of some row of the teacher, else 0; with
  `split`, of this device's classes.
  """

  loss: jax.Array
  entropy: jax.Array
  used: jax.Array


def loss(
  student: Float[Array, "b v w"],
  kernel: Float[Array, "w k"],
  teacher: Float[Array, "b g w"],
  teacher_kernel: Float[Array, "w k"],
  center: Float[Array, " k"],
  *,
  scale: Float[Array, ""],
  teacher_scale: Float[Array, ""],
  axis: Axis = None,
  split: str | None = None,
  tile: int | None = None,
) -> Distillation:
  """Returns the mean over images and pairs of views of CE(q_i, p_j), j != i.

  p_j = softmax(scale student_j kernel), of any of an image's v views; q_i =
  softmax(teacher_scale (teacher_i teacher_kernel - center)), of its g global
  views, which are the student's first ones. These are g (v - 1) pairs; all of a
  row's pairs share its logits, and the sum of their q.

  Teacher and center are constants. Memory is that of `tile` rows of logits and
  one gradient of the kernel; (6 v + 2 g) b w k flops a device. It can be
  differentiated once.

  Args:
    student: vectors of this device's images, float32.
    kernel: of the classes; with `split`, this device's part, as of
      teacher_kernel and center.
    teacher, teacher_kernel: the teacher's.
    center: of the teacher's logits.
    scale, teacher_scale: 1 / temperature.
    axis, split: see _classes.total.
    tile: rows of logits in memory at a time, of all views of some images; None
      for what 4 million logits are.

  Raises:
    UserError: for a number of views without a pair.
  """
  b, v, w = student.shape
  g, k = teacher.shape[1], kernel.shape[1]
  if not 1 <= g <= v or v == 1:
    allowed = f"at least 2, and the teacher's {g}"
    remedy = "Each view learns from the others."
    raise errors.UserError("the student's views", v, allowed, remedy)
  chex.assert_shape(teacher, (b, g, w))
  chex.assert_shape((kernel, teacher_kernel), (w, k))
  chex.assert_shape(center, (k,))
  chex.assert_rank((scale, teacher_scale), 0)
  rows = max(1, _classes.LOGITS // k) if tile is None else tile
  tile = min(b, max(1, rows // (v + g)))
  axes = _classes.together(axis, split)
  constants = teacher, teacher_kernel, center, scale, teacher_scale
  constants = jax.lax.stop_gradient(constants)
  operands = _ring.varying((student, kernel, *constants), axes)
  sums = _local((split, tile), *operands)
  value = sums.value
  entropy, used = jax.lax.stop_gradient((sums.entropy, sums.used))
  if axes is not None:
    value, entropy = jax.lax.psum((value, entropy), axes)
  if axis is not None:
    used = jax.lax.pmax(used, axis)
  size = b * _ring.size(axis) * g
  return Distillation(value / (size * (v - 1)), entropy / size, used)


class _Sums(NamedTuple):
  """Sums over this device's images; None where it was not asked for.

  x, kernel: gradients of the value.
  """

  value: jax.Array
  x: jax.Array | None
  kernel: jax.Array | None
  entropy: jax.Array
  used: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local(plan, *operands):
  """Returns the sums over this device's images: its share, of `split`."""
  return _sums(plan, *operands, needs=False)


def _forward(plan, *operands):
  sums = _sums(plan, *operands, needs=True)
  grads = _pairwise.only_once((sums.x, sums.kernel))
  return sums._replace(x=None, kernel=None), grads


def _backward(plan, grads, cotangent):
  return *(g * cotangent.value for g in grads), *[None] * 5


_local.defvjp(_forward, _backward)


def _sums(
  plan: tuple[str | None, int],
  x: jax.Array,
  kernel: jax.Array,
  y: jax.Array,
  teacher_kernel: jax.Array,
  center: jax.Array,
  scale: jax.Array,
  teacher_scale: jax.Array,
  needs: bool,
) -> _Sums:
  split, tile = plan
  (b, v, w), g, k = x.shape, y.shape[1], kernel.shape[1]
  count = -(-b // tile)
  tile = -(-b // count)

  def one(i: jax.Array, sums: _Sums) -> _Sums:
    at = i * tile + jnp.arange(tile)  # Those beyond the last one are no images.
    rows, targets = (a.at[at].get(mode="fill", fill_value=0) for a in (x, y))
    rows = rows.reshape(-1, w)
    t = _classes.product(targets.reshape(-1, w), teacher_kernel)
    t = (t - center[None]).reshape(tile, g, k)
    s = _classes.product(rows, kernel).reshape(tile, v, k)
    log_q, hits = _log_softmax(t, teacher_scale, split)
    log_p, _ = _log_softmax(s, scale, split)
    q = jnp.where((at < b)[:, None, None], jnp.exp(log_q), 0)
    # Each view's sum of q, without its own.
    own = jnp.pad(q, ((0, 0), (0, v - g), (0, 0)))
    wanted = q.sum(1, keepdims=True) - own
    used = (hits & (q > 0)).any((0, 1)).astype(jnp.float32)
    sums = sums._replace(
      value=sums.value - (wanted * log_p).sum(),
      entropy=sums.entropy - (q * log_q).sum(),
      used=jnp.maximum(sums.used, used),
    )
    if not needs:
      return sums
    pairs = jnp.where((at < b)[:, None], g - (jnp.arange(v) < g)[None], 0)
    grad = scale * (pairs[..., None] * jnp.exp(log_p) - wanted)
    grad = grad.reshape(-1, k)
    dx = _classes.product(grad, kernel.T).reshape(tile, v, w)
    return sums._replace(
      x=sums.x.at[at].set(dx, mode="drop"),
      kernel=sums.kernel + _classes.product(rows.T, grad),
    )

  zero, zeros = jnp.zeros((), jnp.float32), jnp.zeros(k, jnp.float32)
  grads = (jnp.zeros_like(x), jnp.zeros_like(kernel)) if needs else (None, None)
  start = _Sums(zero, *grads, zero, zeros)
  start = _ring.varying(start, _classes.varies(x, kernel))
  return jax.lax.fori_loop(0, count, one, start)


def _log_softmax(
  logits: jax.Array, scale: jax.Array, split: str | None
) -> tuple[jax.Array, jax.Array]:
  """Returns log-probabilities, and whether each is its row's largest."""
  # Scaled after the difference, that of the largest is 0 however XLA fuses it.
  logits = scale * (logits - _classes.largest(logits, split)[..., None])
  total = _classes.over(jnp.exp(logits).sum(-1), split)
  return logits - jnp.log(total)[..., None], logits == 0
