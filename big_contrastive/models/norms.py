"""Norms of convolutions: over the batch, over an example, or none.

Batch normalization (arXiv:1502.03167) is the same on any number of devices.
"""

import functools
from typing import Any, Literal

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from big_contrastive.config import errors

# The name that policies of jax.checkpoint know means and variances by.
SAVED = "batch_statistics"

Kind = Literal["batch", "layer", "none"]


class Statistic(nnx.Variable):
  """A running statistic: no parameter, kept in the state's `extra`."""


class BatchNorm(nnx.Module):
  """Normalizes each feature over a batch and, in training, its running mean.

  In training it normalizes by the mean and variance of the global batch, or of
  groups of neighbors in it; those of a group depend on the positions in the
  batch alone, not on devices. It replaces its running statistics by
  `decay * old + (1 - decay) * new`, the variance unbiased and both averaged
  over groups, as PyTorch does (whose momentum is 1 - decay). In evaluation it
  normalizes by the running statistics. All of that is in float32.

  Args:
    width: number of features.
    group: examples that share statistics; None for all of the batch.
    scale, bias: whether it has them; they begin with 1 and 0.
    zero: whether the scale begins with 0, for the last norm of a residual
      branch.
    running: whether it keeps running statistics; without them it normalizes by
      the batch in evaluation, too.
    decay: of the running statistics.
    eps: added to the variance.
    dtype: of the result.
  """

  def __init__(
    self,
    width: int,
    *,
    group: int | None = None,
    scale: bool = True,
    bias: bool = True,
    zero: bool = False,
    running: bool = True,
    decay: float = 0.9,
    eps: float = 1e-5,
    dtype: Any = jnp.float32,
  ):
    if group is not None and group < 1:
      allowed = "a whole number from 1 up, or None"
      remedy = "None is for statistics of all of the batch."
      raise errors.UserError("norm_group", group, allowed, remedy)
    first = jnp.zeros if zero else jnp.ones
    self.scale = nnx.Param(first(width)) if scale else None
    self.bias = nnx.Param(jnp.zeros(width)) if bias else None
    self.mean = Statistic(jnp.zeros(width)) if running else None
    self.var = Statistic(jnp.ones(width)) if running else None
    self.group, self.decay, self.eps, self.dtype = group, decay, eps, dtype

  def __call__(
    self, x: Float[Array, "b *n w"], train: bool
  ) -> Float[Array, "b *n w"]:
    """Returns the normalized batch; training replaces the statistics.

    Raises:
      UserError: for a batch that is no multiple of the group.
    """
    width = x.shape[-1]
    scale = jnp.ones(width) if self.scale is None else self.scale[...]
    bias = jnp.zeros(width) if self.bias is None else self.bias[...]
    if train or self.mean is None:
      count = self._groups(x.shape[0])
      y, mean, var = _normalized(x, scale, bias, count, self.eps)
      if self.mean is not None:
        self._update(mean, var, x.size // width // count)
    else:
      mean, var = self.mean[...][None], self.var[...][None]
      gain = jax.lax.rsqrt(var + self.eps) * scale[None]
      y = x.astype(jnp.float32) - _of_examples(mean, x)
      y = y * _of_examples(gain, x) + _of_examples(bias[None], x)
    return y.astype(self.dtype)

  def _groups(self, size: int) -> int:
    """Returns the number of groups in a batch of that size."""
    if self.group is None:
      return 1
    if size % self.group:
      allowed = f"a divisor of {size}, the examples of a batch"
      remedy = "None is for statistics of all of the batch."
      raise errors.UserError("norm_group", self.group, allowed, remedy)
    return size // self.group

  def _update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
    """Replaces the running statistics; count: elements of a group."""
    mean, var = jax.lax.stop_gradient((mean.mean(0), var.mean(0)))
    unbiased = var * (count / max(1, count - 1))
    self.mean[...] = self.decay * self.mean[...] + (1 - self.decay) * mean
    self.var[...] = self.decay * self.var[...] + (1 - self.decay) * unbiased


class LayerNorm(nnx.Module):
  """Normalizes each example over all of its places and features.

  Layer normalization (arXiv:1607.06450) of a convolution's grid: a group norm
  of one group. No example sees another. In float32.

  Args:
    width: number of features, each of which has a scale and a bias.
    zero: whether the scale begins with 0.
    eps: added to the variance.
    dtype: of the result.
  """

  def __init__(
    self,
    width: int,
    *,
    zero: bool = False,
    eps: float = 1e-5,
    dtype: Any = jnp.float32,
  ):
    self.scale = nnx.Param(jnp.zeros(width) if zero else jnp.ones(width))
    self.bias = nnx.Param(jnp.zeros(width))
    self.eps, self.dtype = eps, dtype

  def __call__(
    self, x: Float[Array, "b *n w"], train: bool
  ) -> Float[Array, "b *n w"]:
    """Returns the normalized examples; in training the same."""
    y, dims = x.astype(jnp.float32), tuple(range(1, x.ndim))
    y -= y.mean(dims, keepdims=True)
    y *= jax.lax.rsqrt(jnp.square(y).mean(dims, keepdims=True) + self.eps)
    y *= _of_examples(self.scale[...][None], x)
    return (y + _of_examples(self.bias[...][None], x)).astype(self.dtype)


def norm(
  kind: Kind,
  width: int,
  *,
  group: int | None = None,
  decay: float = 0.9,
  **kwargs: Any,
) -> BatchNorm | LayerNorm | None:
  """Returns a norm of that kind; None for "none".

  Args:
    kind: "batch", "layer" or "none".
    width, kwargs: see BatchNorm and LayerNorm.
    group, decay: of batch norms alone.

  Raises:
    UserError: for a group without a batch norm.
  """
  if kind == "batch":
    return BatchNorm(width, group=group, decay=decay, **kwargs)
  if group is not None:
    allowed = f'None with norm = "{kind}"'
    remedy = "Batch norms alone have groups."
    raise errors.UserError("norm_group", group, allowed, remedy)
  return LayerNorm(width, **kwargs) if kind == "layer" else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalized(
  x: jax.Array, scale: jax.Array, bias: jax.Array, count: int, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the normalized batch, float32, and means and variances.

  Those are [count, w], of as many groups of neighbors. They have no gradient.
  """
  return _forward(x, scale, bias, count, eps)[0]


def _forward(x, scale, bias, count, eps):
  centered = x.astype(jnp.float32)
  mean = checkpoint_name(_group_means(_means(centered), count), SAVED)
  centered -= _of_examples(mean, x)
  # In two passes over the batch: one pass, over squares, would cancel.
  var = _group_means(_means(jnp.square(centered)), count)
  var = checkpoint_name(var, SAVED)
  gain = jax.lax.rsqrt(var + eps) * scale[None]
  y = centered * _of_examples(gain, x) + _of_examples(bias[None], x)
  return (y, mean, var), (x, scale, mean, var)


def _backward(count, eps, kept, gradients):
  # By hand, since autodiff takes half as many passes over the batch again.
  x, scale, mean, var = kept
  dy = gradients[0]
  gain = jax.lax.rsqrt(var + eps)
  unit = x.astype(jnp.float32) - _of_examples(mean, x)
  unit *= _of_examples(gain, x)
  first, second = _means(dy), _means(dy * unit)
  places = x.size // first.size
  of_group = (_group_means(v, count) for v in (first, second))
  shift, stretch = (_of_examples(v, x) for v in of_group)
  dx = (dy - shift - unit * stretch) * _of_examples(gain * scale[None], x)
  dscale, dbias = second.sum(0) * places, first.sum(0) * places
  return dx.astype(x.dtype), dscale, dbias


_normalized.defvjp(_forward, _backward)


def _means(x: Float[Array, "b *n w"]) -> Float[Array, "b w"]:
  """Returns the mean of each example."""
  return x.mean(tuple(range(1, x.ndim - 1)))


def _group_means(v: Float[Array, "b w"], count: int) -> Float[Array, "g w"]:
  """Returns the mean of each group of neighbors.

  Examples stay where they are: a group that lies on one device is its own
  matter, one that lies on several is summed over these.
  """
  return v.reshape(count, -1, v.shape[-1]).mean(1)


def _of_examples(
  v: Float[Array, "g w"], x: Float[Array, "b *n w"]
) -> Float[Array, "..."]:
  """Returns each example's [w], to broadcast with x: [b or 1, 1, ..., w]."""
  if len(v) > 1:
    shape = len(v), x.shape[0] // len(v), v.shape[-1]
    v = jnp.broadcast_to(v[:, None], shape).reshape(-1, v.shape[-1])
  return jnp.expand_dims(v, tuple(range(1, x.ndim - 1)))


def groups(module: nnx.Module) -> set[int | None]:
  """Returns the groups that the batch norms of a module normalize over.

  Empty for a module without any; None stands for the global batch.
  """
  return {
    m.group for _, m in nnx.iter_graph(module) if isinstance(m, BatchNorm)
  }
