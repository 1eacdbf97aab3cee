"""Binary cross entropies of all classes, as CatLIP (arXiv:2404.15653)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.losses import _classes, _ring
from big_contrastive.losses._ring import Axis


def loss(
  x: Float[Array, "b w"],
  kernel: Float[Array, "w v"],
  bias: Float[Array, " v"],
  labels: Int[Array, "b k"],
  *,
  classes: int,
  axis: Axis = None,
  split: str | None = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the sum over classes of BCE(x kernel + bias, y), mean over rows.

  With logits s and labels Y it is sum_v softplus(s_v) - sum_{v in Y} s_v: the
  first sum needs no labels. Memory is that of `tile` rows of logits and one
  gradient of the kernel; 6 b w v flops a device.

  Args:
    x: features of this device's rows, float32 or bfloat16.
    kernel, bias: of the classes; with `split`, this device's part.
    labels: the classes of each row, in any order, repeated or not; numbers from
      `classes` up are none.
    classes: how many there are in all.
    axis, split, tile: see _classes.total.
  """
  labels, is_label = distinct(labels, classes)
  ones = jnp.ones(len(x), jnp.float32)
  total = _classes.total(
    "softplus", x, kernel, bias, labels, is_label.astype(jnp.float32), ones,
    axis=axis, split=split, tile=tile,
  )  # fmt: skip
  return total / (len(x) * _ring.size(axis))


def distinct(labels: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Returns each row's labels in order, and which are the first of their kind.

  Args:
    labels: int32 [b, k]; from `count` up they are no labels.
    count: of the classes.
  """
  labels = jnp.sort(labels, axis=-1)
  new = jnp.ones_like(labels, bool)
  new = new.at[:, 1:].set(labels[:, 1:] != labels[:, :-1])
  return labels, new & (labels >= 0) & (labels < count)
